"""One self-contained HTML page of what a checkpoint is worth: tables, curves, pictures, configs, environment."""

import base64
import io
import json
import subprocess
from datetime import datetime, timezone
from pathlib import Path

from jinja2 import Template  # torch requires it, so it is always there; and it escapes what goes into the page
from matplotlib.figure import Figure
from mmengine.config import Config
from PIL import Image

import mae_mm
from mae_mm.checkpoint.contents import Checkpoint, read_checkpoint
from mae_mm.transfer.tables import environment
from mae_mm.transfer.types import STARTS, Run, Suite
from mae_mm.visualization.panels import list_images, load_images, load_model, reconstruction_panel

PICTURE_SIDE = 480  # pixels: pictures are shrunk to it, so that the page can be mailed
COLOURS = dict(zip(STARTS, ('tab:gray', 'tab:blue'), strict=True))


def write_report(
    path: Path, checkpoint: str, suites: dict[str, Suite], summaries: dict[str, dict], failures: dict[str, str],
) -> None:
    """Write the page and, beside it, `results.json`.

    Args:
        path: the page; the runs of suite NAME are in the folder NAME beside it.
        suites, summaries: what was compared and what came out, by name; suites that failed have no summary.
        failures: error by the name of the suite or run.
    """
    weights, machine = read_checkpoint(checkpoint), environment()
    sections = [section(name, suites[name], summary, path.parent / name) for name, summary in summaries.items()]
    page = Template((Path(__file__).parent / 'report.html').read_text(), autoescape=True).render(
        checkpoint=checkpoint, description=str(weights), failures=failures, sections=sections,
        sha256=next((summary['checkpoint_sha256'] for summary in summaries.values()), ''),
        date=datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC'), version=mae_mm.__version__, commit=commit(),
        panel=panel(weights, checkpoint), pretraining=embed(Path(checkpoint).parent / 'curve.png'),
        environment=machine)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding='utf-8')
    figures = dict(checkpoint=checkpoint, suites=summaries, failed=failures, environment=machine)
    path.with_name('results.json').write_text(json.dumps(figures, indent=2) + '\n')


def section(name: str, suite: Suite, summary: dict, folder: Path) -> dict:
    """What the page shows of a suite: of the runs in its table, not of others that the folder may hold from before."""
    first = [folder / Run(name, start, 0).name for name in sorted(suite.protocols) for start in suite.starts]
    pictures = [picture for run in first for picture in sorted(run.glob('pictures/*.png'))]
    configs = {run.name: max(run.glob('*.py'), default=None) for run in first}
    return dict(
        name=name, caption=summary['caption'], rows=summary['rows'], plot=embed(folder / 'plot.png'),
        curves=curves(suite, summary['seeds'], folder),
        pictures=[embed(picture) for picture in pictures],
        configs={run: config.read_text() for run, config in configs.items() if config})


def curves(suite: Suite, seeds: int, folder: Path) -> str | None:
    """Training losses of all runs, a panel for each protocol, as an image for the page; None if nothing was trained."""
    losses = {name: {start: [read_losses(folder / Run(name, start, seed).name) for seed in range(seeds)]
                     for start in suite.starts} for name in suite.protocols}
    losses = {name: row for name, row in losses.items() if any(any(runs) for runs in row.values())}
    if not losses:
        return None
    figure = Figure(figsize=(3.2 * len(losses), 2.6), layout='constrained')
    for axes, (name, row) in zip(figure.subplots(1, len(losses), squeeze=False)[0], losses.items(), strict=True):
        for start, runs in row.items():
            for i, points in enumerate(filter(None, runs)):
                label = dict(random='random weights', mae='MAE')[start] if i == 0 else None
                axes.plot(*zip(*points, strict=True), color=COLOURS[start], alpha=0.8, label=label)
        axes.set(title=suite.protocols[name].title, xlabel='iteration', ylabel='training loss')
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(buffer := io.BytesIO(), format='svg')
    return data_uri(buffer.getvalue(), 'svg+xml')


def read_losses(run: Path) -> list[tuple[int, float]]:
    """(iteration, loss) of the newest training in a folder of runs."""
    files = sorted(run.glob('*/vis_data/scalars.json'))
    points = [json.loads(line) for line in files[-1].read_text().splitlines()] if files else []
    return [(point['step'], point['loss']) for point in points if 'loss' in point]


def panel(weights: Checkpoint, path: str, num: int = 4) -> str | None:
    """Reconstructions of held-out images of the pre-training, if decoder, images and its config are there."""
    folder = Path(path).parent
    config = next(folder.glob('*.py'), None)
    is_work_folder = (folder / 'last_checkpoint').exists()  # elsewhere a Python file may be anything, and would be run
    if not weights.has_decoder or config is None or not is_work_folder:
        return None
    cfg = Config.fromfile(config)
    dataset = (cfg.get('val_dataloader') or {}).get('dataset') or {}
    if not Path(dataset.get('data_root', '')).is_dir():
        return None
    images = load_images(dataset['pipeline'], list_images([dataset['data_root']], num))
    picture = reconstruction_panel(load_model(cfg, path), images)
    Image.fromarray(picture).save(buffer := io.BytesIO(), 'png')
    return data_uri(buffer.getvalue(), 'png')


def embed(path: Path) -> str | None:
    """A picture, shrunk where it is large, as text that stands inside the page; None if there is none."""
    if not path.exists():
        return None
    image = Image.open(path).convert('RGB')
    image.thumbnail((2 * PICTURE_SIDE, PICTURE_SIDE))
    image.save(buffer := io.BytesIO(), 'png')
    return data_uri(buffer.getvalue(), 'png')


def data_uri(content: bytes, kind: str) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'


def commit() -> str | None:
    """The commit of this checkout, if it is one."""
    result = subprocess.run(
        ['git', 'describe', '--always', '--dirty'], cwd=Path(__file__).parent, capture_output=True, text=True)
    return result.stdout.strip() if result.returncode == 0 else None
