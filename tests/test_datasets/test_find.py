"""Names in the two Unicode forms: lists written elsewhere, files as the disk has them."""

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from mae_mm.datasets.find import on_disk
from mae_mm.datasets.image_folder import ImageFolder
from mae_mm.datasets.labelled import find_labelled
from mae_mm.datasets.places365 import Places365

NFC, NFD = (unicodedata.normalize(form, 'café/été.png') for form in ('NFC', 'NFD'))


def save(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (8, 8)).save(path)
    return str(path)


@pytest.mark.parametrize('disk, listed', [(NFC, NFD), (NFD, NFC), (NFC, NFC)])
def test_lists_find_files_in_either_form(disk: str, listed: str, tmp_path: Path) -> None:
    there = save(tmp_path / disk)
    assert NFC != NFD and on_disk(str(tmp_path / listed)) == there
    assert on_disk(str(tmp_path / 'gone é')) == str(tmp_path / 'gone é')
    assert ImageFolder(tmp_path, names=[listed])[0]['img_path'] == there

    (tmp_path / 'categories_places365.txt').write_text('/a/cafe 0\n')
    (tmp_path / 'places365_train_standard.txt').write_text(f'/{listed} 0\n')
    save(tmp_path / 'data_256' / disk)
    (sample, ) = Places365(data_root=str(tmp_path)).load_data_list()
    assert Path(sample['img_path']).is_file()


def test_tables_and_label_maps_find_them_too(tmp_path: Path) -> None:
    rows = []
    for i in range(4):
        save(tmp_path / 'table' / f'{NFD[:-4]}{i}.png')
        rows.append(f'{NFC[:-4]}{i}.png,{i % 2}')
    (tmp_path / 'table/labels.csv').write_text('path,label\n' + '\n'.join(rows))
    found = find_labelled(str(tmp_path / 'table'))
    assert all((tmp_path / 'table' / sample.name).is_file() for sample in found.train + found.test)

    for i in range(4):
        save(tmp_path / 'maps/images' / f'{NFC[:-4]}{i}.png')
        path = tmp_path / 'maps/labels' / f'{NFD[:-4]}{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (8, 8), i % 2).save(path)
    found = find_labelled(str(tmp_path / 'maps'))
    assert len(found.train) + len(found.test) == 4
    assert all((tmp_path / 'maps' / sample.label).is_file() for sample in found.train)
