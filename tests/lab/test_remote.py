"""The widgets through a remote kernel: the run, its plate and the pictures are on a machine behind SSH."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.kernel.lab import Lab as SshLab
from tests.lab.conftest import make_plate
from tests.lab.notebook import Notebook
from tests.lab.server import Lab
from tests.lab.test_plate_view import NUCLEI, click_on
from tests.lab.test_run import SLOW


def test_a_run_there_is_shown_cancelled_and_looked_at_here(
    lab: Lab, ssh_lab: SshLab, open_notebook: Callable[..., Notebook]
) -> None:
    make_plate(ssh_lab.home / "data")
    ssh_lab.install("--prefix", str(lab.prefix))
    lab.programs.mkdir()
    (lab.programs / "ssh").symlink_to(ssh_lab.laptop / "bin" / "ssh")
    view = "import os\nprint(os.getcwd())\nplate_view(nuclei)"
    cells = [SLOW.format(pause=0.3), NUCLEI.format(name="nuclei", size=30), view]
    notebook = open_notebook(cells, height=1750, kernel="openhcs-lab")
    cell = notebook.run(0)
    cell.locator(".ohx-run .ohx-strip img").nth(1).wait_for()
    notebook.screenshot("remote-live")
    cell.get_by_role("button", name="Cancel").click()
    cell.get_by_text(re.compile("cancelled after")).first.wait_for()
    assert "nuclei done, 72 units" in notebook.run_to_end(1).inner_text()
    cell = notebook.run_to_end(2)
    assert str(ssh_lab.home) in cell.inner_text()
    click_on(cell, 1, 2)
    cell.get_by_text("B03 field 2").wait_for()
    notebook.page.mouse.move(5, 5)
    notebook.screenshot("remote-plate-view")
