"""One self-contained HTML page of what a checkpoint is worth: tables, curves, pictures, configs, environment."""

import json
from datetime import datetime, timezone
from pathlib import Path

from jinja2 import Template  # torch requires it, so it is always there; and it escapes what goes into the page
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mmengine.config import Config
from PIL import Image

import mae_mm
from mae_mm.checkpoint.contents import Checkpoint, read_checkpoint
from mae_mm.datasets.find import EXTENSIONS
from mae_mm.transfer.tables import environment
from mae_mm.transfer.types import Run, Suite
from mae_mm.visualization.panels import load_images, load_model, reconstruction_panel
from mae_mm.visualization.pictures import data_uri, list_images

PICTURE_SIDE = 480  # pixels: pictures are shrunk to it, so that the page can be mailed
LINES = dict(random=('random weights', 'tab:gray'), mae=('MAE', 'tab:blue'))


def write_report(
    path: Path, checkpoint: str, suites: dict[str, Suite], summaries: dict[str, dict], failures: dict[str, str],
) -> None:
    """Write the page and `results.json` beside it, where folder NAME has the runs of suite NAME."""
    weights, machine = read_checkpoint(checkpoint), environment()
    sections = [section(name, suites[name], summary, path.parent / name) for name, summary in summaries.items()]
    page = Template((Path(__file__).parent / 'report.html').read_text(), autoescape=True).render(
        checkpoint=checkpoint, description=str(weights), failures=failures, sections=sections,
        sha256=next((summary['checkpoint_sha256'] for summary in summaries.values()), ''),
        date=datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC'), version=mae_mm.__version__,
        panel=panel(weights, checkpoint), pretraining=embed(Path(checkpoint).parent / 'curve.png'),
        environment=machine)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding='utf-8')
    figures = dict(checkpoint=checkpoint, suites=summaries, failed=failures, environment=machine)
    path.with_name('results.json').write_text(json.dumps(figures, indent=2) + '\n')


def section(name: str, suite: Suite, summary: dict, folder: Path) -> dict:
    """What the page shows of a suite."""
    first = [folder / Run(name, start, 0).name for name in sorted(suite.protocols) for start in suite.starts]
    return dict(
        name=name, caption=summary['caption'], rows=summary['rows'], plot=embed(folder / 'plot.png'),
        curves=curves(suite, summary['seeds'], folder),
        pictures=[embed(picture) for run in first for picture in sorted(run.glob('pictures/*.png'))],
        configs={run.name: config.read_text() for run in first for config in sorted(run.glob('*.py'))[-1:]})


def curves(suite: Suite, seeds: int, folder: Path) -> str | None:
    """Training losses of all runs, a panel for each protocol, as an image for the page; None if nothing was trained."""
    losses = {name: [(start, points) for start in suite.starts for seed in range(seeds)
                     if (points := read_losses(folder / Run(name, start, seed).name))] for name in suite.protocols}
    losses = {name: runs for name, runs in losses.items() if runs}
    if not losses:
        return None
    figure = Figure(figsize=(3.2 * len(losses), 2.6), layout='constrained')
    for axes, (name, runs) in zip(figure.subplots(1, len(losses), squeeze=False)[0], losses.items(), strict=True):
        for start, points in runs:
            axes.plot(*zip(*points, strict=True), color=LINES[start][1], alpha=0.8)
        axes.set(title=suite.protocols[name].title, xlabel='iteration', ylabel='training loss')
        axes.grid(alpha=0.3)
        axes.legend(handles=[Patch(label=LINES[start][0], color=LINES[start][1]) for start in suite.starts])
    return data_uri(figure.savefig, 'svg')


def read_losses(run: Path) -> list[tuple[int, float]]:
    """(iteration, loss) of the newest training in a folder of runs."""
    files = sorted(run.glob('*/vis_data/scalars.json'))
    points = [json.loads(line) for line in files[-1].read_text().splitlines()] if files else []
    return [(point['step'], point['loss']) for point in points if 'loss' in point]


def panel(weights: Checkpoint, path: str, num: int = 4) -> str | None:
    """Reconstructions of held-out images of the pre-training, if decoder, images and its config are there."""
    folder = Path(path).parent
    config = next(folder.glob('*.py'), None)
    if not (weights.has_decoder and config and (folder / 'last_checkpoint').exists()):
        return None  # outside a work folder a Python file may be anything, and would be run
    cfg = Config.fromfile(config)
    dataset = (cfg.get('val_dataloader') or {}).get('dataset') or {}
    if not Path(dataset.get('data_root', '')).is_dir():
        return None
    paths = list_images([dataset['data_root']], num, dataset.get('extensions', EXTENSIONS))
    images = load_images(dataset['pipeline'], paths)
    return data_uri(Image.fromarray(reconstruction_panel(load_model(cfg, path), images)).save, 'png')


def embed(path: Path, side: int = PICTURE_SIDE) -> str | None:
    """A picture, shrunk where it is higher than `side`, as text that stands inside the page; None if there is none."""
    if not path.exists():
        return None
    image = Image.open(path).convert('RGB')
    image.thumbnail((2 * side, side))
    return data_uri(image.save, 'png')
