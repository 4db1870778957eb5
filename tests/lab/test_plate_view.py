"""The plate view in JupyterLab: colours, a click on a well, wells beside each other, a selection for the next cell."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Locator

from tests.lab.notebook import Notebook

NUCLEI = """%%openhcs {name}
pipeline_steps = [
    Step(max_projection, save=True),
    Step(segment_nuclei, {{"min_area": {size}}}, channel="DAPI", outputs=Labels("nuclei")),
    Step(measure_objects, inputs={{"labels": "nuclei"}}, outputs=Table("nuclei")),
    Step(well_medians, inputs={{"objects": "nuclei"}}, outputs=Table("wells")),
]"""
CELL, LEFT, TOP = 30, 20, 18


def well(row: int, column: int) -> dict[str, float]:
    """Return where a well stands on a map of few wells."""
    return {"x": LEFT + (column + 0.5) * CELL, "y": TOP + (row + 0.5) * CELL}


def click_on(cell: Locator, row: int, column: int) -> None:
    """Click on a well of a map, and wait until its two pictures are drawn."""
    cell.locator(".ohx-plate canvas").click(position=well(row, column))
    pictures(cell, 2)


def pictures(cell: Locator, count: int) -> None:
    """Wait until so many pictures are drawn."""
    cell.locator(".ohx-grid figure[data-number]").nth(count - 1).wait_for()
    assert cell.locator(".ohx-grid figure").count() == count


def test_a_click_on_a_well_shows_its_fields(open_notebook: Callable[..., Notebook]) -> None:
    selected = NUCLEI.format(name="few", size=30).replace("%%openhcs few", "%%openhcs few --wells selected")
    notebook = open_notebook([NUCLEI.format(name="nuclei", size=30), "plate_view(nuclei)", selected], height=1500)
    notebook.run_to_end(0)
    cell = notebook.run_to_end(1)
    canvas = cell.locator(".ohx-plate canvas")
    canvas.wait_for()
    canvas.hover(position=well(1, 2))
    cell.locator(".ohx-tip").get_by_text("B03: median").wait_for()
    canvas.click(position=well(1, 2))
    pictures(cell, 2)
    canvas.click(position=well(3, 5), modifiers=["Shift"])
    pictures(cell, 4)
    assert "D06 field 1" in cell.inner_text()
    notebook.page.mouse.move(5, 5)
    notebook.screenshot("plate-view")
    notebook.dark()
    notebook.screenshot("plate-view-dark")
    notebook.light()
    # With the keyboard: the cursor stands at D06; three wells of the row above are selected.
    canvas.focus()
    canvas.press("ArrowUp")
    for _ in range(2):
        canvas.press("Shift+ArrowLeft")
    cell.get_by_text("3 selected: C04, C05, C06").wait_for()
    assert "done, 9 units" in notebook.run_to_end(2).inner_text()


def test_two_runs_stand_beside_each_other(open_notebook: Callable[..., Notebook]) -> None:
    cells = [NUCLEI.format(name=name, size=size) for name, size in (("all_", 10), ("large", 200))]
    notebook = open_notebook([*cells, "plate_view(all_, large)", "plate_view('small')"], height=1700)
    for index in (0, 1):
        notebook.run_to_end(index)
    cell = notebook.run_to_end(2)
    cell.locator(".ohx-plate canvas").nth(1).click(position=well(0, 0))
    pictures(cell, 4)
    raw = notebook.run_to_end(3)
    click_on(raw, 0, 1)
    notebook.page.mouse.move(5, 5)
    notebook.screenshot("plate-view-two-runs")
