"""The verdict on data of one's own as one HTML page, a plot, a table and `verdict.json`."""

import json
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Template
from matplotlib.figure import Figure

from mae_mm.transfer.probing import describe, make_table, probe_rows
from mae_mm.transfer.report import embed
from mae_mm.transfer.tables import environment, markdown_table

PAGE = Path(__file__).parent / 'verdict.html'


def write_verdict(
    out: Path, summary: dict, copies: Sequence[str] = (), pairs: Sequence[str] = (), probes: dict | None = None,
) -> None:
    """Write `verdict.json`, `verdict.md`, `plot.png` and `report.html`.

    Args:
        summary: from `own_data.compare_starts`.
        copies, pairs: sentences about test images that have been seen before, and files of pictures of them.
        probes: from `probing.probe_checkpoints`, of the same images.
    """
    out.mkdir(parents=True, exist_ok=True)
    summary = dict(summary, copies=list(copies), environment=environment(), **(dict(probes=probes) if probes else {}))
    (out / 'verdict.json').write_text(json.dumps(summary, indent=2) + '\n')
    header, rows = table(summary)
    sentences = '\n'.join(f'- {line}' for line in (*summary['verdict'], *copies))
    frozen = f'\nFrozen encoders, probed:\n\n{make_table(probes)}' if probes else ''
    (out / 'verdict.md').write_text(f'{sentences}\n\n{markdown_table(header, rows)}\n{frozen}')
    draw(out / 'plot.png', summary)
    page = Template(PAGE.read_text(), autoescape=True)
    (out / 'report.html').write_text(page.render(
        summary, header=header, rows=rows, plot=embed(out / 'plot.png', 1600),
        pairs=[embed(Path(one)) for one in pairs],
        frozen=[describe(probes), *probe_rows(probes)] if probes else None,
        examples={start: [embed(Path(one)) for one in files] for start, files in summary['pictures'].items() if files}),
        encoding='utf-8')


def table(summary: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows: metric and interval of each start at each number of labels."""
    curves = summary['curves']
    header = ['start', *(f'{number} labels' for number in next(iter(curves.values()))['labels'])]
    rows = [[name, *(f'{value:.1f} ({low:.1f}–{high:.1f})' for value, (low, high) in
                     zip(curve['values'], curve['intervals'], strict=True))] for name, curve in curves.items()]
    return header, rows


def draw(path: Path, summary: dict) -> None:
    """The metric over the number of labels, with intervals; what has no encoder is dashed."""
    figure = Figure(figsize=(8, 4.8), layout='constrained')
    axes = figure.subplots()
    for name, curve in summary['curves'].items():
        low, high = zip(*curve['intervals'], strict=True)
        style = '-o' if name in summary['starts'] else '--x'
        line, = axes.plot(curve['labels'], curve['values'], style, label=name)
        axes.fill_between(curve['labels'], low, high, color=line.get_color(), alpha=0.12)
    axes.set(xscale='log', xlabel='labelled training images', ylabel=f'{summary["metric"]} on test images, %')
    axes.set_xticks(curve['labels'], [str(number) for number in curve['labels']], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)
