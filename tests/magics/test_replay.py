"""A run is made again from what was kept of it, in another session, and gives the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from openhcs_jupyter.engine import load_run
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from tests.engine.bench import contents
from tests.jupyter import Kernel, kernel

EARLIER = """
import numpy as np
SCALE = 3

class Bright:
    level = 1000

def clipped(stack, top=4000):
    return np.minimum(stack, top)

def stretched(stack, by):
    return clipped(stack) * np.uint16(by * SCALE) + np.uint16(Bright.level)
"""
CELL = """%%openhcs first --plate small --wells A01,B02 --channels DAPI
# a comment stays
pipeline_steps = [
    Step(max_projection),
    Step(stretched, {"by": 2}, save=True),
    Step(segment_nuclei, channel="DAPI", outputs=Labels("nuclei")),
]"""


def shell(data: Path, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"OPENHCS_DATA_DIR": str(data), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "openhcs_jupyter.cli", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_a_cell_with_functions_of_earlier_cells_is_made_again(
    notebook: Kernel, jupyter: Path, data: Path, tmp_path: Path
) -> None:
    notebook.run(EARLIER)
    assert notebook.run(CELL).error == ""
    with EmbeddedRepository(data / "repository") as repository:
        first = load_run(repository, "first")
        expected = contents(first)
        # In another session; from the shell, through a file.
        told = shell(data, "replay", "first", folder=tmp_path)
        assert told.returncode == 0, told.stderr
        head = "%%openhcs first --plate 1 --wells A01,B02 --channels DAPI --no-save\n# Made again"
        assert told.stdout.startswith(head)
        (tmp_path / "again.py").write_text(told.stdout)
        ran = shell(data, "run", "again.py", "again", "--force", folder=tmp_path)
        assert ran.returncode == 0, ran.stderr
        assert contents(load_run(repository, "again")) == expected
        with kernel(data, jupyter) as fresh:
            # A batch prints it; what a notebook offers as its next cell is the same.
            assert fresh.run(f"%openhcs replay {first.id}").text == told.stdout
            assert fresh.run(told.stdout.replace("first", "third", 1).replace("--no-save", "--force")).error == ""
        assert contents(load_run(repository, "third")) == expected


def test_someone_who_looks_finds_it_in_the_next_cell(notebook: Kernel) -> None:
    notebook.run(CELL.replace('Step(stretched, {"by": 2}, save=True)', "Step(max_projection, save=True)"))
    notebook.collect(notebook.send("import sys", batch=False))
    out = notebook.collect(request := notebook.send("%openhcs replay first", batch=False))
    assert out.error == ""
    assert "%%openhcs first" not in out.text
    reply = notebook.client.get_shell_msg(timeout=30)
    while reply["parent_header"].get("msg_id") != request:
        reply = notebook.client.get_shell_msg(timeout=30)
    (payload,) = reply["content"]["payload"]
    assert payload["source"] == "set_next_input"
    assert payload["text"].startswith("%%openhcs first --plate 1 --wells A01,B02")


def test_what_cannot_be_written_is_named(notebook: Kernel) -> None:
    notebook.run("import numpy as np\nflat = np.ones((192, 192))\ndef flattened(stack): return stack / flat")
    assert notebook.run("%%openhcs flattened_run --wells A01\npipeline_steps = [Step(flattened)]").error == ""
    out = notebook.run("%openhcs replay flattened_run").text
    assert "there must be, as it was: flat (an array of float64, 192 x 192)" in out
    assert "pipeline_steps = [Step(flattened)]" in out


def test_the_store_is_shown_and_cleared(notebook: Kernel, data: Path, tmp_path: Path) -> None:
    notebook.run("def slow(stack):\n    import time\n    time.sleep(0.1)\n    return stack + 1")
    steps = "pipeline_steps = [Step(max_projection), Step(slow), Step(slow, save={save})]"
    for save in (True, False):
        assert notebook.run(f"%%openhcs kept --wells A01\n{steps.format(save=save)}").error == ""
    shown = notebook.run("%openhcs cache").text
    assert "between steps" in shown
    assert "limit" in shown
    assert "Nothing more is kept" not in shown
    short = notebook.run("%env OPENHCS_SPARE_GB=9e5\n%openhcs cache").text
    assert "Nothing more is kept between steps, so that 900 TB of the disk stay free." in short
    notebook.run("%env OPENHCS_SPARE_GB=0.001")
    assert list((data / "repository" / "runs").glob("*/waypoints/*/stack.0.npy"))
    assert "Removed" in shell(data, "cache", "clear", "--results", folder=tmp_path).stdout
    assert not list((data / "repository" / "runs").glob("*/waypoints/*"))
    # What the latest run shows is there.
    assert notebook.run("print(kept.image(well='A01', field=1).shape)").text.strip() == "(1, 2, 1, 192, 192)"
