"""What `tools/train.py` puts into a host's config, and what it leaves."""

from mmengine.config import Config

from mae_mm.engine.reliability import make_reliable


def test_a_hosts_config_gets_the_parts_that_can_be_stopped() -> None:
    cfg = Config(dict(
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=3), optim_wrapper=dict(type='OptimWrapper'),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False)),
        train_dataloader=dict(num_workers=2), val_dataloader=dict(num_workers=0)))
    make_reliable(cfg)
    assert cfg.train_cfg == dict(type='mae_mm.IterTrainLoop', max_iters=3)
    assert cfg.optim_wrapper.type == 'mae_mm.GuardedOptimWrapper'
    assert cfg.default_hooks.checkpoint == dict(type='mae_mm.CheckpointHook', by_epoch=False)
    assert {hook.type for hook in cfg.default_hooks.values()} == {
        'mae_mm.CheckpointHook', 'mae_mm.PreemptionHook', 'mae_mm.NonFiniteHook', 'mae_mm.BadDataHook'}
    assert cfg.train_dataloader.worker_init_fn == dict(type='mae_mm.start_worker')
    assert 'worker_init_fn' not in cfg.val_dataloader


def test_without_hooks_or_type_the_defaults_of_mmengine_are_meant() -> None:
    cfg = Config(dict(train_cfg=dict(by_epoch=True, max_epochs=3), optim_wrapper=dict(optimizer=dict(type='SGD'))))
    make_reliable(cfg)
    assert cfg.train_cfg == dict(type='mae_mm.EpochTrainLoop', max_epochs=3)
    assert cfg.default_hooks.checkpoint == dict(type='mae_mm.CheckpointHook', interval=1)
    cfg = Config(dict(train_cfg=dict(by_epoch=False, max_iters=3)))
    make_reliable(cfg)
    assert cfg.train_cfg.type == 'mae_mm.IterTrainLoop'


def test_what_the_config_says_otherwise_stays() -> None:
    mine = dict(
        train_cfg=dict(type='MyLoop'), optim_wrapper=dict(type='AmpOptimWrapper'),
        default_hooks=dict(checkpoint=dict(type='MyHook'), nonfinite=None, bad_data=None, preemption=None))
    cfg = Config(mine)
    make_reliable(cfg)
    assert cfg.to_dict() == mine
    for mine in (dict(), dict(train_cfg=dict(by_epoch=True), runner_type='FlexibleRunner')):
        make_reliable(cfg := Config(mine))
        assert cfg.to_dict() == mine
