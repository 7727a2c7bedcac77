"""Checks of single training steps: no wait for the GPU, every part trains, NaN, compilations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from mae_mm.benchmark.gpu_check import Context, SkipCheck
from mae_mm.benchmark.gpu_runs import CONFIGS, demo_data
from mae_mm.engine import reliability
from mae_mm.engine import runner as launch
from mae_mm.models.attention import Block
from mae_mm.registry import MODELS

TINY = dict(embed_dim=96, depth=2, num_heads=3)
WARM_UP = 2  # steps that allocate, choose kernels and may wait


@contextmanager
def no_waiting(device: str) -> Iterator[None]:
    """Whatever makes the host wait for the GPU raises RuntimeError."""
    if device == 'cuda':
        torch.cuda.set_sync_debug_mode('error')
    try:
        yield
    finally:
        if device == 'cuda':
            torch.cuda.set_sync_debug_mode('default')


def optim_wrapper(model: nn.Module, autocast: bool = True, fused: bool = True, **options) -> object:
    """The wrapper of `configs/mae_pretrain.py` with a constant lr."""
    precision = dict(type='mae_mm.AutocastOptimWrapper', dtype='bfloat16') if autocast else dict(
        type='mae_mm.GuardedOptimWrapper')
    return build_optim_wrapper(model, dict(
        **precision,
        optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=fused),
        constructor='mae_mm.LayerDecayOptimWrapperConstructor', **options))


def tiny_mae(device: str, img_size: int = 64, **options) -> nn.Module:
    """A small masked autoencoder, initialised, on the device."""
    model = MODELS.build({
        'type': 'mae_mm.MAE', 'backbone': dict(type='mae_mm.ViT', arch=TINY, img_size=img_size, patch_size=8),
        'neck': dict(type='mae_mm.MAEDecoder', embed_dim=48, depth=2, num_heads=3), **options})
    model.init_weights()
    return model.to(device).train()


def batch(device: str, size: int = 64, num: int = 8) -> dict:
    """uint8 noise as a loader gives it."""
    imgs = torch.randint(0, 256, (num, 3, size, size), dtype=torch.uint8)
    return dict(inputs=imgs.pin_memory() if device == 'cuda' else imgs)


class _Watch(Hook):
    """Forbid waiting from one iteration to another."""

    priority = 'VERY_HIGH'

    def __init__(self, device: str, first: int, last: int) -> None:
        self.device, self.first, self.last = device, first, last
        self.watched = 0

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        inside = self.first <= runner.iter < self.last
        self.watched += inside
        if self.device == 'cuda':
            torch.cuda.set_sync_debug_mode('error' if inside else 'default')


def no_sync(context: Context) -> str:
    """The runner, loop, hooks and optimizer of `configs/mae_pretrain.py`; logs are read after the watched steps."""
    if context.device == 'cuda':
        with no_waiting('cuda'):
            try:
                torch.ones(1, device='cuda').item()
            except RuntimeError:
                pass
            else:
                raise AssertionError('a planted .item() was not noticed')
    data = demo_data(context) / 'flat' / 'train'
    steps = 3 if context.small else 20
    options = {
        'train_dataloader.dataset.data_root': str(data), 'train_dataloader.dataset.cache': 'memory',
        'train_dataloader.batch_size': 8 if context.small else 256,
        'train_dataloader.num_workers': 2 if context.small else 8, 'optim_wrapper.clip_grad': dict(max_norm=1.0),
        'param_scheduler': [dict(type='LinearLR', start_factor=1e-4, by_epoch=False, end=steps)],
        'default_hooks.logger.interval': 1000, 'default_hooks.nonfinite.interval': 1000,
        'default_hooks.checkpoint.interval': 1000, 'custom_hooks': [], 'work_dir': str(context.folder / 'sync'),
        'visualizer': None}
    if context.small:
        options |= {'model.backbone': dict(arch=dict(_delete_=True, **TINY), img_size=48, patch_size=8),
                    'model.neck': dict(embed_dim=48, depth=1, num_heads=3),
                    'train_dataloader.dataset.pipeline': [dict(type='mae_mm.LoadRandomResizedCrop', size=48)]}
    cfg = launch.load_config(str(CONFIGS / 'mae_pretrain.py'), options)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    cfg.train_cfg = dict(type='mae_mm.IterTrainLoop', max_iters=steps + WARM_UP + 1)
    cfg.launcher = 'none'
    reliability.make_reliable(cfg)
    watch = _Watch(context.device, WARM_UP, WARM_UP + steps)
    runner = launch.build_runner(cfg)
    runner.register_hook(watch)
    try:
        runner.train()
    finally:
        if context.device == 'cuda':
            torch.cuda.set_sync_debug_mode('default')
    hub = runner.message_hub
    loss, norm = (hub.get_scalar(f'train/{name}').current() for name in ('loss', 'grad_norm'))
    assert watch.watched == steps and loss < 10 and norm > 0, (watch.watched, loss, norm)
    assert context.device == 'cpu' or next(runner.model.parameters()).is_cuda
    how = 'none waited' if context.device == 'cuda' else 'a CPU cannot tell whether one would wait'
    return (f'{steps} steps of batch {cfg.train_dataloader.batch_size}, hooks and clipping included: {how}; '
            f'loss {loss:.3f}')


def variants() -> dict[str, Callable[[str], nn.Module]]:
    """Name -> a function that builds a model on a device: each decoder, target and sampler."""
    def with_pca(device: str) -> nn.Module:
        model = tiny_mae(device, target=dict(type='mae_mm.PCATarget', num_values=24))
        size = model.target_generator.components.shape[1]
        model.target_generator.set_components(torch.zeros(size), torch.eye(size)[:24], torch.ones(24))
        return model

    def with_tokens(device: str) -> nn.Module:
        model = MODELS.build(dict(
            type='mae_mm.MAE', backbone=dict(type='mae_mm.ViT', arch=TINY, img_size=64, patch_size=8),
            neck=dict(type='mae_mm.MAEDecoder', embed_dim=48, depth=2, num_heads=3),
            target=dict(type='mae_mm.TokenTarget', num_values=512)))
        model.target_generator._is_init = True  # random tokens: their weights are a download
        model.init_weights()
        return model.to(device).train()

    def convolutions(device: str) -> nn.Module:
        model = MODELS.build(dict(
            type='mae_mm.MaskedConv', backbone=dict(type='mmpretrain.ResNet', depth=18),
            neck=dict(type='mae_mm.ConvDecoder', in_channels=512, embed_dim=64)))
        model.init_weights()
        return model.to(device).train()

    def tiny(**options) -> Callable[[str], nn.Module]:
        return lambda device: tiny_mae(device, **options)

    small = dict(embed_dim=48, depth=2, num_heads=3)
    return {
        'full decoder': tiny(), 'partial decoder': tiny(neck=dict(type='mae_mm.PartialDecoder', **small)),
        'cross decoder': tiny(neck=dict(type='mae_mm.CrossDecoder', **small)),
        'raw pixels, L1': tiny(norm_pix_loss=False, loss_type='l1'), 'loss on all': tiny(loss_on='all'),
        'PCA target': with_pca, 'token target': with_tokens, 'block masks': tiny(mask_sampling='block'),
        'grid masks': tiny(mask_sampling='grid'), '[M] in the encoder': tiny(mask_token=True),
        'checkpointing': tiny(backbone=dict(
            type='mae_mm.ViT', arch=TINY, img_size=64, patch_size=8, checkpointing=True)),
        'convolutions': convolutions}


def parts(context: Context) -> str:
    """Three steps of each; after the first no step may wait, and every weight must have moved."""
    faults, chosen = [], variants()
    for name, build in chosen.items():
        try:
            model = build(context.device)
            wrapper, data = optim_wrapper(model), batch(context.device)
            before = {key: param.detach().clone() for key, param in model.named_parameters() if param.requires_grad}
            losses = [model.train_step(data, wrapper)['loss']]
            with no_waiting(context.device):
                losses += [model.train_step(data, wrapper)['loss'] for _ in range(2)]
            assert torch.stack(losses).isfinite().all(), f'losses {losses}'
            after = dict(model.named_parameters())
            still = {key for key, old in before.items() if torch.equal(after[key], old)}
            if name == '[M] in the encoder':
                still -= {'neck.mask_token'}  # the decoder is given no gap to fill
            assert not still, f'weights without a step: {sorted(still)[:3]}'
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            if 'CUDA error' in str(error):
                raise
            faults.append(f'{name}: {str(error).splitlines()[0][:150]}')
    assert not faults, '; '.join(faults)
    return f'{len(chosen)} kinds: {", ".join(chosen)}'


def nan(context: Context) -> str:
    """One infinite pixel: weights and optimizer state stay, the flag is up, and the next good step moves them."""
    for fused in (True, False):
        model = tiny_mae(context.device)
        wrapper = optim_wrapper(model, fused=fused)
        good, bad = batch(context.device), batch(context.device)
        bad['inputs'] = bad['inputs'].float()
        bad['inputs'][0, 0, 0, 0] = float('inf')
        model.train_step(good, wrapper)
        before = snapshot(model, wrapper)
        model.train_step(bad, wrapper)
        assert wrapper.bad_step.item(), 'the bad step was not noticed'
        assert all(torch.equal(one, other) for one, other in zip(before, snapshot(model, wrapper), strict=True)), \
            f'a step was taken on a loss that is not finite (fused={fused})'
        model.train_step(good, wrapper)
        assert not wrapper.bad_step.item()
        after = snapshot(model, wrapper)
        assert all(one.isfinite().all() for one in after) and not torch.equal(before[-1], after[-1])
    return 'weights and optimizer state stay to the bit, fused and not; the next step is taken'


def snapshot(model: nn.Module, wrapper: object) -> list[Tensor]:
    """Copies of all weights and all of the optimizer's state."""
    state = [value for slot in wrapper.optimizer.state.values() for value in slot.values()]
    return [value.detach().clone() for value in (*state, *(p for p in model.parameters() if p.requires_grad))]


