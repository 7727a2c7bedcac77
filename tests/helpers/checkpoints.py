"""What the tests of checkpoints share."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mae_mm.checkpoint import Checkpoint

HEADS = dict(num_heads=2, decoder_num_heads=2)  # of the tiny models


class Call:
    """Is unpickled as a call of a function."""

    def __init__(self, function: Callable, *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple:
        return self.call


def canonical(module: nn.Module, **settings: object) -> Checkpoint:
    """The checkpoint of a ViT or MAE in memory."""
    tensors = {name.removeprefix('backbone.').removeprefix('neck.'): t for name, t in module.state_dict().items()}
    return Checkpoint(tensors, settings=settings)


def saved(content: object, path: Path) -> Path:
    """`content` in a file of torch."""
    torch.save(content, path)
    return path


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    """Equal bit by bit."""
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype
        assert torch.equal(tensor, right[name]), name
