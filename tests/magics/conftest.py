"""A small known plate in a default repository, and a kernel beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.repository.embedded.synthetic import DEMO, write_plate
from tests.jupyter import Kernel, jupyter_in, kernel


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Install the kernelspec where Jupyter looks during the module's tests, and keep the user's folders out."""
    folder = tmp_path_factory.mktemp("jupyter")
    with jupyter_in(folder):
        yield folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder whose default repository holds a plate: A01 to B02, two fields of DAPI and GFP, 3 slices."""
    folder = tmp_path_factory.mktemp("data")
    spec = msgspec.structs.replace(
        DEMO, name="small", rows=2, columns=2, grid=(1, 2), size=192, cells_per_field=10, seed=3
    )
    plate = write_plate(folder / "plates" / "small", spec)
    with EmbeddedRepository(folder / "repository") as repository:
        repository.import_plate(plate)
    return folder


@pytest.fixture(scope="module")
def notebook(jupyter: Path, data: Path) -> Iterator[Kernel]:
    """Return a running kernel with the plate in its default repository."""
    with kernel(data, jupyter) as running:
        yield running
