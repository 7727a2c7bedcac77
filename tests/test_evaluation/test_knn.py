"""k-NN: votes worked out by hand, chunks, features, the hook."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch.utils.data import DataLoader, Dataset

from mae_mm.evaluation import knn
from mae_mm.evaluation.knn import Features, extract_features, knn_accuracy, nearest, vote
from mae_mm.models.data_preprocessor import ImagePreprocessor
from mae_mm.registry import DATASETS


def test_votes_by_hand():
    """Similarities 0.9 (class 0), 0.8 and 0.8 (class 1): exp(0.9/t) against 2 exp(0.8/t), equal at t = 0.144."""
    similarities, labels = torch.tensor([[0.9, 0.8, 0.8]]), torch.tensor([[0, 1, 1]])
    assert vote(similarities, labels, 0.10, 3).tolist() == [0]
    assert vote(similarities, labels, 0.20, 3).tolist() == [1]
    assert vote(similarities, labels, 1e-3, 3).tolist() == [0]  # exp(900) would overflow


def test_neighbours_by_hand():
    """Training images at 0, 30, 90 and 180 degrees, of any length; a query at 50 degrees."""
    angles = torch.deg2rad(torch.tensor([0.0, 30.0, 90.0, 180.0]))
    train = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([[1.0], [20.0], [0.1], [5.0]])
    query = 7 * torch.tensor([[np.cos(np.deg2rad(50)), np.sin(np.deg2rad(50))]], dtype=torch.float32)
    similarities, neighbours = nearest(train, query, 3)
    assert neighbours.tolist() == [[1, 2, 0]]
    torch.testing.assert_close(similarities, torch.deg2rad(torch.tensor([[20.0, 40.0, 50.0]])).cos())
    # Of the labels 2, 0, 2, 1: cos 20 = 0.940 for class 0; cos 40 = 0.766 and cos 50 = 0.643 for class 2.
    labels = torch.tensor([2, 0, 2, 1])[neighbours]
    assert [vote(similarities, labels, t, 3).tolist() for t in (0.07, 1.0)] == [[0], [2]]


def test_chunks_do_not_change_the_prediction(monkeypatch):
    """Against NumPy with the whole matrix in memory."""
    generator = torch.Generator().manual_seed(0)
    train, feats = torch.randn(101, 8, generator=generator), torch.randn(37, 8, generator=generator)
    labels = torch.randint(0, 5, (101, ), generator=generator)
    monkeypatch.setattr(knn, 'TRAIN_CHUNK', 7)  # smaller than k
    monkeypatch.setattr(knn, 'QUERY_CHUNK', 10)
    a, b = (x.double().numpy() / np.linalg.norm(x.double().numpy(), axis=1, keepdims=True) for x in (feats, train))
    similarity = a @ b.T
    expected = []
    for row in similarity:
        scores = np.zeros(5)
        for i in np.argsort(-row)[:20]:
            scores[labels[i]] += np.exp(row[i] / 0.07)
        expected.append(int(scores.argmax()))
    similarities, neighbours = nearest(train, feats, 20)
    assert vote(similarities, labels[neighbours], 0.07, 5).tolist() == expected
    np.testing.assert_allclose(similarities.numpy(), -np.sort(-similarity)[:, :20], rtol=1e-5)


@pytest.mark.parametrize('k', [0, 5])
def test_impossible_k_is_refused(k):
    with pytest.raises(ValueError, match=r'choose k in 1 … 4'):
        nearest(torch.randn(4, 2), torch.randn(1, 2), k)


def test_accuracy_of_both_features():
    """The mean patch token knows the label, the class token says the opposite."""
    points = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    labels = torch.tensor([0, 0, 1, 1])
    train = Features(points, points, labels)
    accuracy = knn_accuracy(train, Features(points, points.flip(1), labels), ks=(1, 2))
    assert accuracy == {'mean_patch/k1': 100, 'mean_patch/k2': 100, 'cls_token/k1': 0, 'cls_token/k2': 0}


@DATASETS.register_module()
class TwoColours(Dataset):
    """Noise around one of two colours, the label: (3, 32, 32) uint8."""

    metainfo: dict = {}

    def __init__(self, length: int, labelled: bool = True) -> None:
        rng = np.random.default_rng(length)
        self.labelled = labelled
        self.imgs = rng.integers(0, 60, (length, 3, 32, 32), dtype=np.uint8)
        self.imgs[::2, 0] += 150
        self.imgs[1::2, 1:] += 150

    def __len__(self) -> int:
        return len(self.imgs)

    def __getitem__(self, idx: int) -> dict:
        sample = dict(inputs=torch.from_numpy(self.imgs[idx]))
        return {**sample, 'data_samples': DataSample().set_gt_label(idx % 2)} if self.labelled else sample


def loader(indices: list[int]) -> DataLoader:
    dataset = TwoColours(7)
    batches = [indices[i:i + 3] for i in range(0, len(indices), 3)]
    return DataLoader(dataset, batch_sampler=batches, collate_fn=pseudo_collate)


def test_features_are_the_encoders(make_vit):
    vit, preprocessor = make_vit(out_type='raw').eval(), ImagePreprocessor()
    features = extract_features(vit, preprocessor, loader(list(range(7))))
    batch = preprocessor(dict(inputs=torch.from_numpy(TwoColours(7).imgs)))
    with torch.no_grad():
        tokens = vit(batch['inputs'])[0]
    torch.testing.assert_close(features.mean_patch, tokens[:, 1:].mean(1))
    torch.testing.assert_close(features.cls_token, tokens[:, 0])
    assert features.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]


def test_processes_share_the_work_in_order(make_vit, monkeypatch):
    """Two ranks encode images 0 2 4 6 and 1 3 5 0 (the sampler fills up); both get 0 … 6."""
    vit, preprocessor = make_vit(out_type='raw').eval(), ImagePreprocessor()
    whole = extract_features(vit, preprocessor, loader(list(range(7))))
    other = list(extract_features(vit, preprocessor, loader([1, 3, 5, 0])))
    monkeypatch.setattr(knn, 'get_world_size', lambda: 2)
    monkeypatch.setattr(knn, 'all_gather', lambda column: [column, other.pop(0)])
    shared = extract_features(vit, preprocessor, loader([0, 2, 4, 6]))
    for actual, expected in zip(shared, whole, strict=True):
        torch.testing.assert_close(actual, expected)


def pretrain(work_dir: Path, hooks: list[dict], wrapper: dict | None = None) -> Runner:
    """Two epochs of two steps of a tiny MAE."""
    data = dict(
        batch_size=8, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='default_collate'), dataset=dict(type='mae_mm.TwoColours', length=16, labelled=False))
    runner = Runner.from_cfg(Config(dict(
        default_scope='mmpretrain', work_dir=str(work_dir), experiment_name=work_dir.name, log_level='WARNING',
        randomness=dict(seed=0), train_dataloader=data, train_cfg=dict(by_epoch=True, max_epochs=2), custom_hooks=hooks,
        model=dict(
            type='mae_mm.MAE',
            backbone=dict(type='mae_mm.ViT', arch=dict(embed_dim=32, depth=2, num_heads=2), img_size=32, patch_size=8),
            neck=dict(type='mae_mm.MAEDecoder', embed_dim=16, depth=1, num_heads=2)),
        optim_wrapper=dict({'type': 'OptimWrapper'} | (wrapper or {}), optimizer=dict(type='AdamW', lr=1e-3)),
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')], name=work_dir.name))))
    runner.train()
    return runner


def test_hook_logs_and_leaves_training_alone(tmp_path):
    """Before training, every epoch: three numbers. Weights end as without the hook, to the bit."""
    dataset = dict(type='mae_mm.TwoColours', length=12)
    hook = dict(
        type='mae_mm.KNNHook', train_dataset=dataset, val_dataset={**dataset, 'length': 6}, interval=1, k=3,
        num_workers=0)
    with_hook, without = pretrain(tmp_path / 'with', [hook]), pretrain(tmp_path / 'without', [])
    for name, value in with_hook.model.state_dict().items():
        assert torch.equal(value, without.model.state_dict()[name]), name
    assert with_hook.model.training
    lines = next((tmp_path / 'with').glob('*/vis_data/scalars.json')).read_text().splitlines()
    logged = [(row['step'], row['knn/top1']) for row in map(json.loads, lines) if 'knn/top1' in row]
    assert logged == [(0, 100.0), (1, 100.0), (2, 100.0)]  # two colours need no learning


@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
def test_hook_encodes_in_the_precision_of_the_training(tmp_path, monkeypatch, dtype):
    seen, extract = set(), knn.extract_features

    def watch(backbone, *args):
        backbone.blocks[0].register_forward_hook(lambda module, args, out: seen.add(module.mlp.fc1(out).dtype))
        return extract(backbone, *args)

    monkeypatch.setattr(knn, 'extract_features', watch)
    data = dict(type='mae_mm.TwoColours', length=4)
    hook = dict(type='mae_mm.KNNHook', train_dataset=data, val_dataset=data, interval=5, k=1, num_workers=0)
    wrapper = dict(type='mae_mm.AutocastOptimWrapper', dtype=dtype)
    pretrain(tmp_path / dtype, [hook], wrapper)
    assert seen == {getattr(torch, dtype)}


def test_hook_keeps_its_interval(tmp_path):
    dataset = dict(type='mae_mm.TwoColours', length=4)
    hook = dict(type='mae_mm.KNNHook', train_dataset=dataset, val_dataset=dataset, interval=5, k=1, num_workers=0)
    pretrain(tmp_path / 'run', [hook])
    lines = next((tmp_path / 'run').glob('*/vis_data/scalars.json')).read_text().splitlines()
    assert [row['step'] for row in map(json.loads, lines) if 'knn/top1' in row] == [0, 2]  # the last one always


def test_configs_without_labels_are_named() -> None:
    cfg = Config(dict(model=dict(type='mae_mm.MAE', backbone=dict(type='mae_mm.ViT'))))
    with pytest.raises(ValueError, match=r'no model\.head\.num_classes'):
        knn.evaluate_encoder(cfg)
