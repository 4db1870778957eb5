"""The notebooks that users start from run as a batch does: nbconvert, the installed kernelspec, a fresh repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

_NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
_FIGURE = 'class="jp-RenderedImage '
_QUICKSTART = _NOTEBOOKS / "01_quickstart.ipynb"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A user's environment with the kernelspec installed and nothing else: no repository, no settings."""
    home = tmp_path_factory.mktemp("home")
    environment = {
        **os.environ,
        "OPENHCS_DATA_DIR": str(home / "data"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "jupyter"),
        "JUPYTER_PATH": str(home / "prefix" / "share" / "jupyter"),
    }
    command = [sys.executable, "-m", "openhcs_jupyter.cli", "install", "--prefix", str(home / "prefix")]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return environment


def test_the_quickstart_runs_and_names_its_results(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "html", "--execute"]
    command += ["--KernelManager.transport_encryption=auto", "--ExecutePreprocessor.kernel_name=openhcs"]
    command += ["--output-dir", str(tmp_path), str(_QUICKSTART)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "01_quickstart.html").read_text()
    assert html.count("data:image/png;base64,") >= 2
    match = re.search(r"Results: (/[^<\s]+)", html)
    assert match is not None
    results = Path(match[1])
    assert results.is_relative_to(environment["OPENHCS_DATA_DIR"])
    assert {"tables", "provenance.json", "results.json"} <= {path.name for path in results.iterdir()}
    assert {path.stem for path in (results / "tables").iterdir()} == {"nuclei", "wells"}


def test_own_functions_are_changed_and_only_what_changed_is_done(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "html", "--execute"]
    command += ["--KernelManager.transport_encryption=auto", "--ExecutePreprocessor.kernel_name=openhcs"]
    command += ["--output-dir", str(tmp_path), str(_NOTEBOOKS / "03_your_own_functions.ipynb")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "03_your_own_functions.html").read_text()
    assert html.count("data:image/png;base64,") >= 3
    said = r"(\d+) units of work, (\d+) of them taken from earlier runs;\s"
    said += r"(\d+) went on from images that an earlier run had kept; ([\d.]+) s of computing"
    first, changed, commented = re.findall(said, html)
    assert int(first[1]) == 1  # the preview's
    assert int(first[2]) == 0
    assert int(changed[1]) == 0
    assert commented[0] == commented[1]
    assert float(commented[3]) == 0


def _page(environment: dict[str, str], folder: Path, notebook: str, **more: str) -> str:
    """Execute a copy of a notebook in a folder, and return the page that it becomes."""
    shutil.copy(_NOTEBOOKS / f"{notebook}.ipynb", folder)
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "html", "--execute"]
    command += ["--KernelManager.transport_encryption=auto", "--ExecutePreprocessor.kernel_name=openhcs", notebook]
    done = subprocess.run(
        command, cwd=folder, env=environment | more, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return (folder / f"{notebook}.html").read_text()


def test_a_real_plate_is_shown_with_what_it_lacks(
    environment: dict[str, str], tmp_path: Path, real_plates: Path
) -> None:
    data = str(tmp_path / "data")
    page = _page(environment, tmp_path, "02_imagexpress", OPENHCS_TEST_PLATES=str(real_plates), OPENHCS_DATA_DIR=data)
    assert "A plate from a real microscope" in page
    assert "channel w3 has a projection only, no stack" in page
    assert "CompileError" in page
    assert page.count(_FIGURE) == 6


def test_without_a_real_plate_a_synthetic_one_stands_in_and_says_so(
    environment: dict[str, str], tmp_path: Path
) -> None:
    data = str(tmp_path / "data")
    page = _page(environment, tmp_path, "02_imagexpress", OPENHCS_TEST_PLATES="", OPENHCS_DATA_DIR=data)
    assert "No plate was named, so a SYNTHETIC one stands in" in page
    assert page.count(_FIGURE) == 6


def test_the_three_ways_of_an_openhcs_pipeline_are_equal(environment: dict[str, str], tmp_path: Path) -> None:
    page = _page(environment, tmp_path, "04_coming_from_openhcs")
    assert "96 of 96 images are equal in all three runs." in page
    assert page.count(_FIGURE) == 2


def test_a_batch_takes_other_parameters_and_leaves_tables(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "papermill", "--kernel", "openhcs", "--cwd", str(tmp_path), "--no-progress-bar"]
    command += [str(_NOTEBOOKS / "05_batch.ipynb"), str(tmp_path / "report.ipynb")]
    command += ["-p", "wells", "A01,A06,B01,B06", "-p", "smoothing", "1.5", "-p", "out", "tables"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    wells = pd.read_csv(tmp_path / "tables" / "plate-1" / "wells.csv")
    assert list(wells["well"]) == ["A01", "A06", "B01", "B06"]
    assert (wells["mean_GFP"][[1, 3]] > wells["mean_GFP"][[0, 2]].max()).all()
    outputs = [out for cell in nbformat.read(tmp_path / "report.ipynb", 4).cells for out in cell.get("outputs", [])]
    assert any("Z' of GFP" in out.get("text", "") for out in outputs)
    assert sum("image/png" in out.get("data", {}) for out in outputs) == 3


def test_fields_are_stitched_and_neurites_traced(environment: dict[str, str], tmp_path: Path) -> None:
    # The notebook's plate lies in a folder for temporary files.
    page = _page(environment, tmp_path, "06_stitching_and_neurites", TMPDIR=str(tmp_path))
    assert page.count(_FIGURE) == 3
    told = re.search(r"as found': '([\d.]+) pixels", page)
    assert told is not None
    assert float(told[1]) < 0.5


def test_jobs_of_a_server_are_sent_left_and_found_again(environment: dict[str, str], tmp_path: Path) -> None:
    page = _page(environment, tmp_path, "09_execution_server", TMPDIR=str(tmp_path))
    assert re.search(r"nuclei: job \S+ on here is", page)
    assert "cannot be sent: an array of float64, 3 x 3" in page
    assert "3 jobs on here" in page
    assert page.count(" done, 12 units in ") == 2
    assert "((1, 2, 1," in page
    assert "'running', 'done']" in page


@pytest.mark.parametrize("path", sorted(_NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_and_names_our_kernel(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kernelspec.name == "openhcs"
    assert notebook.metadata.kernelspec.display_name == "OpenHCS"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert not [cell for cell in code if cell.outputs or cell.execution_count]
