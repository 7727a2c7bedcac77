from pathlib import Path

import pytest
from helpers import ROOT

from mae_mm import paths
from mae_mm.engine.runner import load_config


def test_configs_and_tools_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ROOT == paths.ROOT and (paths.ROOT / 'tools/dist_train.sh').is_file()
    assert paths.find_config('configs/mae_pretrain.py') == ROOT / 'configs/mae_pretrain.py'
    assert load_config('configs/demo/mae_pretrain.py').model.type == 'mae_mm.MAE'
    (tmp_path / 'mine.py').touch()
    assert paths.find_config('mine.py') == Path('mine.py')
    assert paths.find_config('other.py') is None
    with pytest.raises(FileNotFoundError, match=r'no config file .*did you mean configs/mae_pretrain\.py'):
        load_config('configs/mae_pretrian.py')
