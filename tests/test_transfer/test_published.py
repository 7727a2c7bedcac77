"""Metafiles hold what is published, and the tables of the docs are made from them."""

import pytest
from helpers import ROOT
from mmengine.fileio import dump
from modelindex.load_model_index import load as load_model_index

from mae_mm.transfer import published
from mae_mm.transfer.published import Published, fill_tables, make_table, published_metrics, read_metafiles


@pytest.fixture
def metafile(tmp_path, monkeypatch):
    """A metafile of three entries of two configs."""
    def model(name, config, architecture, tag, metrics, **more):
        about = dict(Architecture=architecture, Start='MAE', Tag=tag, Source='Table 1', **more)
        results = [dict(Task='Detection', Dataset='COCO', Metrics=metrics)]
        return dict(Name=name, Config=f'configs/a/{config}.py', Metadata=about, Results=results)

    dump({'Import': ['configs/a/metafile.yml']}, tmp_path / 'model-index.yml')
    (tmp_path / 'configs' / 'a').mkdir(parents=True)
    dump({'Models': [
        model('b', 'b', 'ViT-B', 'paper', {'box AP': 50.0, 'mask AP': 44.93}),
        model('b-2', 'b', 'ViT-B', 'release', {'box AP': 49.5}),
        model('l', 'l', 'ViT-L', 'paper', {'Top 1 Accuracy': 85.9}, Options='x=1'),
        dict(Name='pretrain', Config='configs/a/p.py', Downstream=['b'])]}, tmp_path / 'configs' / 'a' / 'metafile.yml')
    monkeypatch.setattr(published, 'ROOT', tmp_path)
    read_metafiles.cache_clear()
    yield
    read_metafiles.cache_clear()


@pytest.mark.usefixtures('metafile')
def test_reading():
    assert len(read_metafiles()) == 3
    assert read_metafiles()[2] == Published(
        'l', 'configs/a/l.py', 'ViT-L', 'MAE', 'COCO', 'paper', 'Table 1', 'x=1', {'accuracy/top1': 85.9})
    assert published_metrics('configs/a/b.py') == {'coco/bbox_mAP': 50.0, 'coco/segm_mAP': 44.93}
    assert published_metrics('configs/a/l.py', 'x=1') == {'accuracy/top1': 85.9}
    assert published_metrics('configs/a/l.py') == published_metrics('configs/a/none.py') == {}


@pytest.mark.usefixtures('metafile')
def test_tables():
    table = make_table('a/*', 'start')
    assert table == (
        '|  | ViT-B | ViT-L |\n| --- | --- | --- |\n| MAE | 50.0 / 44.93, 49.5 `release` | 85.9 |\n')
    page = 'Above.\n<!-- published: a/* by start -->\nold\n<!-- end -->\nBelow.\n'
    assert fill_tables(page) == page.replace('old\n', table)
    assert make_table('a/l.py', 'options') == '|  | ViT-L |\n| --- | --- |\n| `x=1` | 85.9 |\n'
    with pytest.raises(ValueError, match='a/none'):
        make_table('a/none*', 'start')


def test_tables_of_the_docs_are_fresh():
    """If this fails: python -m mae_mm.transfer.published."""
    pages = [path for path in (ROOT / 'docs').glob('*.md') if '<!-- published:' in path.read_text()]
    assert {'classification.md', 'detection.md', 'segmentation.md'} <= {path.name for path in pages}
    for path in pages:
        assert fill_tables(path.read_text()) == path.read_text(), f'{path.name} is stale'


def test_every_entry_names_its_config_tag_and_source():
    entries = read_metafiles()
    assert len({entry.name for entry in entries}) == len(entries) > 90
    for entry in entries:
        assert (ROOT / entry.config).is_file(), entry
        assert entry.tag in ('paper', 'release', 'reproduced') and entry.source and entry.metrics, entry
        assert all(0 < value < 100 for value in entry.metrics.values()), entry


def test_openmmlabs_own_parser_reads_the_index():
    index = load_model_index(str(ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    models = {model.name: model for model in index.models}
    assert len({model.name for model in index.models}) == len(index.models) > len(read_metafiles())
    assert models['vitdet_b_coco'].results[0].metrics == {'box AP': 51.6}
    assert models['vitdet_b_coco'].metadata.data['Tag'] == 'paper'
    assert models['vitdet_b_coco'].in_collection == 'ViTDet'
    for model in index.models:  # a pre-training recipe points to what was fine-tuned from it
        assert set(model.data.get('Downstream') or ()) <= models.keys()
