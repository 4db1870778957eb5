"""A job in JupyterLab: its cell waits in one place, then shows the job as it would show a run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.lab.notebook import Notebook
from tests.server.conftest import plates, serve  # noqa: F401 - fixtures
from tests.server.serving import ServerProcess

SLOW = """%%openhcs slow --server beside
def slowly(stack, go):
    import time
    from pathlib import Path
    while not Path(go).exists():
        time.sleep(0.05)
    return stack

pipeline_steps = [Step(slowly, {{"go": {go!r}}}), Step(max_projection, save=True)]"""


def test_a_job_is_shown_as_a_run(
    serve: Callable[..., ServerProcess],  # noqa: F811 - a fixture
    open_notebook: Callable[..., Notebook],
    tmp_path: Path,
) -> None:
    server = serve()
    add = f"%openhcs server add beside --folder {server.state}"
    cells = [add, SLOW.format(go=str(tmp_path / "go")), "%openhcs jobs", "%openhcs server remove beside"]
    notebook = open_notebook(cells)
    notebook.run(0).get_by_text("Cores").wait_for()
    cell = notebook.run(1)
    cell.locator(".ohx-run").wait_for()
    cell.get_by_text(re.compile(r"^job \S+ on beside$")).wait_for()
    notebook.screenshot("job-live")
    (tmp_path / "go").touch()
    cell.get_by_text(re.compile("done, 8 units")).first.wait_for()
    assert cell.locator(".ohx-run").count() == 0
    assert cell.get_by_text("is compiling").count() == 0
    notebook.run(2).get_by_text("1 job on beside").wait_for()
    notebook.screenshot("job-result")
    notebook.run(3).get_by_text("You know no execution server").wait_for()
