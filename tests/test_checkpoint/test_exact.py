"""Which model a checkpoint is of."""

from collections.abc import Callable

import torch

from mae_mm.checkpoint.exact import is_pretraining
from mae_mm.models.mae import MAE


def test_pretraining_is_distinguished_from_other_models(make_mae: Callable[..., MAE]) -> None:
    mae = make_mae().state_dict()
    encoder = {key: value for key, value in mae.items() if key.startswith('backbone.')}
    assert is_pretraining(dict(state_dict=mae)) and is_pretraining(dict(state_dict=encoder))
    assert not is_pretraining(dict(state_dict={**encoder, 'roi_head.x': torch.zeros(1)}))
    assert not is_pretraining(dict(state_dict={**encoder, 'head.fc.weight': torch.zeros(2, 2)}))
    assert not is_pretraining(dict(state_dict={'backbone.conv1.weight': torch.zeros(1)}))
