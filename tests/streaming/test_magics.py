"""``%openhcs view`` in a real kernel: it says what to open, and what is opened shows the run, also after a restart."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from openhcs_jupyter.streaming import ListeningSource, open_source
from tests.engine.bench import until
from tests.jupyter import Kernel, kernel
from tests.magics.conftest import data, jupyter
from tests.streaming.heard import Heard
from tests.streaming.test_remote import free_port

__all__ = ["data", "jupyter"]
CELL = "%%openhcs seen --wells A01 --view\npipeline_steps = [Step(max_projection, save=True)]"


@pytest.fixture(scope="module")
def notebook(jupyter: Path, data: Path) -> Iterator[Kernel]:
    """Return a running kernel whose keys are kept among the test's files, and that has no screen."""
    with kernel(data, jupyter, XDG_DATA_HOME=str(jupyter / "share"), DISPLAY="") as running:
        yield running


def test_the_line_that_is_printed_opens_the_run_and_a_restarted_kernel_is_found_again(
    notebook: Kernel, tmp_path: Path
) -> None:
    told = notebook.run(CELL)
    assert not told.error
    file = Path(re.search(r"openhcs-jupyter viewer (/\S+\.json)", told.text)[1])
    assert f":{file}" in told.text
    with open_source(file) as source:
        heard = Heard(source)
        heard.until_ended()
        assert len(heard.stacks()) == 4
        assert heard.plane(next(iter(heard.stacks().values()))).shape == (192, 192)
        notebook.manager.restart_kernel(now=True)
        notebook.client.wait_for_ready(timeout=60)
        until(lambda: [a.link for a in heard.all if hasattr(a, "link")][-2:] == ["lost", "connected"], "the kernel")
        assert not notebook.run("%load_ext openhcs_jupyter").error
        assert "can be viewed" in notebook.run("%openhcs view seen").text


def test_a_listening_viewer_is_called_by_its_line(notebook: Kernel, tmp_path: Path) -> None:
    notebook.run(CELL)
    port = free_port()
    with ListeningSource("127.0.0.1", port, called="127.0.0.1", folder=tmp_path) as source:
        heard = Heard(source)
        assert (
            f"shown in the viewer at 127.0.0.1:{port}" in notebook.run(f"%openhcs view {source.invitation.line()}").text
        )
        until(lambda: len(heard.stacks()) == 4, "the results")
        notebook.run(
            f"import os; os.environ['OPENHCS_VIEWER_HOST'] = '127.0.0.1'; os.environ['OPENHCS_VIEWER_PORT'] = '{port}'"
        )
        assert "shown in the viewer" in notebook.run("%openhcs view").text
        notebook.run("os.environ['OPENHCS_VIEWER_PORT'] = '1'")
        assert "not known yet" in notebook.run("%openhcs view").error
        notebook.run("del os.environ['OPENHCS_VIEWER_HOST']")


def test_what_is_no_line_is_told(notebook: Kernel) -> None:
    assert "no line of a listening viewer" in notebook.run("%openhcs view tcp://somewhere").error
