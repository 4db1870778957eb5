"""JupyterLab with a repository, and notebooks in a browser."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest

from openhcs_jupyter.kernel import install
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.repository.embedded.synthetic import DEMO, write_plate
from tests import plates
from tests.lab.notebook import TIMEOUT_MS, Notebook

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip


class Lab(NamedTuple):
    """A JupyterLab that serves."""

    address: str
    work: Path
    """The folder of its notebooks."""
    home: Path


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Serve JupyterLab; its kernels have the demo, and a default repository with a small plate."""
    if _BROWSER is None:
        pytest.skip("no Chromium on this machine")
    home = tmp_path_factory.mktemp("lab")
    prefix = home / "prefix"
    install(prefix=prefix)
    settings = prefix / "share" / "jupyter" / "lab" / "settings"
    settings.mkdir(parents=True)
    quiet = {
        "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
        "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    }
    (settings / "overrides.json").write_text(json.dumps(quiet))
    work = home / "work"
    work.mkdir()
    _make_plate(home / "data")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {
        "JUPYTER_PATH": str(prefix / "share" / "jupyter"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "user-settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "OPENHCS_DATA_DIR": str(home / "data"),
        "XDG_CONFIG_HOME": str(home / "settings"),
    }
    options = [
        f"--port={port}", "--no-browser", "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=", "--allow-root",
        "--ServerApp.disable_check_xsrf=True", "--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={work}",
        f"--LabApp.app_settings_dir={settings}",
    ]  # fmt: skip
    with (home / "lab.log").open("w") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env=env, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address, server, home / "lab.log")
        yield Lab(address, work, home)
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="session")
def browser(lab: Lab) -> Iterator[Browser]:
    """Return a running Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_BROWSER, args=_FLAGS)
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


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            pytest.fail(f"JupyterLab ended: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"{address}/api", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"JupyterLab does not answer: {log.read_text()[-2000:]}")
