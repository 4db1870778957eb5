"""Notebooks without a person: nbconvert and papermill, and pipelines from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from openhcs_jupyter.cli import main
from tests.jupyter import plain

GOOD = """%%openhcs nuclei --plate {plate} --wells A01:A02
pipeline_steps = [
    Step(max_projection, save=True),
    Step(segment_nuclei, channel="DAPI", outputs=Labels("nuclei")),
]"""
BAD = """%%openhcs nuclei
def picky(stack, context):
    if context.well == "A02":
        raise ValueError("not this one")
    return stack
pipeline_steps = [Step(picky), Step(max_projection, save=True)]"""
FILE = """pipeline_steps = [
    Step(max_projection, save=True),
    Step(segment_nuclei, channel="DAPI", outputs=Labels("nuclei")),
]
"""


def write_notebook(path: Path, *cells: str) -> Path:
    """Write a notebook for the kernel OpenHCS; the first cell holds the parameters."""
    tags = [{"tags": ["parameters"]}, *({} for _ in cells[1:])]
    content = {
        "cells": [
            {
                "cell_type": "code",
                "id": f"c{i}",
                "execution_count": None,
                "metadata": tag,
                "outputs": [],
                "source": cell,
            }
            for i, (cell, tag) in enumerate(zip(cells, tags, strict=True))
        ],
        "metadata": {"kernelspec": {"name": "openhcs", "display_name": "OpenHCS", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def call(jupyter: Path, data: Path, tmp_path: Path):
    """Return what runs a program of this environment in an empty folder."""

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"OPENHCS_DATA_DIR": str(data), "NO_COLOR": "1"} | environment
        return subprocess.run(
            [sys.executable, "-m", *words],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def here(jupyter: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder, made the current one, beside the plate's repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENHCS_DATA_DIR", str(data))
    return tmp_path


def test_nbconvert_leaves_a_readable_page(call, tmp_path: Path) -> None:
    write_notebook(tmp_path / "n.ipynb", "plate = 'small'", GOOD, "print(len(nuclei.plan.units), nuclei.status)")
    done = call("nbconvert", "--to", "html", "--execute", "n.ipynb")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "n.html").read_text()
    assert "nuclei: 4 units on plate small, run " in page
    assert "done, 4 units in" in page
    assert "max_projection" in page
    assert "4 done" in page


def test_a_failing_pipeline_makes_nbconvert_fail(call, tmp_path: Path) -> None:
    write_notebook(tmp_path / "n.ipynb", "", BAD)
    done = call("nbconvert", "--to", "html", "--execute", "n.ipynb")
    assert done.returncode != 0
    assert "2 of 8 units failed in run 'nuclei'" in done.stderr
    assert "A02 fields 1, 2, step picky, line 6: ValueError: not this one" in plain(done.stderr)


def test_papermill_fills_in_parameters(call, tmp_path: Path) -> None:
    write_notebook(tmp_path / "n.ipynb", "plate = 'nothing'", GOOD)
    done = call("papermill", "n.ipynb", "out.ipynb", "-p", "plate", "small")
    assert done.returncode == 0, done.stderr
    outputs = [out for cell in json.loads((tmp_path / "out.ipynb").read_text())["cells"] for out in cell["outputs"]]
    shown = next(out["data"] for out in outputs if out["output_type"] == "display_data")
    assert "".join(shown["text/plain"]).startswith("nuclei: done, 4 units")
    assert "<div" in "".join(shown["text/html"])


def test_papermill_fails_on_a_plate_that_is_not_there(call, tmp_path: Path) -> None:
    write_notebook(tmp_path / "n.ipynb", "plate = 'small'", GOOD)
    done = call("papermill", "n.ipynb", "out.ipynb", "-p", "plate", "nothing")
    assert done.returncode != 0
    assert "nothing" in done.stderr


def test_a_file_runs_from_the_command_line(call, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "p.py").write_text(FILE)
    done = call("openhcs_jupyter.cli", "run", "p.py", "seg", "--plate", "small", "--save")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("seg: 16 units on plate small, run ")
    assert "seg: done, 16 units in" in done.stdout
    run_id = done.stdout.split("run ")[1].split()[0]
    for words, said in (
        (["runs"], run_id),
        (["status", "seg"], "seg: done"),
        (["results", run_id], "Saved in"),
        (["plan", "seg"], "Plan of seg on plate small"),
    ):
        assert main(words) == 0
        assert said in capsys.readouterr().out


def test_control_c_stops_a_run_that_can_go_on(jupyter: Path, data: Path, here: Path) -> None:
    (here / "p.py").write_text(
        "def slowly(stack):\n"
        "    import time\n"
        "    time.sleep(60)\n"
        "    return stack\n"
        "pipeline_steps = [Step(slowly), Step(max_projection, save=True)]\n"
    )
    words = [sys.executable, "-m", "openhcs_jupyter.cli", "run", "p.py", "slow"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "slow: 8 units" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "slow: cancelled after 0 of 8 units" in out
    assert "Interrupted: run slow stopped after 0 of 8 units; --resume" in error
    assert "Traceback" not in error


def test_a_failing_file_makes_the_command_fail(call, tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text(BAD.partition("\n")[2])
    done = call("openhcs_jupyter.cli", "run", "p.py")
    assert done.returncode == 1
    assert "2 of 8 units failed in run 'run'" in done.stderr
    assert "not this one" in done.stderr
    assert "Traceback" not in done.stderr
    long = call("openhcs_jupyter.cli", "run", "p.py", "--traceback")
    assert "Traceback (most recent call last)" in long.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["run", "p.py", "--plat", "1"], 2, "Did you mean --plate?"),
        (["run", "p.py", "--plate", "77"], 1, "77"),
        (["run", "p.py", "--wells", "row:H"], 2, "takes no well"),
        (["run", "nothing.py"], 2, "nothing.py cannot be read"),
        (["run", "n.ipynb"], 2, "is a notebook"),
        (["plats"], 2, "Did you mean plates?"),
        ([], 2, "COMMAND"),
        (["import", "/no/such/folder"], 1, "/no/such/folder"),
        (["status", "nothing"], 1, "nothing"),
        (["demo-plate", "d", "--wells", "7"], 2, "cannot be laid out"),
        (["config", "wrkers"], 2, "Did you mean workers?"),
        (["config", "workers", "many"], 2, "workers"),
        (["uninstall", "--name", "nothing"], 2, "No kernelspec 'nothing'"),
    ],
)
def test_misuse_is_told_briefly(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    (here / "p.py").write_text(FILE)
    assert main(words) == code
    assert said in capsys.readouterr().err


def test_a_plate_is_made_imported_and_listed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo-plate", "my_demo", "--wells", "1x2", "--fields", "2", "--size", "192"]) == 0
    assert "2 wells, 4 fields" in capsys.readouterr().out
    for _ in range(2):
        assert main(["import", "my_demo", "--repository", "repo", "--name", "mine"]) == 0
        assert "Plate 1, mine: ImageXpress, 2 wells, 4 fields" in capsys.readouterr().out
    assert main(["plates", "--repository", "repo"]) == 0
    assert "1 plate in" in capsys.readouterr().out


def test_the_doctor_finds_nothing_missing_after_install(call, jupyter: Path) -> None:
    well = call("openhcs_jupyter.cli", "doctor")
    assert well.returncode == 0, well.stdout
    assert "Ready." in well.stdout
    assert str(jupyter / "prefix") in well.stdout


def test_the_doctor_says_how_to_mend(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(here))
    monkeypatch.setenv("OPENHCS_WORKERS", "many")
    assert main(["doctor"]) == 1
    told = capsys.readouterr().out
    assert "openhcs-jupyter install" in told
    assert "workers" in told


def test_settings_are_kept(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "workers", "1"]) == 0
    assert "workers  1      changed" in capsys.readouterr().out.replace("setting  value", "")
    assert main(["config", "workers", "0"]) == 0
    assert main(["config", "workers"]) == 0
    assert "changed" not in capsys.readouterr().out
