"""Pre-training throughput on one GPU beside mmpretrain's own MAE: images/s, memory, share of the matmul peak."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mae_mm.benchmark.gpu_check import Context
from mae_mm.benchmark.step import build_mmpretrain, build_ours, matmul, step_flops, train_step
from mae_mm.benchmark.timing import interleave
from mae_mm.transfer.tables import markdown_table

# ViT, patch size, batch, steps to time together, in the order of interest; the images/s wanted on one H200 (issue 17).
MODES = ('eager', 'compiled', 'mmpretrain')
SIZES = (
    ('base', 16, 512, MODES), ('large', 16, 512, MODES), ('huge', 14, 256, MODES), ('base', 16, 64, MODES),
    ('base', 16, 64, ('graph',)), ('base', 16, 512, ('graph',)), ('base', 16, 1024, ('compiled',)),
    ('large', 16, 256, ('graph',)), ('base', 16, 256, MODES), ('huge', 14, 512, ('compiled',)))
WANTED = dict(base=7500, large=4000, huge=1800)
ROUNDS, BURST = 4, 4  # a round is a burst of steps without a wait between them, as in training
MIN_SECONDS = 30.0  # left, to begin with another size


def table(context: Context) -> str:
    """Fill the table in the order of interest, as far as the time goes; each row is kept when it is there."""
    torch.set_float32_matmul_precision('high')
    sizes = (('tiny', 16, 2, ('eager', 'compiled', 'mmpretrain')),) if context.small else SIZES
    rows, best, skipped = [], {}, []
    for arch, patch, batch, modes in sizes:
        if context.left() < MIN_SECONDS:
            skipped.append(f'{arch} at batch {batch} ({", ".join(modes)})')
            continue
        for row in compare(context, arch, patch, batch, modes):
            row['wanted'] = WANTED.get(arch, 0)
            rows.append(row)
            context.emit(row)
            print(f'  {row["arch"]}/{row["patch"]} batch {row["batch"]:4} {row["mode"]:10} '
                  f'{row["error"] or describe(row)}', flush=True)
            if row['mode'] in ('eager', 'compiled') and not row['error']:
                best[arch] = max(best.get(arch, 0), row['images_per_second'])
    found = ', '.join(f'{arch} {rate:,.0f} images/s' for arch, rate in best.items())
    assert best, f'nothing was measured: {rows[0]["error"] if rows else "no time"}'
    return found + (f'; no time for {", ".join(skipped)}' if skipped else '')


def describe(row: dict) -> str:
    """A row in a few words."""
    return (f'{row["images_per_second"]:8,.0f} images/s ({row["low"]:,.0f}–{row["high"]:,.0f}), '
            f'{row["memory_gib"]:5.1f} GiB, {row["tflops"]:4.0f} TFLOP/s, {row["share"]:.0%} of the peak')


def compare(context: Context, arch: str, patch: int, batch: int, modes: tuple[str, ...]) -> Iterator[dict]:
    """Rows of one size and batch, timed in turn in one process; a row that does not fit says so in `error`."""
    device, img_size = context.device, 32 if context.small else 224
    imgs = torch.randint(0, 256, (batch, 3, img_size, img_size), dtype=torch.uint8)
    steps, memory, errors, warm_up = {}, {}, {}, {}
    rounds, count = (1, 1) if context.small else (ROUNDS, BURST)
    for mode in modes:
        before = allocated(device)
        start = time.perf_counter()
        try:
            steps[mode] = burst(make_step(arch, img_size, patch, imgs, mode, device), device, count)
            if device == 'cuda':
                torch.cuda.reset_peak_memory_stats()
            steps[mode]()
            memory[mode] = (allocated(device, peak=True) - before) / 2**30
        except torch.OutOfMemoryError:
            errors[mode] = 'out of memory'
        except Exception as error:
            if 'CUDA error' in str(error):
                raise
            errors[mode] = f'{type(error).__name__}: {str(error).splitlines()[0][:120]}'
        warm_up[mode] = time.perf_counter() - start
        if mode in errors:
            steps.pop(mode, None)
            free(device)
    product, product_flops = matmul(device)
    try:
        seconds = interleave({**steps, 'matmul': product}, rounds, warmup=1)
    except torch.OutOfMemoryError:  # each fits, but not all beside each other
        steps.pop('mmpretrain', None)
        errors.setdefault('mmpretrain', 'out of memory beside the others')
        free(device)
        seconds = interleave({**steps, 'matmul': product}, rounds, warmup=1)
    peak = product_flops / seconds['matmul'].median
    flops = step_flops(arch, img_size, patch)
    for mode in modes:
        row = dict(arch=arch, patch=patch, batch=batch, mode=mode, error=errors.get(mode, ''), warm_up=warm_up[mode])
        if mode in steps:
            rate = batch * count / seconds[mode].median
            row |= dict(
                images_per_second=rate, low=batch * count / seconds[mode].high, high=batch * count / seconds[mode].low,
                memory_gib=memory[mode], gflop=flops / 1e9, tflops=rate * flops / 1e12, peak_tflops=peak / 1e12,
                share=rate * flops / peak)
        yield row
    steps.clear()
    torch.compiler.reset()
    free(device)


def make_step(arch: str, img_size: int, patch: int, imgs: torch.Tensor, mode: str, device: str) -> Callable[[], None]:
    """A call that makes one optimizer step and does not wait for it.

    'graph' is the compiled step recorded as one CUDA graph, for images that are on the GPU already: what the GPU does
    where the host is no limit. Training does not use it.
    """
    build = build_mmpretrain if mode == 'mmpretrain' else build_ours
    with torch.device(device):  # random numbers for hundreds of millions of weights take long on a CPU
        model = build(arch, img_size, patch)
    if mode == 'mmpretrain':
        return train_step(model, imgs, True, False, device, wait=False)
    options = {}
    if mode == 'graph':
        imgs, options = imgs.to(device), dict(capturable=True)
    step = train_step(model, imgs, True, True, device, wait=False, **options)
    if mode != 'eager':
        compile_for(model, device)
    return record(step) if mode == 'graph' else step


def record(step: Callable[[], None], warm_up: int = 3) -> Callable[[], None]:
    """A call that replays a step, recorded as a CUDA graph after some that run as they are."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_up):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def compile_for(model: nn.Module, device: str) -> None:
    """As `mae_mm.CompileHook`; on a CPU, where nothing is measured, without a compiler's time."""
    from mae_mm.engine.hooks.compiling import compile_model

    compile_model(model, **({} if device == 'cuda' else dict(backend='aot_eager')))


