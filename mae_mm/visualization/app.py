"""What the page of `tools/app.py` shows, as HTML: a function of what it sends. Only checkpoints are kept between calls.

The page itself, in Gradio, is in `app_page.py`.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from jinja2 import Template
from torch import Tensor

from mae_mm.datasets.limits import FORMATS, check_bytes
from mae_mm.evaluation.feature_file import open_features
from mae_mm.visualization.app_masks import MAX_BOARD, choose_mask, fit
from mae_mm.visualization.app_viewer import MISTAKES, Features, Section, Viewer, png_uri, stored_size
from mae_mm.visualization.panels import photos_of

MAX_ASPECT = 50  # longer side / shorter side: the image is resized until the shorter one covers the model's


class Viewers:
    """All checkpoints of a page, by the name under which it offers them."""

    def __init__(self, checkpoints: Sequence[str], features: Sequence[str] = (), device: str = 'cpu') -> None:
        pairs = pair(checkpoints)
        names = short_names([checkpoint for _, checkpoint in pairs])
        self.by_name = {name: Viewer(checkpoint, config, device) for name, (config, checkpoint) in zip(
            names, pairs, strict=True)}
        self.template = Template((Path(__file__).parent / 'app.html').read_text(), autoescape=True)
        for path in features:
            opened = Features(*open_features(path))
            if not any([viewer.use_features(path, opened) for viewer in self.by_name.values()]):
                raise ValueError(f'--features {path} was made by another checkpoint, or with --size; write it with '
                                 'tools/embed.py CHECKPOINT, one of those on the page')

    @property
    def reconstructing(self) -> list[str]:
        return [name for name, viewer in self.by_name.items() if viewer.model]

    def board(
        self, path: str | None, names: Sequence[str], sampler: str, ratio: float, seed: float, painted: object,
    ) -> dict | None:
        """What the board shows: a picture, a mask as rows * cols times 0 or 1, and how many strokes it has seen."""
        viewer = next((self.by_name[name] for name in names if self.by_name[name].model), None)
        if not path or not viewer:
            return None
        try:
            check_image(path)
            imgs = viewer.load(path)
            grid = tuple(min(side, MAX_BOARD) for side in viewer.grid(imgs))
            mask = fit(choose_mask(viewer.grid(imgs), sampler, ratio, seed, painted), viewer.grid(imgs), grid)
            photo = photos_of(imgs, getattr(viewer.model.backbone, 'bands', None))[0]
        except MISTAKES:
            return None
        bits = ''.join(str(int(bit)) for bit in mask[0])
        strokes = painted.get('strokes') if isinstance(painted, dict) else None
        return dict(rows=grid[0], cols=grid[1], picture=png_uri(photo), mask=bits, strokes=strokes or 0)

    def reconstructions(
        self, path: str | None, names: Sequence[str], sampler: str, ratio: float, seed: float, painted: object,
    ) -> str:
        """The reconstructions of the checkpoints that have a decoder, side by side, under one mask."""
        def choose(grid: tuple[int, int]) -> Tensor:
            return choose_mask(grid, sampler, ratio, seed, painted)

        return self.page(path, {name: lambda viewer=self.by_name[name]: [viewer.reconstruction(path, choose)]
                                for name in names if self.by_name[name].model})

    def views(self, path: str | None, names: Sequence[str]) -> str:
        """What the checkpoints show of the whole image, side by side."""
        return self.page(path, {name: lambda viewer=self.by_name[name]: viewer.views(path) for name in names})

    def page(self, path: str | None, actions: dict[str, Callable[[], list[Section]]]) -> str:
        """HTML of the parts that the actions return, by name; a mistake becomes a message in their place."""
        shown, problems = {}, {}
        try:
            if path:
                check_image(path)
        except ValueError as error:
            return self.template.render(problems={message_of(error, path): []})
        for name, action in actions.items() if path else ():
            try:
                shown[name] = action()
            except MISTAKES as error:
                problems.setdefault(message_of(error, path), []).append(name)
        return self.template.render(shown=shown, problems=problems)


def pair(arguments: Sequence[str]) -> list[tuple[str | None, str]]:
    """Checkpoints with the config that stands before them, if one does."""
    pairs: list[tuple[str | None, str]] = []
    config = None
    for argument in [*arguments, '']:
        if config and (not argument or argument.endswith('.py')):
            raise ValueError(f'{config} is a config: give its checkpoint after it')
        if argument.endswith('.py'):
            config = argument
        elif argument:
            pairs.append((config, argument))
            config = None
    if len({checkpoint for _, checkpoint in pairs}) < len(pairs):
        raise ValueError('a checkpoint is given twice')
    return pairs


def short_names(paths: Sequence[str]) -> list[str]:
    """The last part of each path, or the last two, or all of it: so much that they differ."""
    for count in (1, 2):
        names = ['/'.join(re.split('/+', path)[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return list(paths)


def check_image(path: str) -> None:
    """Refuse what is not an image, or would not fit into memory when it is resized."""
    try:
        check_bytes(os.path.getsize(path))
        width, height = stored_size(path)
    except Exception as error:  # Pillow's plugins raise whatever their parsers raise
        why = f'{error}' if 'cannot identify' not in f'{error}' else (
            f'supported are {", ".join(FORMATS)}; tools/visualize.py and predict.py read more')
        raise ValueError(f'{path} cannot be read as an image: {why}') from error
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f'{path} has {width:,} x {height:,} pixels; no side may be over {MAX_ASPECT} times the other')


def message_of(error: Exception, path: str) -> str:
    """An error for people: where the server keeps the file does not concern them."""
    text = 'not enough memory for this image' if isinstance(error, MemoryError) else f'{error}'.strip()
    return (text or type(error).__name__).replace(str(path), Path(path).name)
