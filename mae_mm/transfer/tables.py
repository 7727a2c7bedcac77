"""Tables and plots of results, and the machine and versions that they belong to."""

import os
import platform
import re
import statistics
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure

PACKAGES = ('torch', 'torchvision', 'timm', 'mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'mmsegmentation', 'numpy')


class Panel(NamedTuple):
    """One plot of a figure."""

    title: str
    points: dict[float, list[float]]  # results of all seeds, by the place on the axis
    published: dict[float, float] = {}
    baseline: Sequence[float] = ()  # results without pre-training


def markdown_table(header: Sequence[str], rows: Sequence[Sequence]) -> str:
    """Rows of cells as a markdown table."""
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join(f'| {" | ".join(map(str, line))} |' for line in lines)


def mean_and_deviation(values: Sequence[float]) -> str:
    """'26.1 ± 0.5', the sample standard deviation; without it where there is one value, '–' where there is none."""
    if len(values) < 2:
        return f'{values[0]:.1f}' if values else '–'
    return f'{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}'


def draw_plot(path: Path, panels: Sequence[Panel], xlabel: str, ylabel: str, published_axis: bool = False) -> None:
    """Draw mean and deviation; published values are crosses, with `published_axis` on a scale of their own."""
    figure = Figure(figsize=(5 * len(panels), 4), layout='constrained')
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.set(xlabel=xlabel, ylabel=ylabel, title=panel.title)
        axes.grid(alpha=0.3)
        if panel.points:
            means = [statistics.mean(found) for found in panel.points.values()]
            spread = [statistics.stdev(found) if len(found) > 1 else 0 for found in panel.points.values()]
            axes.errorbar(list(panel.points), means, spread, marker='o', capsize=3, label='this run')
        if panel.baseline:
            axes.axhline(statistics.mean(panel.baseline), color='0.5', linestyle='--', label='no pre-training')
        if panel.published:  # a few points of a curve, so no line between them
            other = axes.twinx() if published_axis else axes
            label = 'published (right axis)' if published_axis else 'published'
            other.plot(list(panel.published), list(panel.published.values()), 'x', color='tab:red', label=label)
            if published_axis:
                other.set_ylabel(f'{ylabel}, published', color='tab:red')
    handles = {handle.get_label(): handle for axes in figure.axes for handle in axes.get_legend_handles_labels()[0]}
    figure.legend(handles=list(handles.values()), loc='outside lower center', ncols=3)
    figure.savefig(path, dpi=100)


def environment() -> dict[str, str | int]:
    """The machine and the versions that results belong to."""
    cpuinfo, installed = Path('/proc/cpuinfo'), {dist.metadata['Name']: dist.version for dist in distributions()}
    cpu = re.search(r'model name\s*: (.+)', cpuinfo.read_text()) if cpuinfo.exists() else None
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu[1] if cpu else platform.machine()
    return dict(
        device=device, cores=os.cpu_count(), threads=torch.get_num_threads(), python=platform.python_version(),
        **{name: installed[name] for name in PACKAGES if name in installed})
