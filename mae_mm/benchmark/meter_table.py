"""What meters are worth: rank correlation with accuracy, and what is lost by choosing a checkpoint by a meter."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import kendalltau
from tqdm import tqdm

from mae_mm.checkpoint.files import write_beside
from mae_mm.transfer.tables import markdown_table

ACCURACIES = {'finetune': 'fine-tuning', 'linear': 'linear probing'}
SUBSET = 5  # checkpoints that a user chooses from


class Meter(NamedTuple):
    """A column of the rows, and which of its values promise a good encoder."""

    title: str
    column: str
    better: str  # 'high', 'low', 'near 1', or '?': the sign of its own correlation decides, which flatters its regret
    within: str = ''  # '': all runs. Else those of the most frequent value of these columns, joined by '+'


METERS = [
    Meter('held-out loss, as its training validates', 'loss', 'low'),
    Meter('the same, of one target and one masking', 'loss', 'low', 'target+masks'),
    Meter('held-out loss, 75 % masked at random', 'common_loss', 'low'),
    Meter('the same, of one target', 'common_loss', 'low', 'target'),
    Meter('margin over the better baseline, as its training validates', 'margin', 'high'),
    Meter('margin, 75 % masked at random', 'common_margin', 'high'),
    Meter('RankMe', 'rankme', 'high'),
    Meter('α-ReQ: α', 'alpha_req', 'low'),
    Meter('α-ReQ: distance of α from 1', 'alpha_req', 'near 1'),
    Meter('attention distance, mean of the blocks', 'attention_distance', '?'),
    Meter('k-NN accuracy', 'knn', 'high'),
    Meter('linear accuracy', 'linear', 'high'),
]


class Worth(NamedTuple):
    """What a meter says about an accuracy."""

    runs: int
    configurations: int
    tau: float  # Kendall's, positive if the meter's better values go with higher accuracy
    low: float  # 95 % interval of tau
    high: float
    regret: float  # accuracy lost, in points, by choosing the run with the best value of the meter among all
    regret_of_few: float  # the same among `SUBSET` runs drawn at random, on average


def meters_of(rows: Sequence[dict]) -> list[Meter]:
    """`METERS` and, before the accuracies, the attention distance of each block."""
    blocks = sorted({name for row in rows for name in row if name.startswith('attention_distance_')},
                    key=lambda name: int(name.rpartition('_')[2]))
    each = [Meter(f'attention distance, block {name.rpartition("_")[2]}', name, '?') for name in blocks]
    return [*METERS[:-2], *each, *METERS[-2:]]


def columns_of(rows: Sequence[dict], meter: Meter, accuracy: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the runs that have both numbers: the meter (higher = better, as far as said), the accuracy, configurations."""
    groups = ['+'.join(str(row[name]) for name in meter.within.split('+')) if meter.within else '' for row in rows]
    most = Counter(groups).most_common(1)[0][0]
    rows = [row for row, group in zip(rows, groups, strict=True)
            if group == most and np.isfinite(row[meter.column]) and np.isfinite(row[accuracy])]
    values, accuracies = (np.array([row[name] for row in rows], float) for name in (meter.column, accuracy))
    oriented = {'low': -values, 'near 1': -abs(values - 1)}.get(meter.better, values)
    return oriented, accuracies, np.array([row['key'] for row in rows])


def tau_of(values: np.ndarray, accuracies: np.ndarray) -> float:
    return kendalltau(values, accuracies, method='asymptotic').statistic


def worth(
    values: np.ndarray, accuracies: np.ndarray, keys: np.ndarray, draws: int = 2000, either: bool = False,
) -> Worth:
    """What a meter says about an accuracy: (M,) each, with the configuration of each run.

    The bootstrap draws configurations, with all their seeds: seeds of one are not independent. `either`: choose by the
    sign of the correlation.
    """
    rng = np.random.default_rng(0)
    names, place = np.unique(keys, return_inverse=True)
    if len(names) < 4 or not np.ptp(values) or not np.ptp(accuracies):
        return Worth(len(values), len(names), *[np.nan] * 5)
    tau, members = tau_of(values, accuracies), [np.flatnonzero(place == i) for i in range(len(names))]
    taus = []
    for _ in range(draws):
        drawn = np.concatenate([members[i] for i in rng.integers(0, len(names), len(names))])
        taus.append(tau_of(values[drawn], accuracies[drawn]))
    low, high = np.nanpercentile(taus, [2.5, 97.5])
    chosen = np.sign(tau) * values if either else values
    few = [regret(chosen[some], accuracies[some]) for some in subsets(len(values), draws)]
    return Worth(len(values), len(names), tau, low, high, regret(chosen, accuracies), float(np.mean(few)))