def compiling(context: Context) -> str:
    """Graphs counted by Dynamo, two stacks and four parts around them; losses and gradients beside the eager ones."""
    from mae_mm.engine.hooks.compiling import compile_model, why_not

    reason = '' if context.small else why_not(torch.device(context.device))
    if reason:
        raise SkipCheck(f'torch.compile does not work here: {reason}')
    depth = 4 if context.small else 6
    dims = dict(TINY, depth=depth) if context.small else dict(embed_dim=384, depth=depth, num_heads=6)
    size = 32 if context.small else 224
    # Without a compiler's time: the graphs are Dynamo's, whatever runs them.
    backend = 'aot_eager' if context.small else 'inductor'
    autoencoder = MODELS.build(dict(
        type='mae_mm.MAE', backbone=dict(type='mae_mm.ViT', arch=dims, img_size=size, patch_size=16),
        neck=dict(type='mae_mm.MAEDecoder', embed_dim=192, depth=4, num_heads=6)))
    imgs = torch.randn(8, 3, size, size, device=context.device)
    noise = torch.rand(8, (size // 16)**2, device=context.device)
    found = []
    for name, model, run, graphs, same in (
        ('MAE', autoencoder, lambda model: model.loss(imgs, noise=noise)['loss'], 2 + 4, True),
        ('drop path', MODELS.build(dict(
            type='mae_mm.ViT', arch=dims, img_size=size, patch_size=16, drop_path_rate=0.3)),
            lambda model: model(imgs)[0].float().square().mean(), 1 + 1, False),
    ):
        model.init_weights()
        model.to(context.device).train()
        eager = loss_and_gradient(model, run, context.device)
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        compile_model(model, backend=backend)
        compiled = loss_and_gradient(model, run, context.device)
        loss_and_gradient(model, run, context.device)
        counters = torch._dynamo.utils.counters
        count, breaks = counters['stats']['unique_graphs'], sum(counters['graph_break'].values())
        blocks = sum(isinstance(module, Block) for module in model.modules())
        found.append(f'{name}: {count} graphs for {blocks} blocks, {breaks} breaks')
        assert count == graphs and not breaks, f'{found[-1]}; wanted {graphs} graphs: {dict(counters["graph_break"])}'
        if same:
            errors = [((one - other).norm() / other.norm()).item() for one, other in zip(compiled, eager, strict=True)]
            found[-1] += f', loss and gradient differ by {errors[0]:.1e} and {errors[1]:.1e}'
            assert errors[0] < 5e-3 and errors[1] < 5e-2, found[-1]
        torch.compiler.reset()
    return '; '.join(found)


def loss_and_gradient(model: nn.Module, run: Callable[[nn.Module], Tensor], device: str) -> tuple[Tensor, Tensor]:
    """Loss and the whole gradient as one vector, under bfloat16 autocast."""
    model.zero_grad()
    with torch.autocast(device, torch.bfloat16):
        loss = run(model)
    loss.backward()
    return loss.detach().float(), torch.cat([
        param.grad.float().flatten() for param in model.parameters() if param.grad is not None])
