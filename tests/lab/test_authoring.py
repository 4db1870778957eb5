"""``tune`` and ``build`` in JupyterLab: a slider changes the preview, the builder and its code follow each other."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Locator

from tests.lab.notebook import Notebook

NUCLEI = """%%openhcs nuclei --wells A01:B02
limit = 3

pipeline_steps = [
    Step(max_projection, save=True),
    Step(gaussian_blur, {"sigma": 1}),
    Step(segment_nuclei, {"min_area": 30}, channel="DAPI", outputs=Labels("nuclei")),
    Step(measure_objects, inputs={"labels": "nuclei"}, outputs=Table("nuclei")),
]"""


def _after(cell: Locator) -> str:
    """Return the picture that stands after the step."""
    pixels: str = cell.locator(".ohx-grid canvas").nth(1).evaluate("(canvas) => canvas.toDataURL()")
    return pixels


def _code(cell: Locator) -> str:
    return cell.locator(".ohx-codepane textarea").input_value()


def test_a_slider_changes_the_preview_and_the_code_goes_into_a_new_cell(
    open_notebook: Callable[..., Notebook],
) -> None:
    notebook = open_notebook(["%openhcs plate small", NUCLEI, "tune(nuclei, 'gaussian_blur', well='B02')"], height=1500)
    for index in (0, 1):
        notebook.run_to_end(index)
    cell = notebook.run_to_end(2)
    cell.locator(".ohx-grid figure[data-number]").nth(1).wait_for()
    cell.get_by_text("gaussian_blur took").wait_for()
    before = _after(cell)
    field = cell.locator("input[type=number]").first
    field.fill("4")
    field.press("Enter")
    notebook.page.wait_for_function(
        "([cell, before]) => document.querySelectorAll('.jp-Notebook .jp-Cell')[cell]"
        ".querySelectorAll('.ohx-grid canvas')[1].toDataURL() !== before",
        arg=[2, before],
    )
    assert 'Step(gaussian_blur, {"sigma": 4.0})' in _code(cell)
    cell.get_by_label("Step").select_option(label="3  segment_nuclei")
    cell.get_by_text("segment_nuclei took").wait_for()
    notebook.screenshot("tune")
    notebook.dark()
    notebook.screenshot("tune-dark")
    notebook.light()
    cell.get_by_role("button", name="New cell below").click()
    notebook.page.wait_for_function("() => window.jupyterapp.shell.currentWidget.content.widgets.length === 4")
    assert notebook.source(3) == NUCLEI.replace('"sigma": 1}', '"sigma": 4.0}')
    assert "done, 8 units" in notebook.run_to_end(3).inner_text()


def test_the_builder_makes_a_cell_that_runs(open_notebook: Callable[..., Notebook]) -> None:
    notebook = open_notebook(["%openhcs plate small", "build()"], height=1700)
    notebook.run_to_end(0)
    cell = notebook.run_to_end(1)
    add = cell.get_by_placeholder("a function to add")
    for name in ("max_projection", "gaussian_blur", "segment_nuclei", "measure_objects"):
        add.fill(name)
        add.press("Tab")
        cell.get_by_role("button", name="Add", exact=True).click()
        cell.get_by_text(f"{name} took").wait_for()
    assert 'Step(segment_nuclei, channel="DAPI", outputs=Labels("nuclei")),' in _code(cell)
    assert 'Step(measure_objects, inputs={"labels": "nuclei"}, outputs=Table("objects")),' in _code(cell)
    notebook.screenshot("build")
    # From the code to the controls: a parameter that is typed shows in its slider.
    area = cell.locator(".ohx-codepane textarea")
    area.fill(_code(cell).replace("Step(gaussian_blur)", 'Step(gaussian_blur, {"sigma": 3.5})'))
    area.blur()
    cell.locator("select[size], select[multiple], .widget-select select").first.select_option(label="2  gaussian_blur")
    cell.get_by_text("gaussian_blur took").wait_for()
    assert cell.locator("input[type=number]").first.input_value() == "3.5"
    # And back: a step that is moved moves in the code.
    cell.get_by_role("button", name="\u2191").click()
    notebook.page.wait_for_function(
        "() => { const code = document.querySelector('.ohx-codepane textarea').value;"
        " return code.indexOf('gaussian_blur') < code.indexOf('max_projection'); }"
    )
    area.fill(_code(cell).replace("Step(max_projection)", "Step(max_projection"))
    area.blur()
    cell.get_by_text("Line ").wait_for()
    area.fill(
        _code(cell).replace("Step(max_projection", "Step(max_projection)").replace("%%openhcs run", "%%openhcs made")
    )
    area.blur()
    cell.get_by_text("gaussian_blur took").wait_for()
    notebook.dark()
    notebook.screenshot("build-dark")
    notebook.light()
    cell.get_by_role("button", name="New cell below").click()
    notebook.page.wait_for_function("() => window.jupyterapp.shell.currentWidget.content.widgets.length === 3")
    assert "made done, 48 units" in notebook.run_to_end(2).inner_text()