def subsets(count: int, draws: int) -> list[np.ndarray]:
    """`SUBSET` positions of `count`, as often as `draws` says, always the same."""
    rng = np.random.default_rng(1)
    return [rng.choice(count, min(SUBSET, count), replace=False) for _ in range(draws)]


def regret(values: np.ndarray, accuracies: np.ndarray) -> float:
    """Accuracy lost by the run of the highest value; of equal ones, on average."""
    return float(accuracies.max() - accuracies[values == values.max()].mean())


def describe(rows: Sequence[dict], draws: int = 2000) -> str:
    """The tables, one for each accuracy, in markdown."""
    parts = []
    for accuracy, title in ACCURACIES.items():
        have = [row for row in rows if np.isfinite(row[accuracy])]
        if not have:
            continue
        lines = []
        for meter in tqdm(meters_of(rows), desc=title, unit='meter', disable=None):
            columns = columns_of(rows, meter, accuracy)
            if meter.column == accuracy or (meter.within and len(columns[0]) == len(have)):  # the line before
                continue
            found = worth(*columns, draws, meter.better == '?')
            lines.append([meter.title, meter.better, found.runs, *(
                ['–'] * 4 if np.isnan(found.tau) else [
                    f'{found.tau:+.2f}', f'{found.low:+.2f} … {found.high:+.2f}', f'{found.regret:.1f}',
                    f'{found.regret_of_few:.1f}'])])
        accuracies = np.array([row[accuracy] for row in have])
        blind = np.zeros_like(accuracies)
        few = [regret(blind[some], accuracies[some]) for some in subsets(len(blind), draws)]
        lines.append(['(choosing at random)', '', len(blind), '', '', f'{regret(blind, accuracies):.1f}',
                      f'{np.mean(few):.1f}'])
        parts.append(
            f'{title}: top-1 of {len(have)} pre-trainings of {len({row["key"] for row in have})} configurations, '
            f'{accuracies.min():.1f} to {accuracies.max():.1f} %, standard deviation {accuracies.std():.1f}.\n\n'
            + markdown_table(['meter', 'better', 'runs', "Kendall's τ", '95 % interval', 'regret, all',
                              f'regret, of {SUBSET}'], lines))
    return '\n\n'.join(parts)


def draw_scatter(rows: Sequence[dict], path: Path) -> None:
    """Each meter against the accuracy of fine-tuning (without it: of linear probing), a point for each pre-training."""
    accuracy = 'finetune' if any(np.isfinite(row['finetune']) for row in rows) else 'linear'
    shown = [meter for meter in METERS if not meter.within and meter.better != 'near 1' and meter.column != accuracy
             and meter.column != 'margin']
    across = 4
    figure = Figure(figsize=(3 * across, 3 * -(-len(shown) // across)), layout='constrained')
    targets = sorted({row['target'] for row in rows})
    for axes, meter in zip(figure.subplots(-(-len(shown) // across), across).flat, shown, strict=False):
        for i, target in enumerate(targets):
            of_target = [row for row in rows if row['target'] == target]
            axes.scatter([row[meter.column] for row in of_target], [row[accuracy] for row in of_target], s=14,
                         color=f'C{i}', label=target, alpha=0.8)
        axes.set_xlabel(meter.title, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    for axes in figure.axes[len(shown):]:
        axes.remove()
    figure.supylabel(f'top-1, {ACCURACIES[accuracy]}, %', fontsize=9)
    if len(targets) > 1:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc='outside lower center', ncols=3, fontsize=8)
    write_beside(path, lambda partial: figure.savefig(partial, dpi=80, format='png'))
