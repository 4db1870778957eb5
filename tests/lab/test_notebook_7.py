"""The same widgets in Jupyter Notebook 7: a run's display, and the plate map."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.lab.notebook import Notebook
from tests.lab.test_plate_view import click_on

RUN = """%%openhcs nuclei --workers 2
def slowly(stack):
    import time
    time.sleep(0.1)
    return stack

pipeline_steps = [
    Step(slowly),
    Step(max_projection, save=True),
    Step(segment_nuclei, channel="DAPI", outputs=Labels("nuclei")),
    Step(measure_objects, inputs={"labels": "nuclei"}, outputs=Table("nuclei")),
]"""


def test_a_run_and_its_plate_show_in_notebook_7(open_notebook: Callable[..., Notebook]) -> None:
    notebook = open_notebook([RUN, "plate_view(nuclei)"], notebook_7=True)
    page = notebook.page
    assert page.locator("body[data-notebook='notebooks']").count() == 1
    cell = notebook.run(0)
    shown = cell.locator(".ohx-run")
    shown.locator("canvas").wait_for()
    shown.locator(".ohx-strip img").nth(1).wait_for()
    shown.get_by_role("button", name="Cancel").wait_for()
    cell.get_by_text(re.compile("nuclei done, 48 units")).first.wait_for()
    assert cell.locator("img[alt*='Plate map']").count() == 1
    view = notebook.run_to_end(1)
    click_on(view, 1, 2)
    notebook.screenshot("notebook-7")
