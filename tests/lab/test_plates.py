"""The plates browser in JupyterLab: a plate is searched, picked, and taken by the next cell."""

from __future__ import annotations

from collections.abc import Callable

from tests.lab.notebook import Notebook

CELL = "%%openhcs\npipeline_steps = [Step(max_projection, save=True)]"


def test_a_plate_that_is_picked_is_taken_by_the_next_cell(
    open_notebook: Callable[..., Notebook], two_plates: str
) -> None:
    notebook = open_notebook([f"%openhcs connect {two_plates}", "%openhcs plates", CELL], height=1000)
    notebook.run_to_end(0)
    browser = notebook.run_to_end(1)
    cards = browser.locator(".ohx-card")
    cards.nth(1).wait_for()
    browser.locator(".ohx-card img[src]").nth(1).wait_for()
    browser.get_by_label("Group by").select_option("Channels")
    assert browser.locator(".ohx-group").count() == 2
    notebook.screenshot("plates")
    browser.get_by_placeholder("Search plates").fill("second")
    assert cards.count() == 1
    cards.first.focus()
    cards.first.press("Enter")
    browser.get_by_text("Cells that name no plate take second").wait_for()
    notebook.dark()
    notebook.screenshot("plates-dark")
    notebook.light()
    assert "plate second" in notebook.run_to_end(2).inner_text()
