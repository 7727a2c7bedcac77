"""Time and memory of this ViT in a detector, against mmpretrain's ViT with global attention, of equal size."""

import gc
import logging
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor, nn
from tqdm import tqdm

from mae_mm.benchmark.timing import Rounds, Timing, interleave
from mae_mm.models.archs import ARCHS, last_of_quarters
from mae_mm.paths import ROOT
from mae_mm.registry import MODELS

CONFIG = ROOT / 'configs/detection/mask_rcnn_vit_b_coco.py'
PEER = 'mmpretrain, global attention'
WINDOWS = dict(window_size=14)
OURS = {
    'windows': WINDOWS,
    'windows, relative positions': dict(WINDOWS, rel_pos=True),
    'windows, checkpointing': dict(WINDOWS, checkpointing=True),
    'windows, relative positions, checkpointing': dict(WINDOWS, rel_pos=True, checkpointing=True),
}
PARTS = ('backbone', 'detector')
WARM_UP_SIZE = 64  # pixels
NUM_OBJECTS = 8  # an image of COCO has 7 on average


def backbone_config(name: str, arch: str, size: int) -> dict:
    """The ViT of a contestant with patches of 16 px: `PEER` or a key of `OURS`."""
    dims = ARCHS[arch]
    taps = sorted(last_of_quarters(dims['depth']))
    if name == PEER:
        peer_arch = dict(
            embed_dims=dims['embed_dim'], num_layers=dims['depth'], num_heads=dims['num_heads'],
            feedforward_channels=4 * dims['embed_dim'])
        return dict(type='mmpretrain.VisionTransformer', arch=peer_arch, img_size=size, patch_size=16,
                    out_type='featmap', out_indices=taps)
    return dict(type='mae_mm.ViT', arch=arch, img_size=size, patch_size=16, out_type='featmap', out_indices=taps,
                **OURS[name])


def build_detector(name: str, arch: str, size: int, device: str) -> nn.Module:
    """Mask R-CNN with the paper's four-tap pyramid on a contestant, for images of `size` x `size` pixels."""
    init_default_scope('mmdet')
    width = ARCHS[arch]['embed_dim']
    model = Config.fromfile(CONFIG).model
    model.backbone = backbone_config(name, arch, size)
    model.neck = [dict(model.neck[0], embed_dim=width), dict(model.neck[1], in_channels=[width] * 4)]
    torch.manual_seed(0)
    detector = MODELS.build(model)
    detector.init_weights()
    return detector.to(device).train()


def make_batch(size: int, batch: int, device: str) -> tuple[Tensor, list]:
    """Noise, (N, 3, size, size) float, and for each image rectangles to find."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    rng = np.random.default_rng(0)
    samples = []
    for _ in range(batch):
        corners = rng.uniform(0, size / 2, (NUM_OBJECTS, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(size / 16, size / 2, (NUM_OBJECTS, 2))], axis=1)
        masks = np.zeros((NUM_OBJECTS, size, size), np.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
            mask[top:bottom, left:right] = 1
        shape = (size, size)
        sample = DetDataSample(metainfo=dict(img_shape=shape, batch_input_shape=shape, pad_shape=shape, img_id=0))
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32, device=device),
            labels=torch.tensor(rng.integers(0, 80, NUM_OBJECTS), device=device), masks=BitmapMasks(masks, *shape))
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4, device=device), labels=torch.zeros(0, dtype=torch.long, device=device))
        samples.append(sample)
    imgs = torch.tensor(rng.normal(size=(batch, 3, size, size)), dtype=torch.float32, device=device)
    return imgs, samples


def make_step(detector: nn.Module, part: str, imgs: Tensor, samples: list) -> Callable[[], None]:
    """A call that runs the backbone alone or the whole detector forward and backward."""

    def step() -> None:
        detector.zero_grad(set_to_none=True)
        if part == 'backbone':
            loss = sum(x.square().mean() for x in detector.backbone(imgs))
        else:
            loss, _ = detector.parse_losses(detector.loss(imgs, samples))
        loss.backward()
        if imgs.is_cuda:
            torch.cuda.synchronize()

    return step


def measure_memory(name: str, part: str, arch: str, size: int, batch: int, device: str, threads: int) -> float:
    """Peak of the memory that one step needs on top of the model, in MB (2**20 bytes): run it in a fresh process."""
    logging.disable(logging.INFO)  # initialisation, told line by line
    torch.set_num_threads(threads)
    detector = build_detector(name, arch, size, device)
    make_step(detector, part, *make_batch(WARM_UP_SIZE, 1, device))()  # load the code that a step needs
    detector.zero_grad(set_to_none=True)
    step = make_step(detector, part, *make_batch(size, batch, device))
    gc.collect()
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path('/proc/self/clear_refs').write_text('5')  # forget the peak of imports and initialisation
    before = _resident('VmRSS')
    step()
    return (_resident('VmHWM') - before) / 2**10


def _resident(key: str) -> int:
    """Resident memory of this process in kB: VmRSS now, VmHWM at its peak. Linux only."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f'{key}:'))


def compare_detectors(
    arch: str = 'base', sizes: tuple[int, ...] = (512, 1024), batch: int = 1, rounds: int | Rounds = 3,
    device: str = 'cpu',
) -> list[dict]:
    """Measure all contestants in float32 at all sizes; times are interleaved at each size.

    Returns:
        A row for each size and contestant: for each part seconds of forward and backward (`Timing`) and memory in MB,
        `speedup`, the peer's time / this time, and `memory_ratio`, this memory / the peer's.
    """
    rows = []
    for size in sizes:
        names = (PEER, *OURS)
        memory = _memory_of_all(names, arch, size, batch, device)
        seconds = _time_all(names, arch, size, batch, rounds, device)
        for name in names:
            row = dict(size=size, name=name)
            for part in PARTS:
                row[part] = dict(
                    seconds=seconds[name, part], memory_mb=memory[name, part],
                    speedup=seconds[PEER, part].median / seconds[name, part].median,
                    memory_ratio=memory[name, part] / memory[PEER, part])
            rows.append(row)
    return rows


def _time_all(
    names: tuple[str, ...], arch: str, size: int, batch: int, rounds: int | Rounds, device: str,
) -> dict[tuple[str, str], Timing]:
    imgs, samples = make_batch(size, batch, device)
    steps = {}
    for name in names:
        detector = build_detector(name, arch, size, device)
        steps.update({(name, part): make_step(detector, part, imgs, samples) for part in PARTS})
    return interleave(steps, rounds)


def _memory_of_all(
    names: tuple[str, ...], arch: str, size: int, batch: int, device: str,
) -> dict[tuple[str, str], float]:
    memory = {}
    # glibc keeps freed blocks of up to 32 MB, as their order has it; told this, it gives each freed tensor back.
    os.environ.setdefault('MALLOC_MMAP_THRESHOLD_', '65536')
    keys = [(name, part) for name in names for part in PARTS]
    for key in tqdm(keys, desc=f'memory at {size} px', unit='process', leave=False):
        with ProcessPoolExecutor(1, get_context('spawn')) as pool:  # a process for each figure
            future = pool.submit(measure_memory, *key, arch, size, batch, device, torch.get_num_threads())
            memory[key] = future.result()
    return memory
