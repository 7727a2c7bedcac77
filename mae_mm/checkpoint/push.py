"""A converted checkpoint on the Hugging Face hub, with a model card that says what it is and how to load it."""

import re
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi

from mae_mm.checkpoint.contents import Checkpoint
from mae_mm.checkpoint.files import read_content
from mae_mm.checkpoint.hub import explained
from mae_mm.checkpoint.settings import recipe_of_config_text

LOADING = {  # lines by the format of the file
    'huggingface': """from transformers import {model}
model = {model}.from_pretrained('{repo}')""",
    'timm': """import timm  # num_classes=0: there is no head
from huggingface_hub import hf_hub_download
model = timm.create_model('{timm}', num_classes=0, checkpoint_path=hf_hub_download('{repo}', '{file}'))""",
    'mmpretrain': """from huggingface_hub import hf_hub_download  # in a config of mmpretrain:
init_cfg = dict(type='Pretrained', checkpoint=hf_hub_download('{repo}', '{file}'))""",
}
OURS = """import mae_mm
encoder = mae_mm.load_encoder('{name}')  # .embed_images([image, …])
# any recipe: python tools/train.py CONFIG --pretrained {name}
# transformers, timm, mmpretrain: python tools/convert_checkpoint.py {name} OUT --to FORMAT"""


def push(repo: str, out: Path, form: str, checkpoint: Checkpoint, source: str, results: str | None = None) -> str:
    """Upload a written checkpoint and its card in one commit; a new repository is private. Returns the address."""
    text = Path(results).read_text() if results else ''
    files = [out / name for name in ('config.json', 'model.safetensors')] if form == 'huggingface' else [out]
    card = model_card(repo, files[-1].name, form, checkpoint, recipe_of(read_content(source)[0]), text)
    operations = [CommitOperationAdd(file.name, str(file)) for file in files]
    operations.append(CommitOperationAdd('README.md', card.encode()))
    api = HfApi()
    with explained(repo, repo, 'uploaded'):
        url = api.create_repo(repo, private=True, exist_ok=True)
        api.create_commit(repo, operations, commit_message=f'{form} checkpoint, written by mae_mm')
    return str(url)


def recipe_of(content: Mapping) -> dict[str, object]:
    """What the file of a training tells about it; {} for other files."""
    meta = content.get('meta') if isinstance(content.get('meta'), Mapping) else {}
    found = {name: meta[name] for name in ('epoch', 'iter') if isinstance(meta.get(name), int)}
    found |= recipe_of_config_text(meta.get('cfg', ''))
    hub = content.get('message_hub')
    scalars = hub.get('log_scalars', {}) if isinstance(hub, Mapping) else {}
    for name, values in scalars.items():
        if re.fullmatch(r'(train|val|test)/(\w+/)?loss', str(name)):
            found[f'last {name}'] = f'{values.current():.4g}'
    return found


def model_card(
    repo: str, file: str, form: str, checkpoint: Checkpoint, recipe: Mapping, results: str,
) -> str:
    """The README.md of a repository."""
    origins = checkpoint.settings.get('stems_from', [])
    licences = {origin.rpartition('licence ')[2] for origin in origins}
    identifier = 'cc-by-nc-4.0' if any('NC' in each.upper() for each in licences) else (
        licences.pop() if len(licences) == 1 else None)
    bases = [origin.removeprefix('hf://').split('@')[0] for origin in origins if origin.startswith('hf://')]
    kind = 'Masked autoencoder: encoder and decoder' if checkpoint.has_decoder else 'Encoder of a masked autoencoder'
    patch_size = checkpoint.patch_size
    size = {768: 'base', 1024: 'large', 1280: 'huge'}.get(checkpoint.embed_dim)
    head = [*([f'license: {identifier}'] if identifier and identifier != 'not stated' else []),
            *([f'base_model: {base}' for base in bases[-1:]]),
            f'library_name: {dict(huggingface="transformers").get(form, form)}',
            'tags: [masked-autoencoder, mae, vision-transformer, mae_mm]']
    names = dict(
        repo=repo, file=file, timm=f'vit_{size}_patch{patch_size}_224',
        name=f'hf://{repo}' + ('' if form == 'huggingface' or file == 'model.safetensors' else f'/{file}'),
        model='ViTMAEForPreTraining' if checkpoint.has_decoder else 'ViTMAEModel')
    loading = [LOADING[form].format(**names)] if form in LOADING and (size or form != 'timm') else []
    about = [f'- {name}: {value}' for name, value in {**checkpoint.settings, **recipe}.items() if name != 'stems_from']
    parts = [
        f'---\n{chr(10).join(head)}\n---', f'# {repo.split("/")[-1]}', f'{kind}. {checkpoint}.', '## Training',
        '\n'.join(about) or 'The file does not tell.',
        '## Origin and licence', '\n'.join(f'- trained from {origin}' for origin in origins) or (
            'Trained from random weights, or from a file whose origin was not recorded.'),
        *([] if identifier else ['The licence of these weights is not stated: their author decides.']),
        *(['## Results', results.strip()] if results else []),
        '## Load', *(f'```python\n{lines}\n```' for lines in (*loading, OURS.format(**names)))]
    return '\n\n'.join(parts) + '\n'
