"""A plate to run OpenHCS's pipelines on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from openhcs_jupyter.repository.embedded import EmbeddedRepository
from tests.engine.bench import Bench
from tests.plates import MadePlate


@pytest.fixture
def bench(make_plate: Callable[..., MadePlate], repository: EmbeddedRepository, tmp_path: Path) -> Bench:
    made = make_plate()
    return Bench(repository, made, repository.plate(repository.import_plate(made.folder).id), tmp_path)
