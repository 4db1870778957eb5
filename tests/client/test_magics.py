"""Jobs in a real kernel, under nbconvert, and in the shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from openhcs_jupyter.client import save_profile
from openhcs_jupyter.streaming import ListeningSource
from tests.client.conftest import profile_of
from tests.jupyter import Kernel, jupyter_in, kernel
from tests.magics.test_batch import write_notebook
from tests.server.serving import ServerProcess, until
from tests.streaming.heard import Heard
from tests.streaming.test_remote import free_port

CELL = """%%openhcs nuclei --server lab {options}
pipeline_steps = [
    Step(shifted, {{"by": OFFSET}}),
    Step(max_projection, save=True),
    Step(measured, outputs=Table("areas")),
]"""
BEFORE = """import numpy as np
OFFSET = 7
def shifted(stack, by):
    return stack + np.uint16(by)
@measure()
def measured(stack):
    return {"brightest": [int(stack.max())]}"""


BAD = """%%openhcs bad --server lab
def picky(stack, context):
    if context.well == 'A02':
        raise ValueError('no')
    return stack
pipeline_steps = [Step(picky), Step(max_projection, save=True)]"""


@pytest.fixture
def lab(server: ServerProcess, settings: Path) -> ServerProcess:
    """Return a server that the user knows as ``lab``."""
    save_profile(profile_of(server))
    return server


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder of Jupyter's own, with the kernelspec."""
    folder = tmp_path_factory.mktemp("jupyter")
    with jupyter_in(folder):
        yield folder


@pytest.fixture(scope="module")
def notebook(server: ServerProcess, jupyter: Path) -> Iterator[Kernel]:
    """Return a kernel beside the server, with no plates of its own."""
    save_profile(profile_of(server))
    with kernel(jupyter / "data", jupyter) as running:
        yield running


def test_a_cell_becomes_a_job_and_its_variable_a_run(notebook: Kernel) -> None:
    assert not notebook.run(BEFORE).error
    out = notebook.run(CELL.format(options="--wells A01,B02"))
    assert not out.error, out.error
    assert re.search(r"nuclei: job \S+ on lab is (queued|compiling)", out.text)
    assert "nuclei: done, 5 units in" in out.text or "nuclei: done," in out.text
    assert "Plate plate." in out.text
    shown = notebook.run("print(type(nuclei).__name__, nuclei.status, len(nuclei.table('areas')), 'shifted' in dir())")
    assert shown.text.split() == ["RemoteRun", "done", "8", "True"]
    assert (
        notebook.run("print(nuclei.image('max_projection', well='B02', field=2).shape)").text == "(1, 2, 1, 24, 32)\n"
    )
    listed = notebook.run("%openhcs jobs").text
    assert re.search(r"\d+ jobs? on lab", listed)
    assert "\u2713 done" in listed
    job = notebook.run("print(nuclei.id)").text.strip()
    assert job in listed
    assert re.search(r"\d+ done", notebook.run("%openhcs server").text)
    assert "nuclei: done" in notebook.run(f"%openhcs attach {job} --server lab").text
    assert "nuclei: done" in notebook.run("%openhcs status nuclei").text
    assert "<div" in notebook.run("nuclei").html
    viewed = notebook.run("%openhcs view nuclei").text
    assert re.search(r"openhcs-jupyter viewer \S+@\S+:\S+/connection\.json", viewed)


def test_what_cannot_be_sent_and_what_does_not_fit_stand_at_the_cells_line(notebook: Kernel) -> None:
    before = notebook.run("%openhcs jobs").text
    notebook.run(BEFORE + "\nOFFSET = np.zeros((2, 3))")
    error = notebook.run(CELL.format(options="")).error
    assert "line 3: step 'shifted': 'OFFSET' cannot be sent: an array of float64, 2 x 3" in error
    assert "nothing was run" in error
    assert notebook.run("%openhcs jobs").text == before
    wrong = "pipeline_steps = [Step(gaussian_blur, {'sigm': 1}, channel='RFP')]"
    error = notebook.run(f"%%openhcs --server lab\n\n{wrong}").error
    assert "2 problems in Cell In[" in error
    assert "line 3: " in error
    assert wrong in error
    assert "no server 'lap'" in notebook.run("%openhcs jobs --server lap").error


def test_a_dry_run_shows_the_servers_plan_and_keeps_the_variable(notebook: Kernel) -> None:
    notebook.run(f"{BEFORE}\nnuclei = 'untouched'")
    out = notebook.run(CELL.format(options="--dry-run --workers 1"))
    assert not out.error, out.error
    assert re.search(r"Plan of nuclei on plate plate: 4 wells, .* Nothing was run\.", out.text)
    assert "1 worker, largest unit" in out.text
    assert "plan; nothing was run" in out.html
    assert notebook.run("print(nuclei)").text.strip() == "untouched"
    assert "Plan of nuclei on plate plate: 4 wells" in notebook.run("%openhcs plan nuclei").text
    assert re.search(r"done\s+nuclei\s+\S+\s+plate\s+dry run", notebook.run("%openhcs jobs").text)
    assert "Nothing was run." in notebook.run("%openhcs status --server lab").text
    error = notebook.run(CELL.format(options="--dry-run --wells C01")).error
    assert "C01" in error


