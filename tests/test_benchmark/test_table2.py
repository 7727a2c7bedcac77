import json
import sys

import pytest
import torch

from mae_mm.benchmark.table2 import PATCH_SIZES, ROWS, build, compare_table2, count_flops

pytestmark = pytest.mark.integration


def test_flops_by_hand():
    """A ViT-Ti on 32 px, 16-px patches: 4 patches, 1 visible, a decoder of 1 block, 512 wide."""
    def block(tokens: int, width: int, depth: int) -> int:
        return depth * 2 * (12 * tokens * width**2 + 2 * tokens**2 * width)  # qkv, proj, MLP; scores and mix

    embed, decode = 2 * 4 * 768 * 192, lambda tokens: 2 * tokens * 192 * 512 + 2 * 4 * 512 * 768 + block(5, 512, 1)
    img = torch.randn(1, 3, 32, 32)
    for mask_token, tokens in ((False, 2), (True, 5)):
        model = build('tiny', mask_token, 1, 32)
        assert count_flops(model, img) == pytest.approx(embed + block(tokens, 192, 12) + decode(tokens), rel=0.02)


def test_rows_are_the_papers():
    assert [ROWS[key] for key in ROWS] == [1.0, 2.8, 3.7, 1.0, 3.5, 4.1]
    assert PATCH_SIZES['huge'] == 14 and build('tiny', False, 1, 32).neck.decoder_embed.out_features == 512


def test_table(monkeypatch, capsys, tmp_path):
    sys.path.insert(0, 'tools')
    import benchmark

    monkeypatch.setattr(sys, 'argv', [
        'benchmark.py', 'table2', '--archs', 'tiny', '--img-size', '64', '--batch', '1', '--rounds', '2', '--json',
        str(tmp_path / 'out.json')])
    benchmark.main()
    out = capsys.readouterr().out
    assert '| ViT-tiny with [M] | 8 |' in out and '| ViT-tiny | 1 |' in out
    rows = json.loads((tmp_path / 'out.json').read_text())['rows']
    assert [(row['mask_token'], row['decoder_depth']) for row in rows] == [(True, 8), (False, 8), (False, 1)]
    assert rows[0]['speedup'] == 1 and rows[0]['gflops'] > rows[1]['gflops'] > rows[2]['gflops']
    assert all(len(row['seconds']) == 3 and row['paper'] is None for row in rows)


def test_contestants_run_in_turn(monkeypatch):
    order = []
    monkeypatch.setattr('mae_mm.benchmark.table2.forward_backward',
                        lambda model, imgs, autocast: lambda: order.append(len(model.neck.decoder_blocks)))
    compare_table2(('tiny', ), img_size=32, batch=1, rounds=2)
    assert order == [8, 8, 1] * 3
