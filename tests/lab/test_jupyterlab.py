"""JupyterLab in a browser: a notebook with the kernel "OpenHCS" is opened, run and looked at."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from openhcs_jupyter.kernel import install

_BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
_ARTEFACTS = Path(__file__).resolve().parents[2] / "test-artefacts"
_TIMEOUT_MS = 90_000

CELLS = [
    "%openhcs connect demo",
    "%openhcs plate demo",
    """%%openhcs nuclei --wells A01:B02 --dry-run
pipeline_steps = [
    Step(max_projection, save=True),
    Step(gaussian_blur, {"sigma": 1}),
    Step(segment_nuclei, channel="DAPI", outputs=Labels("nuclei")),
    Step(measure_objects, inputs={"labels": "nuclei"}, outputs=Table("nuclei")),
    Step(well_medians, inputs={"objects": "nuclei"}, outputs=Table("wells")),
]""",
    """%%openhcs nuclei --wells A01:B02 --save
pipeline_steps = [
    Step(max_projection, save=True),
    Step(gaussian_blur, {"sigma": 1}),
    Step(segment_nuclei, channel="DAPI", outputs=Labels("nuclei")),
    Step(measure_objects, inputs={"labels": "nuclei"}, outputs=Table("nuclei")),
    Step(well_medians, inputs={"objects": "nuclei"}, outputs=Table("wells")),
]""",
    "%openhcs results nuclei",
    """%%openhcs picky --wells A01:B02
def picky(stack, context):
    if context.well == "A02":
        raise ValueError("this well is out of focus")
    return stack

pipeline_steps = [
    Step(picky),
    Step(max_projection, save=True),
]""",
    """%%openhcs typo
pipeline_steps = [
    Step(gaussian_blur, {"sigm": 2}),
    Step(max_projection, channel="DAPl"),
]""",
    "print('the', 'end')",
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve JupyterLab on a folder with the notebook; returns its address."""
    if _BROWSER is None:
        pytest.skip("no Chromium on this machine")
    home = tmp_path_factory.mktemp("lab")
    prefix = home / "prefix"
    install(prefix=prefix)
    settings = prefix / "share" / "jupyter" / "lab" / "settings"
    settings.mkdir(parents=True)
    quiet = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
    (settings / "overrides.json").write_text(json.dumps(quiet))
    work = home / "work"
    work.mkdir()
    (work / "plate.ipynb").write_text(json.dumps(_notebook()))
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
        yield address
    finally:
        server.terminate()
        server.wait(30)


def test_a_notebook_runs_in_jupyterlab(lab: str) -> None:
    from playwright.sync_api import sync_playwright

    _ARTEFACTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_BROWSER, args=_FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 2900})
        page.goto(f"{lab}/lab/tree/plate.ipynb", timeout=_TIMEOUT_MS)
        page.wait_for_function(
            "() => { const s = window.jupyterapp?.shell?.currentWidget?.sessionContext;"
            " return s?.isReady && s.session?.kernel?.status === 'idle'; }",
            timeout=_TIMEOUT_MS,
        )
        assert page.locator(".jp-KernelName, .jp-Toolbar-kernelName").first.inner_text() == "OpenHCS"
        page.evaluate(
            "() => { const shell = window.jupyterapp.shell; shell.collapseLeft();"
            " const panel = shell.currentWidget.content;"
            " panel.notebookConfig = {...panel.notebookConfig, windowingMode: 'none'};"
            " void window.jupyterapp.commands.execute('notebook:run-all-cells'); }"
        )
        page.get_by_text("the end", exact=True).wait_for(timeout=_TIMEOUT_MS)
        shown = page.locator(".jp-OutputArea-output")
        assert shown.get_by_text("nuclei done, ").count() == 2
        assert shown.get_by_text("4 of 16 units failed").count() >= 1
        assert shown.get_by_text("CompileError:").count() == 1
        assert shown.locator("img").count() == 2
        page.screenshot(path=_ARTEFACTS / "jupyterlab.png")
        page.evaluate(
            "() => { void window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'}); }"
        )
        page.locator("body[data-jp-theme-light='false']").wait_for(state="attached", timeout=_TIMEOUT_MS)
        page.locator("#jupyterlab-splash").wait_for(state="detached", timeout=_TIMEOUT_MS)
        page.screenshot(path=_ARTEFACTS / "jupyterlab-dark.png")
        browser.close()


def _notebook() -> dict[str, object]:
    cells = [
        {"cell_type": "code", "id": f"c{i}", "execution_count": None, "metadata": {"tags": ["raises-exception"]},
         "outputs": [], "source": source}
        for i, source in enumerate(CELLS)
    ]  # fmt: skip
    kernelspec = {"name": "openhcs", "display_name": "OpenHCS", "language": "python"}
    return {"cells": cells, "metadata": {"kernelspec": kernelspec}, "nbformat": 4, "nbformat_minor": 5}


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
