import pytest

from mae_mm.datasets.split import hold_out, stable_hash


def test_hashes_are_the_same_everywhere() -> None:
    assert stable_hash('a/ü.jpg') == 1519930451208418185
    assert stable_hash('a', 1) != stable_hash('a')


@pytest.mark.parametrize(('count', 'held'), [(64, 32), (3000, 60), (260_000, 5000)])
def test_share_is_held_out_within_its_bounds(count: int, held: int) -> None:
    names = [f'{i % 7}/{i}.jpg' for i in range(count)]
    train, test = hold_out(names)
    assert (len(train), len(test)) == (count - held, held)
    kept = set(train)
    assert kept | set(test) == set(names) and train == [name for name in names if name in kept]


def test_split_does_not_depend_on_the_order() -> None:
    names = [f'{i}.jpg' for i in range(200)]
    assert set(hold_out(names[::-1])[1]) == set(hold_out(names)[1])


def test_folders_stay_together() -> None:
    names = [f'flight{i % 40}/{i}.jpg' for i in range(2000)]
    train, test = hold_out(names, by='folder')
    folders = [{name.split('/')[0] for name in side} for side in (train, test)]
    assert not folders[0] & folders[1] and len(folders[1]) == 1


def test_series_of_a_patient_stay_together() -> None:
    names = [f'patient{i % 40}/series{i % 3}/{i}.png' for i in range(2000)]
    train, test = hold_out(names, by='top-folder')
    assert not {name.split('/')[0] for name in train} & {name.split('/')[0] for name in test}
    assert {name.split('/')[0] for name in hold_out(names, by='folder')[1]} & {name.split('/')[0] for name in train}


@pytest.mark.parametrize(('names', 'by', 'words'), [
    ([f'{i}.jpg' for i in range(63)], 'image', '^63 images are too few to hold out 32 .* give more images'),
    ([f'all/{i}.jpg' for i in range(500)], 'folder', '--split-by folder .*leaves 0 of 500 images .* --split-by image')])
def test_too_few_for_two_sides(names: list[str], by: str, words: str) -> None:
    with pytest.raises(ValueError, match=f'{words}.*--val-data'):
        hold_out(names, by)
