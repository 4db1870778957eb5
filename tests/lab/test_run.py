"""A run in JupyterLab: its display fills, answers while the cell runs, survives a reload, and leaves a result."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.lab.notebook import Notebook

SLOW = """%%openhcs slow --workers 2
def slowly(stack, context):
    import time
    time.sleep({pause})
    if context.well == "B03":
        raise ValueError("this well is out of focus")
    return stack

pipeline_steps = [
    Step(slowly),
    Step(max_projection, save=True),
    Step(segment_nuclei, channel="DAPI", outputs=Labels("nuclei")),
    Step(measure_objects, inputs={{"labels": "nuclei"}}, outputs=Table("nuclei")),
]"""
_DISPLAY = ".ohx-run"
_WELL = "(node) => node"


def _share_done(notebook: Notebook) -> str:
    return notebook.page.locator(f"{_DISPLAY} .ohx-count").first.inner_text()


def test_the_plate_map_fills_and_the_result_stays(open_notebook: Callable[..., Notebook], tmp_path: Path) -> None:
    notebook = open_notebook([SLOW.format(pause=0.1)])
    cell = notebook.run(0)
    shown = cell.locator(_DISPLAY)
    shown.wait_for()
    shown.locator("canvas").hover(position={"x": 30, "y": 30})
    shown.get_by_text("1 well failed").wait_for()
    shown.locator(".ohx-strip img").nth(1).wait_for()
    # The third well of the second row has failed; its reason shows when the mouse is over it.
    canvas = shown.locator("canvas")
    box = canvas.bounding_box()
    assert box is not None
    canvas.hover(position={"x": 20 + 2.5 * 30, "y": 18 + 1.5 * 30})
    shown.locator(".ohx-tip").get_by_text("this well is out of focus").wait_for()
    notebook.screenshot("run-live")
    notebook.dark()
    notebook.screenshot("run-live-dark")
    notebook.light()
    cell.get_by_text(re.compile("2 of 48 units failed")).first.wait_for()
    assert cell.locator(_DISPLAY).count() == 0
    assert cell.locator("img[alt*='Plate map']").count() == 1
    notebook.screenshot("run-result")
    saved = notebook.save()
    outputs = saved["cells"][0]["outputs"]
    assert "application/vnd.jupyter.widget-view+json" not in outputs[0]["data"]
    assert "23 wells done, 1 failed" in "".join(outputs[0]["data"]["text/html"])
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "html", "--output-dir", str(tmp_path)]
    subprocess.run([*command, str(notebook.path)], check=True, capture_output=True)
    assert "23 wells done, 1 failed" in (tmp_path / notebook.path.with_suffix(".html").name).read_text()


def test_cancel_and_detach_answer_while_the_cell_runs(open_notebook: Callable[..., Notebook]) -> None:
    notebook = open_notebook([SLOW.format(pause=0.5), "print(slow.status)"])
    cell = notebook.run(0)
    cell.get_by_role("button", name="Detach").click()
    cell.get_by_role("button", name="Attach").wait_for()
    assert "running" in notebook.run_to_end(1).inner_text()
    cell.get_by_role("button", name="Attach").click()
    cell.get_by_role("button", name="Detach").wait_for()
    cell.get_by_role("button", name="Cancel").click()
    cell.get_by_text(re.compile("cancelled after")).first.wait_for()
    notebook.screenshot("run-cancelled")
    assert "cancelled" in notebook.run_to_end(1).inner_text()


def test_a_reload_in_mid_run_finds_the_run_again(open_notebook: Callable[..., Notebook]) -> None:
    notebook = open_notebook([SLOW.format(pause=0.4)])
    notebook.run(0).locator(f"{_DISPLAY} .ohx-strip img").first.wait_for()
    notebook.save()
    notebook.reload()
    again = notebook.cell(0).locator(_DISPLAY)
    again.locator(".ohx-strip img").first.wait_for()
    before = _share_done(notebook)
    notebook.page.wait_for_function(
        "(before) => document.querySelector('.ohx-run .ohx-count').innerText !== before", arg=before
    )
    notebook.screenshot("run-reloaded")
    again.get_by_role("button", name="Cancel").click()
    notebook.cell(0).get_by_text(re.compile("cancelled after")).first.wait_for()
    again.wait_for(state="detached")
    saved = notebook.save()
    assert "cancelled after" in "".join(saved["cells"][0]["outputs"][0]["data"]["text/html"])
