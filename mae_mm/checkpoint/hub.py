"""Checkpoints by name: of the Hugging Face hub, of timm, of the MAE authors' release, and by their address.

    hf://OWNER/NAME[@REVISION][/FILE]     timm://MODEL.TAG     mae_vit_base … mae_vit_huge_full     https://…

huggingface_hub fetches all of them: its cache, token (HF_TOKEN), endpoint (HF_ENDPOINT), offline mode, retries; an
interrupted download is continued.
"""

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from huggingface_hub import ModelCard, constants, errors, get_hf_file_metadata, snapshot_download
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock
from mmengine.logging import print_log

from mae_mm.paths import CONFIGS, is_released

PARTIAL = '.partial'  # ends the names of unfinished files
WEIGHTS = (['model*.safetensors'], ['pytorch_model*.bin'])  # the first of these that a repository has
ABOUT = ['config.json', 'preprocessor_config.json', 'README.md']


class Local(NamedTuple):
    """A checkpoint on this machine."""

    path: Path  # file, or folder of transformers
    origin: str | None  # what was fetched, and its licence


def is_name(checkpoint: str | Path) -> bool:
    """Whether this is fetched; files that exist are themselves."""
    return '://' in str(checkpoint) or (is_released(checkpoint) and not Path(checkpoint).exists())


def locate(checkpoint: str | Path) -> Local:
    """The checkpoint as files here, fetched if it is a name that is not cached; a ValueError says why it cannot be.

    The licence is shown when something was fetched.
    """
    name = str(checkpoint)
    if not is_name(checkpoint):
        return Local(Path(checkpoint).expanduser(), None)
    if name.startswith('timm://'):
        local, fetched = _of_hub(f'hf://{_timm_repository(name)}', name)
    elif name.startswith('hf://'):
        local, fetched = _of_hub(name, name)
    elif is_released(name):
        about = yaml.safe_load((CONFIGS / 'pretrain/metafile.yml').read_text())['Collections'][0]['Metadata']
        release = about['Released Weights'][name]
        path, fetched = _of_address(release['URL'], release.get('MD5'), name)
        local = Local(path, f'{name} ({release["URL"]}), licence {about["Licence of Released Weights"]}')
    elif name.startswith(('http://', 'https://')):
        return Local(_of_address(name, None, name)[0], None)
    else:
        raise ValueError(
            f'{name} is not a valid name of a checkpoint: hf://OWNER/NAME[@REVISION][/FILE], timm://MODEL.TAG, or an '
            'http(s) address')
    if fetched:
        print_log(f'fetched {local.origin}', 'current', logging.WARNING)
    return local


def _of_hub(address: str, name: str) -> tuple[Local, bool]:
    """Files of a repository in huggingface_hub's cache, and whether any was missing there."""
    parts = re.fullmatch(r'hf://([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?', address)
    if not parts:
        raise ValueError(f'{name} is not a valid name: it must be hf://OWNER/NAME[@REVISION][/FILE]')
    repo, revision, file = parts.groups()
    before = set()
    with suppress(errors.LocalEntryNotFoundError, errors.HFValidationError):
        before = _blobs(snapshot_download(repo, revision=revision, local_files_only=True))
    with explained(name, repo):
        for patterns in ([[file]] if file else WEIGHTS):
            folder = Path(snapshot_download(repo, revision=revision, allow_patterns=[*patterns, *ABOUT]))
            found = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
            if found:
                break
        else:
            wanted = file or 'model*.safetensors or pytorch_model*.bin'
            raise ValueError(
                f'{name} has no {wanted}' + (' in the cache, and HF_HUB_OFFLINE is set' * constants.HF_HUB_OFFLINE)
                + f'; see its files at {constants.ENDPOINT}/{repo}, and name one: hf://{repo}/FILE')
    for path in found:
        if path.resolve() not in before:
            _check_sha256(path, name)
    card = folder / 'README.md'
    licence = card.is_file() and ModelCard(card.read_text()).data.get('license')
    origin = f'hf://{repo}@{folder.name}, licence {licence or "not stated"}'
    return Local(found[0] if file else folder, origin), any(path.resolve() not in before for path in found)


