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
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Serve JupyterLab; its kernels have the demo, and a default repository with a small plate."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    home = tmp_path_factory.mktemp("lab")
    make_plate(home / "data")
    with serve(home) as lab:
        yield lab


@pytest.fixture(scope="package")
def browser(lab: Lab) -> Iterator[Browser]:
    """Return a running Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Pages:
    """Keeps a page with JupyterLab for several tests, as loading it takes longer than most of them."""

    def __init__(self, browser: Browser) -> None:
        self._context = browser.new_context()
        self._page: Page | None = None

    def new(self, *, height: int, width: int) -> Page:
        page = self._context.new_page()
        page.set_viewport_size({"height": height, "width": width})
        page.set_default_timeout(TIMEOUT_MS)
        return page

    def get(self, *, height: int, width: int) -> Page:
        if self._page is None:
            self._page = self.new(height=height, width=width)
        self._page.set_viewport_size({"height": height, "width": width})
        return self._page

    def release(self, page: Page, *, keep: bool) -> None:
        """Take a page back; it is closed, unless it is the kept one and is to be kept."""
        if page is not self._page or not keep:
            page.close()
        if page is self._page and not keep:
            self._page = None


@pytest.fixture(scope="package")
def pages(browser: Browser) -> Pages:
    return Pages(browser)


@pytest.fixture
def open_notebook(lab: Lab, pages: Pages, request: pytest.FixtureRequest) -> Iterator[Callable[..., Notebook]]:
    """Return what opens a notebook; no error may reach the browser's console."""
    opened: list[Notebook] = []
    name = request.node.name

    def open_one(
        cells: list[str], *, height: int = 1000, width: int = 1280, kernel: str = "openhcs", notebook_7: bool = False
    ) -> Notebook:
        page = (pages.new if notebook_7 else pages.get)(height=height, width=width)
        notebook = Notebook(page, lab.address, lab.work / f"{name}-{len(opened)}.ipynb", cells, kernel)
        opened.append(notebook)
        if notebook_7:
            notebook.open_in_notebook_7()
        else:
            notebook.open()
        return notebook

    before = request.session.testsfailed
    yield open_one
    has_failed = request.session.testsfailed != before
    for number, notebook in enumerate(opened):
        if has_failed:
            notebook.screenshot(f"failed-{name}-{number}")
        notebook.close()
        pages.release(notebook.page, keep=not has_failed)
        assert notebook.complaints == []


@pytest.fixture(scope="package")
def two_plates(lab: Lab) -> str:
    """Return a repository with two plates of different channels."""
    folder = lab.home / "two"
    with EmbeddedRepository(folder / "repository") as repository:
        spec = msgspec.structs.replace(DEMO, name="first", rows=2, columns=2, grid=(1, 1), size=192, cells_per_field=10)
        repository.import_plate(write_plate(folder / "plates" / "first", spec), name="first")
        second = plates.write_plate(folder / "plates" / "second", channels=("DAPI", "GFP", "Cy5"), z=1, size=(96, 96))
        repository.import_plate(second.folder, name="second")
    return str(folder / "repository")


def make_plate(data: Path) -> None:
    """Write the small plate into the default repository of a data folder."""
    spec = msgspec.structs.replace(
        DEMO, name="small", rows=4, columns=6, grid=(1, 2), size=256, cells_per_field=14, seed=3
    )
    plate = write_plate(data / "plates" / "small", spec)
    with EmbeddedRepository(data / "repository") as repository:
        repository.import_plate(plate)
