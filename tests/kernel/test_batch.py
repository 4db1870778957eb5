"""``openhcs-jupyter batch``: notebooks that are executed here, or on a server behind a real SSH server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import nbformat
import pytest

from openhcs_jupyter.kernel import jobs
from openhcs_jupyter.kernel.executing import Executed
from openhcs_jupyter.streaming.keys import write_private
from tests.engine.bench import until
from tests.kernel.conftest import until_nothing_is_left
from tests.kernel.lab import Lab

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def notebook(path: Path, *cells: str) -> Path:
    first = nbformat.v4.new_code_cell("well = 'A01'\ntimes = 1", metadata={"tags": ["parameters"]})
    written = nbformat.v4.new_notebook(cells=[first, *map(nbformat.v4.new_code_cell, cells)])
    written.metadata.kernelspec = {"name": "openhcs", "display_name": "OpenHCS", "language": "python"}
    nbformat.write(written, path)
    return path


def texts(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(out.get("text", "") for cell in cells if cell.cell_type == "code" for out in cell.outputs)


def test_a_batch_here_gives_notebook_page_and_exit_code(tmp_path: Path) -> None:
    source = notebook(tmp_path / "small.ipynb", "import os\nprint(well, times * 2, os.getcwd())", "1 / 0", "print(7)")
    command = [sys.executable, "-m", "openhcs_jupyter.cli", "batch", str(source), "-p", "times", "21"]
    done = subprocess.run(
        [*command, "-p", "well", "B02", "--output", str(tmp_path / "out")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stdout
    assert texts(tmp_path / "out" / "small.executed.ipynb") == f"B02 42 {tmp_path}\n"
    assert "ZeroDivisionError" in (tmp_path / "out" / "small.executed.html").read_text()
    assert texts(source) == ""


def test_what_is_no_batch_is_told(made: Lab, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("1")
    assert "is no notebook" in made.command("batch", str(tmp_path / "x.py")).stderr
    assert "There is no remote kernel 'moon'" in made.command("batch", "--remote", "moon", "x.ipynb").stderr
    assert "There is no batch" in made.command("batch", "--remote", "lab", "--attach", "none").stderr
    assert made.command("batch", "--attach", "none").returncode == 2


def test_a_notebook_is_executed_beside_the_data_and_comes_back(made: Lab, tmp_path: Path) -> None:
    words = ["batch", str(NOTEBOOKS / "05_batch.ipynb"), "--remote", "lab", "--output", str(tmp_path)]
    done = made.command(*words, "-p", "plate", "1", "-p", "wells", "A01,A06,B01,B06", timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Z' of GFP" in done.stdout
    assert "Z' of GFP" in texts(tmp_path / "05_batch.executed.ipynb")
    assert (tmp_path / "05_batch.executed.html").read_text().count('class="jp-RenderedImage') == 3
    left = Path(done.stdout.split("What the cells wrote is in lab:")[1].strip())
    assert left.is_relative_to(made.home)
    assert (left / "batch-results" / "plate-1" / "wells.csv").exists()


def test_a_batch_survives_cuts_and_the_death_of_who_began_it(made: Lab, tmp_path: Path) -> None:
    gates = tmp_path / "gates"
    gates.mkdir()
    wait = "import time\nfrom pathlib import Path\n"
    for gate in ("one", "two"):
        wait += f"print('at {gate}', flush=True)\nwhile not Path({str(gates / gate)!r}).exists(): time.sleep(0.02)\n"
    source = notebook(tmp_path / "long.ipynb", wait, "import sys\nprint('the end')\nsys.exit(3)")
    command = [sys.executable, "-m", "openhcs_jupyter.cli", "batch", str(source), "--remote", "lab"]
    log = tmp_path / "log"
    with log.open("w") as output:
        first = subprocess.Popen(command, env=made.environment, stdout=output, stderr=output, cwd=tmp_path)
    until(lambda: "at one" in log.read_text(), "the first cell", 60)
    made.cut()
    (gates / "one").touch()
    until(lambda: "at two" in log.read_text(), "what followed the cut", 60)
    assert log.read_text().count("at one\n") == 1
    first.kill()
    first.wait()
    job = log.read_text().split("--attach ")[1].split()[0]
    (gates / "two").touch()
    done = made.command("batch", "--remote", "lab", "--attach", job, "--output", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "the end" in done.stdout
    assert "the end" in texts(tmp_path / "out" / "long.executed.ipynb")
    assert not list((made.home / ".local" / "state" / "openhcs-jupyter" / "batch").glob("*-long-*"))


def test_an_interrupt_stops_the_batch_there(made: Lab, tmp_path: Path) -> None:
    source = notebook(tmp_path / "idle.ipynb", "import time\nprint('asleep', flush=True)\ntime.sleep(600)")
    command = [sys.executable, "-m", "openhcs_jupyter.cli", "batch", str(source), "--remote", "lab"]
    log = tmp_path / "log"
    with log.open("w") as output:
        batch = subprocess.Popen(command, env=made.environment, stdout=output, stderr=output, cwd=tmp_path)
    until(lambda: "asleep" in log.read_text(), "the cell", 60)
    os.kill(batch.pid, signal.SIGINT)
    assert batch.wait(30) == 130, log.read_text()
    assert (tmp_path / "idle.executed.ipynb").exists()
    until_nothing_is_left(made)


def test_a_result_that_was_lost_on_its_way_can_be_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    folder = tmp_path / "openhcs-jupyter" / "batch" / "one"
    folder.mkdir(parents=True)
    executed = Executed(code=0, notebook="{}", html="<p>")
    write_private(folder / "result.json", jobs.Result(name="small", executed=executed))
    for _ in range(2):
        assert jobs.main(["fetch", "one"]) == 0
        said = capsys.readouterr().out.removeprefix(jobs.MARK)
        assert msgspec.json.decode(said, type=jobs.Result).executed == executed
    assert jobs.main(["forget", "one"]) == 0
    assert not folder.exists()
