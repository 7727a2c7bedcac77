"""Places205: the layout of its archives, names, messages."""

from pathlib import Path

import pytest

from mae_mm.datasets import Places205

LINES = ['a/abbey/gsun_1.jpg 0', 'c/church/outdoor/gsun_2.jpg 2', 'a/alley/gsun_3.jpg 1', 'a/abbey/gsun_4.jpg 0']


def write(root: Path, lines: list[str]) -> str:
    for split, part in (('train', lines), ('val', lines[:1])):
        file = root / f'trainvalsplit_places205/{split}_places205.csv'
        file.parent.mkdir(exist_ok=True)
        file.write_text('\n'.join(part) + '\n')
    for line in lines:
        image = root / 'data/vision/torralba/deeplearning/images256' / line.split()[0]
        image.parent.mkdir(parents=True, exist_ok=True)
        image.touch()
    return str(root)


def test_official_layout(tmp_path):
    train, val = (Places205(write(tmp_path, LINES), split, serialize_data=False) for split in ('train', 'val'))
    assert train.metainfo['classes'] == ('abbey', 'alley', 'church/outdoor')
    assert [sample['gt_label'] for sample in train.data_list] == [0, 2, 1, 0]
    assert train.data_list[1]['img_path'].endswith('images256/c/church/outdoor/gsun_2.jpg') and len(val) == 1


def test_mistakes_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'train_places205.csv.*\n.*Places205 expects'):
        Places205(str(tmp_path))
    with pytest.raises(ValueError, match=r"line 2: 'a/abbey/gsun_4.jpg' is not 'path label'"):
        Places205(write(tmp_path, [LINES[0], 'a/abbey/gsun_4.jpg']))
    with pytest.raises(ValueError, match='outside'):
        Places205(write(tmp_path, ['../../etc/passwd 0']))
    with pytest.raises(ValueError, match="split='test'"):
        Places205(str(tmp_path), 'test')
