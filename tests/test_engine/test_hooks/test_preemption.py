"""How processes on GPUs agree to stop: through gloo, or through their GPUs where gloo does not connect the nodes."""

import logging
from types import SimpleNamespace

import pytest
import torch

from mae_mm.engine.hooks import preemption


@pytest.mark.parametrize(('here', 'others'), [(True, True), (True, False), (False, True)])
def test_nodes_that_gloo_does_not_connect_agree_through_their_gpus(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, here: bool, others: bool,
) -> None:
    """All processes or none use the group: one that could not join it would leave the others waiting."""
    def new_group(backend: str) -> str:
        if not here:
            raise RuntimeError('connectFullMesh failed')
        return backend

    def all_reduce(flags: torch.Tensor, op: object, group: object = None) -> None:
        reduced.append((group, flags.device.type))
        flags.copy_(torch.minimum(flags, torch.tensor(others, dtype=flags.dtype)) if flags.ndim == 0 else flags)

    reduced, stops = [], []
    for name, value in dict(new_group=new_group, all_reduce=all_reduce, get_backend=lambda: 'nccl').items():
        monkeypatch.setattr(preemption.dist, name, value)
    monkeypatch.setattr(preemption, 'get_world_size', lambda: 2)
    monkeypatch.setattr(preemption, 'get_device', lambda: 'meta' if reduced else 'cpu')
    monkeypatch.setattr(preemption, 'checkpoint_hook', lambda runner: None)
    hook = preemption.PreemptionHook(interval=1)
    monkeypatch.setattr(hook, '_stop', lambda runner: stops.append(runner.iter))
    runner = SimpleNamespace(logger=logging.getLogger('gloo'), iter=4)
    hook.before_train(runner)
    hook.after_train(runner)
    joined = here and others
    assert hook.group == ('gloo' if joined else None)
    assert ('GLOO_SOCKET_IFNAME' in caplog.text) is not joined and ('connectFullMesh' in caplog.text) is not here
    if joined:  # flags of `meta` tensors have no values to read
        hook.signal = 15
        hook.after_train_iter(runner, 0)
        assert stops == [4]
    else:
        with pytest.raises((RuntimeError, NotImplementedError), match='meta'):
            hook.after_train_iter(runner, 0)
    assert reduced == [(None, 'cpu'), ('gloo', 'cpu') if joined else (None, 'meta')]
