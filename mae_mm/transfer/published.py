"""Published results: `configs/<folder>/metafile.yml`, OpenMMLab's model-index, is their one source.

A model of a metafile is one start of a config. Its `Metadata` has
    Architecture  the encoder; with its resolution where it is not the usual one
    Start         the weights: 'MAE, 1600 epochs', 'supervised', 'from scratch', …
    Tag, Source   `paper`, `release` (the authors' code) or `reproduced` (somebody else's public reproduction); where
    Options       what `--cfg-options` must change in the config, if anything

`python -m mae_mm.transfer.published` rewrites the tables of the docs, which stand between
`<!-- published: CONFIGS by FIELD -->` and `<!-- end -->`. CONFIGS is one glob, or several with spaces between them. The
table has a row for each value of FIELD (start, dataset, options or config) and a column for each architecture.
"""

import re
from fnmatch import fnmatch
from functools import cache
from typing import NamedTuple

from mmengine.fileio import load

from mae_mm.paths import ROOT
from mae_mm.transfer.tables import markdown_table

EVALUATORS = {  # metric of a metafile: key of the host's evaluator
    'Top 1 Accuracy': 'accuracy/top1', 'k-NN Accuracy': 'knn/top1', 'box AP': 'coco/bbox_mAP',
    'mask AP': 'coco/segm_mAP', 'mIoU': 'mIoU', 'mCE': 'corruption/mCE'}
TABLE = re.compile(r'(<!-- published: (.+?) by (\w+) -->\n).*?(<!-- end -->)', re.DOTALL)


class Published(NamedTuple):
    """The results of one start of a config; `metrics` are in percent, by the key of the host's evaluator."""

    name: str
    config: str
    architecture: str
    start: str
    dataset: str
    tag: str
    source: str
    options: str
    metrics: dict[str, float]


@cache
def read_metafiles() -> tuple[Published, ...]:
    """Every published result, in the order of the metafiles."""
    found = []
    for metafile in load(ROOT / 'model-index.yml')['Import']:
        for model in load(ROOT / metafile)['Models']:
            if results := model.get('Results'):
                about = model['Metadata']
                found.append(Published(
                    model['Name'], model['Config'], about['Architecture'], about['Start'], results[0]['Dataset'],
                    about['Tag'], about['Source'], about.get('Options', ''),
                    {EVALUATORS[name]: value for result in results for name, value in result['Metrics'].items()}))
    return tuple(found)


def published_metrics(config: str, options: str = '') -> dict[str, float]:
    """What is published for a config with `--cfg-options OPTIONS`: its first entry, which is the one from MAE."""
    return next((one.metrics for one in read_metafiles() if (one.config, one.options) == (config, options)), {})


def make_table(configs: str, field: str) -> str:
    """A table in Markdown of the configs that match one of the globs; values without a tag are `paper`."""
    entries = [entry for entry in read_metafiles()
               if any(fnmatch(entry.config, f'configs/{pattern}') for pattern in configs.split())]
    if not entries:
        raise ValueError(f'no published result of configs/{configs}')
    columns = list(dict.fromkeys(entry.architecture for entry in entries))
    rows: dict[str, dict[str, list[str]]] = {}
    for entry in entries:
        value = ' / '.join(f'{value:g}' if value % 1 else f'{value:.1f}' for value in entry.metrics.values())
        name = getattr(entry, field) or 'as it is'
        row = rows.setdefault(f'`{name}`' if field in ('config', 'options') else name, {})
        row.setdefault(entry.architecture, []).append(value if entry.tag == 'paper' else f'{value} `{entry.tag}`')
    cells = [[name, *[', '.join(row.get(column, '–')) for column in columns]] for name, row in rows.items()]
    return markdown_table(['', *columns], cells) + '\n'


def fill_tables(text: str) -> str:
    """The text of a page with its tables made anew."""
    return TABLE.sub(lambda match: match[1] + make_table(match[2], match[3]) + match[4], text)


if __name__ == '__main__':
    for page in (ROOT / 'docs').glob('*.md'):
        page.write_text(fill_tables(page.read_text(encoding='utf-8')), encoding='utf-8')
