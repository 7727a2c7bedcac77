"""Tables and plots of results."""

from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image

from mae_mm.transfer.tables import Panel, draw_plot, environment, markdown_table, mean_and_deviation


def test_markdown_table():
    assert markdown_table(['row', 'top-1'], [['a', 1.5], ['b', '–']]) == (
        '| row | top-1 |\n| --- | --- |\n| a | 1.5 |\n| b | – |')


def test_mean_and_deviation_by_hand():
    """Sample deviation of 20, 22, 24 is 2; one value has none."""
    assert [mean_and_deviation(values) for values in ([20.0, 22.0, 24.0], [7.0], [])] == ['22.0 ± 2.0', '7.0', '–']


@pytest.mark.parametrize('published_axis', [False, True])
def test_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published_axis: bool):
    """Means, deviations and published values are drawn at their places; a panel may lack any of them."""
    drawn = []
    for name in ('errorbar', 'plot', 'axhline'):
        real = getattr(__import__('matplotlib.axes').axes.Axes, name)
        monkeypatch.setattr(f'matplotlib.axes.Axes.{name}', lambda axes, *args, real=real, **kwargs: (
            drawn.append(args), real(axes, *args, **kwargs))[1])
    panels = [Panel('a', {1: [30.0, 34.0], 0: [7.0]}, {1: 81.0}, [5.0, 7.0]), Panel('b', {})]
    draw_plot(tmp_path / 'plot.png', panels, 'blocks', 'top-1', published_axis)
    assert [list(args) for args in drawn if len(args) != 3 or args[0] == [1, 0]] == [
        [[1, 0], [32.0, 7.0], [pytest.approx(8**0.5), 0]], [6.0]]
    assert ([1], [81.0], 'x') in drawn
    assert Image.open(tmp_path / 'plot.png').size == (1000, 400)


def test_environment_names_the_versions():
    assert environment()['torch'] == version('torch')