def test_plates_side_by_side_and_a_job_in_the_background(notebook: Kernel) -> None:
    notebook.run(BEFORE)
    out = notebook.run(CELL.format(options="--plate 1,plate"))
    assert out.text.count("nuclei: done") == 2
    assert notebook.run("print([run.status for run in nuclei])").text == "['done', 'done']\n"
    out = notebook.run(CELL.format(options="--background --plate 1"))
    assert "Follow it: %openhcs attach" in out.text
    assert "nuclei: done" in notebook.run("%openhcs attach nuclei").text


def test_an_interrupt_cancels_the_job_and_resume_ends_it(notebook: Kernel, tmp_path: Path) -> None:
    notebook.run(
        "import os, time\n"
        "def slowly(stack, go):\n"
        "    while not os.path.exists(go):\n"
        "        time.sleep(0.02)\n"
        "    return stack"
    )
    go = tmp_path / "go"
    steps = f"[Step(slowly, {{'go': {str(go)!r}}}), Step(max_projection, save=True)]"
    cell = f"%%openhcs slow --server lab\npipeline_steps = {steps}"
    request = notebook.send(cell)
    said = ""
    while "slow: 8 units" not in said:
        message = notebook.client.get_iopub_msg(timeout=60)
        said += message["content"].get("text", "") if message["msg_type"] == "stream" else ""
    notebook.manager.interrupt_kernel()
    out = notebook.collect(request)
    assert "is cancelled; %openhcs resume" in out.error
    assert notebook.run("print(slow.status, slow.state)").text == "cancelled cancelled\n"
    go.touch()
    assert "slow: done" in notebook.run("%openhcs resume slow").text


@pytest.mark.usefixtures("lab", "jupyter")
def test_a_failing_job_makes_nbconvert_fail(tmp_path: Path) -> None:
    for cells, code in (((BEFORE, CELL.format(options="")), 0), (("", BAD), 1)):
        write_notebook(tmp_path / "n.ipynb", *cells)
        words = [sys.executable, "-m", "nbconvert", "--to", "html", "--execute", "n.ipynb"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode != 0) == bool(code), done.stderr
    assert "2 of 8 units failed in run 'bad'" in done.stderr
    assert "step picky, line 6: ValueError: no" in re.sub(r"\x1b\[[0-9;]*m", "", done.stderr)


def _shell(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "openhcs_jupyter.cli", *words]
    env = os.environ | {"NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)


def test_the_shell_knows_servers_and_jobs(server: ServerProcess, tmp_path: Path, settings: Path) -> None:
    line = server.invitation.line()
    added = _shell("server", "add", "lab", line, "--token", str(server.state / "token"))
    assert added.returncode == 0, added.stderr
    assert "lab:" in added.stdout
    file = settings / "openhcs-jupyter" / "servers" / "lab.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert "127.0.0.1" in _shell("server", "list").stdout
    (tmp_path / "p.py").write_text("pipeline_steps = [Step(max_projection, save=True)]\n")
    done = _shell("submit", str(tmp_path / "p.py"), "seg", "--follow", "--wells", "A01")
    assert done.returncode == 0, done.stderr
    assert "seg: done" in done.stdout
    (tmp_path / "bad.py").write_text(
        "%%openhcs bad --server lab\npipeline_steps = [Step(max_projection, channel='X')]\n"
    )
    done = _shell("run", str(tmp_path / "bad.py"))
    assert done.returncode == 1
    assert "line 2: " in done.stderr
    planned = _shell("submit", str(tmp_path / "p.py"), "seg", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "Nothing was run." in planned.stdout
    sent = _shell("submit", str(tmp_path / "p.py"))
    job = re.search(r"job (\S+) on lab", sent.stdout)[1]
    assert "run: done" in _shell("attach", job).stdout
    listed = _shell("jobs")
    assert re.match(r"\d+ jobs on lab$", listed.stdout.splitlines()[0])
    assert job in listed.stdout
    assert _shell("status", job, "--server", "lab").stdout.startswith("run: done")
    with ListeningSource("127.0.0.1", free_port(), called="127.0.0.1", folder=tmp_path) as source:
        seen = _shell("view", job, "--server", "lab", "--viewer", source.invitation.line())
        assert f"run is shown in the viewer at 127.0.0.1:{source.invitation.port}." in seen.stdout, seen.stderr
        heard = Heard(source)
        until(heard.stacks)
    assert re.search(r"Viewers +\d jobs? shown", _shell("server").stdout)
    assert "no job 4711" in _shell("cancel", "4711", "--server", "lab").stderr
    assert _shell("log", job).returncode == 0
    assert "You know no execution server" in _shell("server", "remove", "lab").stdout
    gone = _shell("jobs")
    assert gone.returncode == 2
    assert "server add NAME LINE" in gone.stderr
