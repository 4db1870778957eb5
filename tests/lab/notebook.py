"""One notebook in a browser's page: cells that run, screenshots, what the console complains of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

TIMEOUT_MS = 45_000
ARTEFACTS = Path(__file__).resolve().parents[2] / "test-artefacts"
# Jupyter's own: pages that a test server does not have; settings and commands of JupyterLab that Notebook 7 has not.
_FOREIGN = (
    "(reading 'schema')",
    "Command 'filebrowser:",
    "favicon",
    "Failed to load resource",
    "/api/me",
    "listings",
    "webSocket",
    "WebSocket",
)
_READY = (
    "(path) => { const panel = window.jupyterapp?.shell?.currentWidget; const s = panel?.sessionContext;"
    " return panel?.context?.path === path && s?.isReady && s.session?.kernel?.connectionStatus === 'connected'; }"
)
_IDLE = "() => window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'"


class Notebook:
    """A notebook in JupyterLab.

    Parameters
    ----------
    page
        Of the browser; JupyterLab may be open in it already.
    address
        Of the Jupyter server.
    path
        Where the notebook is written.
    cells
        Their texts.
    kernel
        Name of the kernelspec.
    """

    def __init__(self, page: Page, address: str, path: Path, cells: list[str], kernel: str = "openhcs") -> None:
        self.page = page
        self.path = path
        self.complaints: list[str] = []
        self._address = address
        path.write_text(json.dumps(_document(cells, kernel)))
        self._hearing = {
            "console": lambda said: self._heard(said.type, said.text, said.location.get("url", "")),
            "pageerror": lambda error: self._heard("error", str(error.stack or error), ""),
            "dialog": lambda dialog: dialog.accept(),
        }
        for event, hear in self._hearing.items():
            page.on(event, hear)

    def open(self) -> None:
        """Open the notebook in JupyterLab, which is loaded unless it is there, and wait for its kernel."""
        if self.page.evaluate("() => window.jupyterapp?.name") == "JupyterLab":
            self.page.evaluate(
                "async (path) => { const app = window.jupyterapp;"
                " await app.serviceManager.kernelspecs.refreshSpecs();"
                " await app.commands.execute('docmanager:open', { path, factory: 'Notebook' }); }",
                self.path.name,
            )
            self.page.wait_for_function(_READY, arg=self.path.name)
        else:
            self._go_to(f"lab/tree/{self.path.name}?reset")
        self.wait_until_idle()

    def reload(self) -> None:
        """Load JupyterLab anew with the notebook; its kernel may be busy."""
        self._go_to(f"lab/tree/{self.path.name}?reset")

    def open_in_notebook_7(self) -> None:
        """Open the notebook in Jupyter Notebook and wait for its kernel."""
        self._go_to(f"notebooks/{self.path.name}")
        self.wait_until_idle()

    def _go_to(self, place: str) -> None:
        self.page.goto(f"{self._address}/{place}")
        self.page.wait_for_function(_READY, arg=self.path.name)
        self.page.evaluate("() => window.jupyterapp.shell.collapseLeft()")

    def close(self) -> None:
        """End the kernel and close the notebook, not the page."""
        if self.page.locator("body[data-jp-theme-light='false']").count():
            self.light()
        self.page.evaluate(
            "async () => { const panel = window.jupyterapp.shell.currentWidget;"
            " await panel?.sessionContext?.shutdown(); panel?.dispose(); }"
        )
        for event, hear in self._hearing.items():
            self.page.remove_listener(event, hear)

    def run(self, index: int) -> Locator:
        """Start a cell, counted from 0; returns it."""
        self.page.evaluate(
            "async (index) => { const panel = window.jupyterapp.shell.currentWidget;"
            " panel.content.activeCellIndex = index; panel.content.deselectAll();"
            " void window.jupyterapp.commands.execute('notebook:run-cell'); }",
            index,
        )
        return self.cell(index)

    def run_to_end(self, index: int) -> Locator:
        """Run a cell and wait until it has ended."""
        cell = self.run(index)
        cell.locator(".jp-InputPrompt").filter(has_text="]:").wait_for()
        self.page.wait_for_function(
            "(index) => { const cell = window.jupyterapp.shell.currentWidget.content.widgets[index];"
            " return cell.model.executionState !== 'running' && cell.model.executionCount !== null; }",
            arg=index,
        )
        self.wait_until_idle()
        return cell

    def cell(self, index: int) -> Locator:
        """Return a cell, counted from 0."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def source(self, index: int) -> str:
        """Return a cell's text."""
        text: str = self.page.evaluate(
            "(index) => window.jupyterapp.shell.currentWidget.content.widgets[index].model.sharedModel.getSource()",
            index,
        )
        return text

    def count(self) -> int:
        """Return how many cells there are."""
        number: int = self.page.evaluate("() => window.jupyterapp.shell.currentWidget.content.widgets.length")
        return number

    def wait_until_idle(self) -> None:
        """Wait until the kernel does nothing."""
        self.page.wait_for_function(_IDLE)

    def save(self) -> dict[str, Any]:
        """Save the notebook and return what is on the disk."""
        self.page.evaluate("async () => { await window.jupyterapp.shell.currentWidget.context.save(); }")
        saved: dict[str, Any] = json.loads(self.path.read_text())
        return saved

    def dark(self) -> None:
        """Change to the dark theme."""
        self.page.evaluate(
            "() => { void window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'}); }"
        )
        self.page.locator("body[data-jp-theme-light='false']").wait_for(state="attached")
        self.page.locator("#jupyterlab-splash").wait_for(state="detached")

    def light(self) -> None:
        """Change to the light theme."""
        self.page.evaluate(
            "() => { void window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'}); }"
        )
        self.page.locator("body[data-jp-theme-light='true']").wait_for(state="attached")
        self.page.locator("#jupyterlab-splash").wait_for(state="detached")

    def screenshot(self, name: str) -> None:
        """Keep a picture of the page."""
        ARTEFACTS.mkdir(exist_ok=True)
        self.page.screenshot(path=ARTEFACTS / f"{name}.png")

    def _heard(self, kind: str, text: str, where: str) -> None:
        if kind == "error" and not any(word in f"{text} {where}" for word in _FOREIGN):
            self.complaints.append(f"{text} ({where})")


def _document(cells: list[str], kernel: str) -> dict[str, object]:
    entries = [
        {"cell_type": "code", "id": f"c{i}", "execution_count": None, "metadata": {"tags": ["raises-exception"]},
         "outputs": [], "source": source}
        for i, source in enumerate(cells)
    ]  # fmt: skip
    kernelspec = {"name": kernel, "display_name": kernel, "language": "python"}
    return {"cells": entries, "metadata": {"kernelspec": kernelspec}, "nbformat": 4, "nbformat_minor": 5}
