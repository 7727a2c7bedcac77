"""The head's logits and loss are float32 under autocast."""

import pytest
import torch
from mmpretrain.structures import DataSample

from mae_mm.models.heads import LinearClsHead


@pytest.mark.parametrize('loss', [dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
                                  dict(type='CrossEntropyLoss')])
def test_autocast_does_not_change_the_loss(loss):
    head = LinearClsHead(num_classes=7, in_channels=16, loss=loss)
    feats = (torch.randn(5, 16, requires_grad=True), )
    samples = [DataSample().set_gt_label(i) for i in range(5)]
    expected = head.loss(feats, samples)['loss']
    gradient = torch.autograd.grad(expected, feats[0])[0]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        actual = head.loss(feats, samples)['loss']
    assert actual.dtype == torch.float32
    assert actual == expected
    assert torch.equal(torch.autograd.grad(actual, feats[0])[0], gradient)