def burst(step: Callable[[], None], device: str, count: int) -> Callable[[], None]:
    """Several steps, then a wait for the device."""
    def run() -> None:
        for _ in range(count):
            step()
        if device == 'cuda':
            torch.cuda.synchronize()

    return run


def allocated(device: str, peak: bool = False) -> int:
    """Bytes that tensors take on the GPU, now or at most since the last reset."""
    if device != 'cuda':
        return 0
    return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()


def free(device: str) -> None:
    """Give memory back."""
    gc.collect()
    if device == 'cuda':
        torch.cuda.empty_cache()


@contextmanager
def profiled(lines: list[str], count: int = 25) -> Iterator[None]:
    """Append the `count` kernels that take most of the GPU's time to `lines`."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        yield
        torch.cuda.synchronize()
    events = sorted(profile.key_averages(), key=lambda event: -event.device_time_total)
    total = sum(event.device_time_total for event in events)
    for event in events[:count]:
        lines.append(f'{event.device_time_total / total:6.1%} {event.device_time_total / 1e3:9.2f} ms '
                     f'{event.count:5}x  {event.key[:110]}')


def markdown(rows: list[dict]) -> str:
    """The rows as tables of docs/performance.md."""
    cells = []
    for row in rows:
        name = f'ViT-{row["arch"][0].upper()}/{row["patch"]}'
        if row['error']:
            cells.append([name, row['batch'], row['mode'], row['error'], '', '', '', ''])
            continue
        cells.append([
            name, row['batch'], row['mode'],
            f'{row["images_per_second"]:,.0f} ({row["low"]:,.0f}–{row["high"]:,.0f})', f'{row["memory_gib"]:.1f}',
            f'{row["tflops"]:.0f}', f'{row["share"]:.0%}', f'{row["wanted"]:,}' if row['wanted'] else '–'])
    peaks = [row['peak_tflops'] for row in rows if 'peak_tflops' in row]
    header = ['ViT', 'batch', 'step', 'images/s (quartiles)', 'peak GiB', 'TFLOP/s', 'of the matmul peak', 'wanted']
    lines = [markdown_table(header, cells)]
    if peaks:
        lines.append(f'bf16 matmul peak measured in the same run: {min(peaks):.0f} to {max(peaks):.0f} TFLOP/s')
    return '\n\n'.join(lines)
