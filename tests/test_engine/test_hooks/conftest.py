from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.noise_runs import noise_trainer
from mmengine.runner import Runner


@pytest.fixture
def run(make_mae: Callable, tmp_path: Path) -> Callable[..., Runner]:
    return noise_trainer(make_mae, tmp_path)