def _check_sha256(path: Path, name: str) -> None:
    """Compare a large file that was just fetched with its checksum, the name of its blob, and delete it if wrong."""
    blob = path.resolve()
    if re.fullmatch('[0-9a-f]{64}', blob.name) and (found := digest([blob], 'sha256')) != blob.name:
        blob.unlink()
        path.unlink()
        raise ValueError(
            f'{name}: {path.name} arrived damaged (SHA-256 {found[:9]}…, must be {blob.name[:9]}…) and was deleted; '
            'try again')


def _of_address(url: str, md5: str | None, name: str) -> tuple[Path, bool]:
    """A file in torch.hub's cache, complete and, if the start of its MD5 is known, right; whether it was missing."""
    key = f'{hashlib.sha256(url.encode()).hexdigest()[:12]}-{url.split("?")[0].rsplit("/", 1)[-1]}'
    path = Path(torch.hub.get_dir()) / 'checkpoints' / key
    if path.exists():
        return path, False
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    with WeakFileLock(f'{path}.lock'), explained(name, url):  # several processes of a training
        if path.exists():
            return path, False
        size = get_hf_file_metadata(url, token=False).size  # any server's, which must not see the token
        with open(partial, 'ab') as file:
            if size is None or file.tell() != size:
                http_get(url, file, resume_size=file.tell(), expected_size=size, displayed_filename=path.name)
        if md5 and not (found := digest([partial], 'md5')).startswith(md5):
            partial.unlink()
            raise ValueError(
                f'{name}: {url} arrived damaged (MD5 {found[:12]}…, must begin with {md5}) and was deleted; try again')
        partial.replace(path)
    return path, True


def _timm_repository(name: str) -> str:
    import timm

    model, cfg = name.removeprefix('timm://'), None
    with suppress(RuntimeError):  # no such tag
        cfg = timm.models.get_pretrained_cfg(model)
    if cfg is None or not cfg.hf_hub_id:
        known = timm.list_models(f'{model.partition(".")[0][:14]}*.mae', pretrained=True)
        raise ValueError(f'{name}: timm has no such weights; e.g. timm://{(known or ["vit_base_patch16_224.mae"])[0]}')
    return cfg.hf_hub_id


@contextmanager
def explained(name: str, where: str, what: str = 'fetched') -> Iterator[None]:
    """Turn what goes wrong on the network into one message with a way out."""
    try:
        yield
    except errors.HFValidationError as error:
        reason = f'{error}'
    except errors.GatedRepoError:
        reason = (f'its authors must grant access: accept their terms at {constants.ENDPOINT}/{where}, then log in (hf '
                  'auth login, or HF_TOKEN)')
    except errors.RepositoryNotFoundError:
        reason = 'there is no such repository, or it is private: check the name, or log in (hf auth login, or HF_TOKEN)'
    except errors.RevisionNotFoundError:
        reason = f'it has no such revision; see {constants.ENDPOINT}/{where}/commits/main'
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        why = 'HF_HUB_OFFLINE is set' if constants.HF_HUB_OFFLINE else 'the server cannot be reached'
        reason = (f'it is not in the cache ({constants.HF_HUB_CACHE}), and {why}. Fetch it where there is a network '
                  'and copy the cache or the file, or give the path of a file')
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, 'status_code', '?')
        reason = f'the server answered {status} ({where}); ' + (
            'log in (hf auth login, or HF_TOKEN)' if status in (401, 403) else 'check the name, or try again later')
    except OSError as error:
        if error.errno is not None and not isinstance(error, ConnectionError):
            raise  # of the disk
        reason = (f'{where} cannot be reached, or the transfer was interrupted ({type(error).__name__}); '
                  'the same command continues it')
    else:
        return
    raise ValueError(f'{name} was not {what}: {reason}')


def _blobs(folder: str) -> set[Path]:
    return {path.resolve() for path in Path(folder).rglob('*')}


def digest(paths: Sequence[Path], kind: str) -> str:
    """Of the bytes of files, one after the other, which may be larger than memory."""
    total = hashlib.new(kind)
    for path in paths:
        with path.open('rb') as file:
            for part in iter(partial(file.read, 1 << 24), b''):
                total.update(part)
    return total.hexdigest()
