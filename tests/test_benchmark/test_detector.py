"""The comparison of ViTs inside Mask R-CNN compares equals, and measures what it says."""

import subprocess
import sys

import pytest
import torch
from helpers import ROOT
from mmengine.registry import init_default_scope

from mae_mm.benchmark.detector import OURS, PEER, backbone_config, build_detector, make_batch, make_step
from mae_mm.registry import MODELS

pytestmark = pytest.mark.integration


def test_contestants_have_equal_blocks_taps_and_maps() -> None:
    init_default_scope('mmdet')
    expected = None
    for name in (PEER, *OURS):
        vit = MODELS.build(backbone_config(name, 'tiny', 64))
        blocks = vit.layers if name == PEER else vit.blocks
        sizes = [sum(param.numel() for key, param in block.named_parameters() if 'rel_pos' not in key)
                 for block in blocks]
        vit.eval()  # mmpretrain's returns None
        maps = [tuple(x.shape) for x in vit(torch.zeros(1, 3, 64, 64))]
        assert maps == [(1, 192, 4, 4)] * 4
        expected = expected or sizes
        assert sizes == expected and len(sizes) == 12
        assert any('rel_pos' in key for key, _ in vit.named_parameters()) == ('relative' in name)


@pytest.mark.parametrize('name', [PEER, 'windows, relative positions, checkpointing'])
def test_a_step_goes_through_all_of_its_part(name: str) -> None:
    detector = build_detector(name, 'tiny', 64, 'cpu')
    batch = make_batch(64, 1, 'cpu')
    make_step(detector, 'backbone', *batch)()
    trained = {key.split('.')[0] for key, param in detector.named_parameters() if param.grad is not None}
    assert trained == {'backbone'}
    make_step(detector, 'detector', *batch)()
    trained = {key.split('.')[0] for key, param in detector.named_parameters() if param.grad is not None}
    assert trained == {'backbone', 'neck', 'rpn_head', 'roi_head'}
    assert all(param.grad is not None for param in detector.backbone.parameters() if param.requires_grad)


@pytest.mark.slow
def test_memory_of_a_step() -> None:
    """Recomputed activations need less; a fresh process for each figure."""
    code = ('from mae_mm.benchmark.detector import measure_memory as m; '
            "print('MB', m({!r}, 'backbone', 'tiny', 512, 1, 'cpu', 1))")
    figures = []
    for name in ('windows', 'windows, checkpointing'):
        out = subprocess.run([sys.executable, '-c', code.format(name)], cwd=ROOT, text=True, capture_output=True)
        assert out.returncode == 0, out.stderr[-2000:]
        figures.append(float(out.stdout.split('MB')[-1]))
    # 12 blocks keep about 20 numbers a token and channel for the backward pass.
    assert figures[0] > 12 * 1024 * 192 * 20 * 4 / 2**20 * 0.5
    assert figures[1] < 0.7 * figures[0]
