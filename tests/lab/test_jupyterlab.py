"""JupyterLab in a browser: a notebook with the kernel "OpenHCS" is opened, run and looked at."""

from __future__ import annotations

from collections.abc import Callable

from tests.lab.notebook import Notebook

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


def test_a_notebook_runs_in_jupyterlab(open_notebook: Callable[..., Notebook]) -> None:
    notebook = open_notebook(CELLS, height=2900)
    page = notebook.page
    assert page.locator(".jp-KernelName, .jp-Toolbar-kernelName").first.inner_text() == "OpenHCS"
    page.evaluate("() => { void window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    page.get_by_text("the end", exact=True).wait_for()
    shown = page.locator(".jp-OutputArea-output")
    assert shown.get_by_text("nuclei done, ").count() == 2
    assert shown.get_by_text("4 of 16 units failed").count() >= 1
    assert shown.get_by_text("CompileError:").count() == 1
    assert shown.locator("figure img").count() == 2
    notebook.screenshot("jupyterlab")
    notebook.dark()
    notebook.screenshot("jupyterlab-dark")
