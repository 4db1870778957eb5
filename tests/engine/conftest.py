"""Fixtures of the engine's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from openhcs_jupyter.repository.embedded import EmbeddedRepository
from tests.engine.bench import Bench
from tests.plates import MadePlate


@pytest.fixture
def make_bench(
    make_plate: Callable[..., MadePlate], repository: EmbeddedRepository, tmp_path: Path
) -> Callable[..., Bench]:
    """Return a function that writes a small plate, imports it, and gives a bench: ``make_bench(fields=4, z=1)``."""

    def make(**how: object) -> Bench:
        made = make_plate(**how)
        plate = repository.plate(repository.import_plate(made.folder).id)
        return Bench(repository, made, plate, tmp_path)

    return make


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    """Return a bench with two wells, two fields, two channels and three slices."""
    return make_bench()
