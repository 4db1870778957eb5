"""JupyterLab with a repository, and notebooks in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.repository.embedded.synthetic import DEMO, write_plate
from tests import plates
from tests.lab.notebook import TIMEOUT_MS, Notebook
from tests.lab.server import CHROMIUM, FLAGS, Lab, serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Serve JupyterLab; its kernels have the demo, and a default repository with a small plate."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    home = tmp_path_factory.mktemp("lab")
    _make_plate(home / "data")
    with serve(home) as lab:
        yield lab


@pytest.fixture(scope="session")
def browser(lab: Lab) -> Iterator[Browser]:
    """Return a running Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_notebook(lab: Lab, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Callable[..., Notebook]]:
    """Return what opens a notebook with the kernel "OpenHCS"; no error may reach the browser's console."""
    opened: list[Notebook] = []

    def open_one(cells: list[str], *, height: int = 1000, width: int = 1280) -> Notebook:
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(TIMEOUT_MS)
        name = f"{request.node.name}-{len(opened)}.ipynb"
        notebook = Notebook(page, lab.address, lab.work / name, cells)
        opened.append(notebook)
        notebook.open()
        return notebook

    yield open_one
    for number, notebook in enumerate(opened):
        notebook.screenshot(f"last/{request.node.name}-{number}")
        notebook.close()
        assert notebook.complaints == []


@pytest.fixture(scope="session")
def two_plates(lab: Lab) -> str:
    """Return a repository with two plates of different channels."""
    folder = lab.home / "two"
    with EmbeddedRepository(folder / "repository") as repository:
        spec = msgspec.structs.replace(DEMO, name="first", rows=2, columns=2, grid=(1, 1), size=192, cells_per_field=10)
        repository.import_plate(write_plate(folder / "plates" / "first", spec), name="first")
        second = plates.write_plate(folder / "plates" / "second", channels=("DAPI", "GFP", "Cy5"), z=1, size=(96, 96))
        repository.import_plate(second.folder, name="second")
    return str(folder / "repository")


def _make_plate(data: Path) -> None:
    spec = msgspec.structs.replace(
        DEMO, name="small", rows=4, columns=6, grid=(1, 2), size=256, cells_per_field=14, seed=3
    )
    plate = write_plate(data / "plates" / "small", spec)
    with EmbeddedRepository(data / "repository") as repository:
        repository.import_plate(plate)
