"""Checkpoints by name, from a hub on this machine: everything that may go wrong is one message with a way out."""

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from helpers import ROOT
from helpers.checkpoints import HEADS, assert_same, canonical
from helpers.hub_server import TOKEN, Hub, serve
from helpers.tools import run
from mmengine.logging import HistoryBuffer, MessageHub
from safetensors.torch import save

from mae_mm.checkpoint import hub as module
from mae_mm.checkpoint import push as pushing
from mae_mm.checkpoint.contents import read_checkpoint, write_checkpoint
from mae_mm.checkpoint.convert import convert
from mae_mm.checkpoint.files import content_hash
from mae_mm.checkpoint.loading import load_pretrained
from mae_mm.paths import is_released

CARD = b'---\nlicense: cc-by-nc-4.0\n---\n# A model\n'


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Hub, str]]:
    with serve() as (hub, url):
        options = dict(endpoint=url, cache_dir=tmp_path / 'cache')
        monkeypatch.setattr(module, 'snapshot_download', partial(huggingface_hub.snapshot_download, **options))
        monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'torch'))
        monkeypatch.setattr(module.constants, 'DOWNLOAD_CHUNK_SIZE', 10_000)  # what is kept of an interrupted download
        yield hub, url


@pytest.fixture
def state(make_vit: Callable) -> dict:
    return dict(make_vit().state_dict())


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is shown when something is fetched."""
    lines = []
    monkeypatch.setattr(module, 'print_log', lambda text, *_: lines.append(text))
    return lines


def test_a_repository_is_fetched_once_and_its_licence_is_carried(
    server: tuple[Hub, str], make_mae: Callable, tmp_path: Path, shown: list[str],
) -> None:
    hub, mae = server[0], make_mae()
    write_checkpoint(canonical(mae, **HEADS, norm_pix_loss=True), tmp_path / 'hf', 'huggingface')
    hub.add('me/mae', {file.name: file.read_bytes() for file in (tmp_path / 'hf').iterdir()} | {
        'README.md': CARD, 'tf_model.h5': b'x' * 5000, 'pytorch_model.bin': b'x' * 5000})
    first = read_checkpoint('hf://me/mae')
    assert first.format == 'huggingface' and first.settings['num_heads'] == 2
    origin, = first.settings['stems_from']
    assert origin.startswith('hf://me/mae@') and origin.endswith(', licence cc-by-nc-4.0') and len(shown) == 1
    assert origin in shown[0] and not [path for _, path, _ in hub.log if path.endswith(('.h5', '.bin'))]
    assert_same(read_checkpoint('hf://me/mae').tensors, first.tensors)
    assert len(shown) == 1 and content_hash('hf://me/mae') == content_hash(tmp_path / 'hf')
    # a derived checkpoint tells it: of conversion, and of a training, whose checkpoints hold the message hub
    for form, name in (('mae_mm', 'derived.pth'), ('huggingface', 'derived')):
        write_checkpoint(first, tmp_path / name, form)
        assert read_checkpoint(tmp_path / name).settings['stems_from'] == [origin]
    MessageHub.get_instance('a training')
    load_pretrained(mae, tmp_path / 'derived.pth')
    content = dict(state_dict=mae.state_dict(), message_hub=MessageHub.get_current_instance().state_dict())
    torch.save(content, tmp_path / 'epoch_1.pth')
    assert read_checkpoint(tmp_path / 'epoch_1.pth').settings['stems_from'] == [origin]


def test_revisions_and_files(server: tuple[Hub, str], state: dict, tmp_path: Path) -> None:
    other = {name: tensor + 1 for name, tensor in state.items()}
    server[0].add('me/vit', {'model.safetensors': save(state), 'sub/best.safetensors': save(other)})
    server[0].add('me/vit', {'model.safetensors': save(other)}, 'v2')
    assert_same(read_checkpoint('hf://me/vit').tensors, state)
    for name in ('hf://me/vit@v2', 'hf://me/vit/sub/best.safetensors'):
        assert_same(read_checkpoint(name).tensors, other)
    assert read_checkpoint('hf://me/vit@v2').settings['stems_from'][0].endswith('licence not stated')


def test_pickles_are_read_as_data_alone(server: tuple[Hub, str], state: dict, tmp_path: Path) -> None:
    torch.save(dict(state_dict=state), tmp_path / 'good')
    torch.save(dict(state_dict=state, evil=print), tmp_path / 'bad')
    server[0].add('me/good', {'pytorch_model.bin': (tmp_path / 'good').read_bytes()})
    server[0].add('me/bad', {'pytorch_model.bin': (tmp_path / 'bad').read_bytes()})
    assert_same(read_checkpoint('hf://me/good').tensors, state)
    with pytest.raises(ValueError, match=r'was not loaded: it holds .*print'):
        read_checkpoint('hf://me/bad')


def test_an_interrupted_download_continues_where_it_was(server: tuple[Hub, str], state: dict) -> None:
    hub, data = server[0], save(state)
    hub.add('me/vit', {'model.safetensors': data})
    hub.cut = [50_000] * 20
    with pytest.raises(ValueError, match=r'hf://me/vit was not fetched: .*the same command continues it'):
        read_checkpoint('hf://me/vit')
    hub.cut = []
    assert_same(read_checkpoint('hf://me/vit').tensors, state)
    assert 'bytes=50000-' in [ranged for _, _, ranged in hub.log]


def test_damage_is_found_and_deleted(server: tuple[Hub, str], state: dict) -> None:
    hub = server[0]
    hub.add('me/vit', {'model.safetensors': save(state)})
    hub.damaged = {'model.safetensors'}
    with pytest.raises(ValueError, match=r'model\.safetensors arrived damaged \(SHA-256 .* was deleted; try again'):
        read_checkpoint('hf://me/vit')
    hub.damaged = set()
    assert_same(read_checkpoint('hf://me/vit').tensors, state)


def test_refusals_name_the_way_out(
    server: tuple[Hub, str], state: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = server[0]
    for repo in ('me/private', 'me/gated', 'me/vit'):
        hub.add(repo, {'model.safetensors': save(state)})
    hub.add('me/empty', {'notes.txt': b'x'})
    hub.private, hub.gated = {'me/private'}, {'me/gated'}
    for name, message in {
            'hf://me/private': r'no such repository, or it is private: .*HF_TOKEN',
            'hf://me/none': 'no such repository',
            'hf://me/gated': r'authors must grant access: accept their terms at http.*/me/gated',
            'hf://me/vit@v9': r'no such revision; see http.*/me/vit/commits',
            'hf://me/vit/none.pth': r'has no none\.pth; see its files at',
            'hf://me/empty': r'has no model\*\.safetensors or pytorch_model\*\.bin.* name one: hf://me/empty/FILE',
            'hf://me/--bad': 'was not fetched', 'hf://vit': 'must be hf://OWNER/NAME', 's3://a/b': 'not a valid name',
            'timm://vit_base_patch16_224.nothing': r'no such weights; e\.g\. timm://vit_base_patch16_224\.mae',
            f'{server[1]}/me/vit/resolve/main/none.pth': 'the server answered 404'}.items():
        with pytest.raises(ValueError, match=message):
            read_checkpoint(name)
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    assert_same(read_checkpoint('hf://me/private').tensors, state)


def test_timm_names_are_repositories_of_the_hub(server: tuple[Hub, str], state: dict) -> None:
    server[0].add('timm/vit_base_patch16_224.mae', {'model.safetensors': save(state), 'README.md': CARD})
    assert_same(read_checkpoint('timm://vit_base_patch16_224.mae').tensors, state)


def test_released_files_have_checksums_and_need_no_token(
    server: tuple[Hub, str], state: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: list[str],
) -> None:
    hub, url = server
    torch.save(dict(model=state), tmp_path / 'file')
    data = (tmp_path / 'file').read_bytes()
    hub.add('mae/pretrain', {'base.pth': data})
    release = dict(URL=f'{url}/mae/pretrain/resolve/main/base.pth', MD5=hashlib.md5(data).hexdigest()[:6])
    about = {'Licence of Released Weights': 'CC BY-NC 4.0', 'Released Weights': dict(mae_vit_base=release)}
    (tmp_path / 'pretrain').mkdir()
    (tmp_path / 'pretrain/metafile.yml').write_text(json.dumps(dict(Collections=[dict(Metadata=about)])))
    monkeypatch.setattr(module, 'CONFIGS', tmp_path)
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    hub.damaged = {'base.pth'}
    with pytest.raises(ValueError, match=r'mae_vit_base: .* arrived damaged \(MD5 .* must begin with'):
        read_checkpoint('mae_vit_base')
    hub.damaged, hub.cut = set(), [50_000]
    with pytest.raises(ValueError, match=r'mae_vit_base was not fetched: .* interrupted .* the same command continues'):
        read_checkpoint('mae_vit_base')
    checkpoint = read_checkpoint('mae_vit_base')
    assert_same(checkpoint.tensors, state)
    assert checkpoint.settings['stems_from'][0].endswith('licence CC BY-NC 4.0') and len(shown) == 1
    assert 'bytes=50000-' in [ranged for _, _, ranged in hub.log]
    assert hub.tokens == {None}  # the token is the hub's


def test_short_names_are_those_of_the_metafile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = yaml.safe_load((ROOT / 'configs/pretrain/metafile.yml').read_text())['Collections'][0]['Metadata']
    names = {f'mae_vit_{size}{full}' for size in ('base', 'large', 'huge') for full in ('', '_full')}
    assert set(about['Released Weights']) == names and all(map(is_released, names)) and not is_released('mae_vit_tiny')
    for name, release in about['Released Weights'].items():
        file = name.replace('mae_vit', 'mae_pretrain_vit')
        assert release['URL'] == f'https://dl.fbaipublicfiles.com/mae/pretrain/{file}.pth'
        assert ('MD5' in release) != name.endswith('_full')
    monkeypatch.chdir(tmp_path)
    Path('mae_vit_base').touch()
    assert not module.is_name('mae_vit_base') and module.is_name('mae_vit_large')  # files come first


def test_the_tools_take_names_and_the_offline_mode(server: tuple[Hub, str], state: dict, tmp_path: Path) -> None:
    server[0].add('me/vit', {'model.safetensors': save(state), 'README.md': CARD})
    env = dict(HF_ENDPOINT=server[1], HF_HOME=str(tmp_path / 'home'))
    command = 'tools/convert_checkpoint.py', 'hf://me/vit', '--inspect'
    offline = run(*command, **env, HF_HUB_OFFLINE='1')
    assert offline.returncode == 2 and offline.stderr.strip().splitlines()[-1].startswith(
        'error: hf://me/vit was not fetched: it is not in the cache')
    assert 'HF_HUB_OFFLINE is set' in offline.stderr
    fetched = run(*command, **env)
    assert fetched.returncode == 0 and 'stems_from         hf://me/vit@' in fetched.stdout
    again = run(*command, **{**env, 'HF_ENDPOINT': 'http://127.0.0.1:9'}, HF_HUB_OFFLINE='1')
    assert again.returncode == 0 and 'licence cc-by-nc-4.0' in again.stdout


def test_push_uploads_a_checkpoint_with_a_card(
    server: tuple[Hub, str], make_mae: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    hub, url = server
    monkeypatch.setattr(pushing, 'HfApi', partial(huggingface_hub.HfApi, endpoint=url, token=TOKEN))
    cfg = (
        "model = dict(type='mae_mm.MAE', backbone=dict(type='mae_mm.ViT', img_size=32, patch_size=8,\n"
        "    arch=dict(num_heads=2)), neck=dict(num_heads=2), mask_ratio=0.6)\n"
        "optim_wrapper = dict(optimizer=dict(type='AdamW', lr=3e-4))\n"
        "train_dataloader = dict(batch_size=32, dataset=dict(data_root='/home/me/secret/photos'))\n"
        'train_cfg = dict(max_epochs=40)\n')
    loss = HistoryBuffer()
    loss.update(0.625)
    stems = ['hf://facebook/vit-mae-base@abc, licence cc-by-nc-4.0']
    torch.save(dict(state_dict=make_mae().state_dict(), meta=dict(cfg=cfg, epoch=40), message_hub=dict(
        log_scalars={'val/loss': loss}, runtime_info={'mae_mm/stems_from': stems})), tmp_path / 'epoch_40.pth')
    (tmp_path / 'probes.md').write_text('| linear | 67.8 |\n')
    source, out = str(tmp_path / 'epoch_40.pth'), str(tmp_path / 'hf')
    options = dict(push='me/mine', results=str(tmp_path / 'probes.md'))
    convert(source, out, 'huggingface', **options)
    files = hub.repos['me/mine']['main']
    assert set(files) == {'model.safetensors', 'config.json', 'README.md'} and hub.created['private'] is True
    card = huggingface_hub.ModelCard(files['README.md'].decode())
    assert card.data.license == 'cc-by-nc-4.0' and card.data.base_model == 'facebook/vit-mae-base'
    for line in (
            '- mask_ratio: 0.6', '- lr: 0.0003', '- max_epochs: 40', '- data: photos', '- last val/loss: 0.625',
            '| linear | 67.8 |', "ViTMAEForPreTraining.from_pretrained('me/mine')", 'encoder and decoder',
            "mae_mm.load_encoder('hf://me/mine')"):
        assert line in card.content, line
    assert 'secret' not in card.content and '/me/mine' in capsys.readouterr().out
    assert_same(read_checkpoint('hf://me/mine').tensors, read_checkpoint(source).tensors)
    hub.readonly = {'me/mine'}
    with pytest.raises(ValueError, match=r'me/mine was not uploaded: the server answered 403 .* log in'):
        convert(source, out, 'huggingface', overwrite=True, **options)
    for wrong, message in ((dict(push='mine'), '--push mine must be OWNER/NAME'),
                           (dict(push='me/mine', results='none.md'), 'none.md: no such file')):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            convert(source, str(tmp_path / 'other'), 'huggingface', **wrong)
    assert not (tmp_path / 'other').exists()
