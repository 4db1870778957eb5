"""A person at a notebook, on a plate of OMERO."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("omero", reason="omero-py is not installed: it needs Ice, see docs/omero.md")

from tests.jupyter import TIMEOUT_S, Kernel, jupyter_in, kernel
from tests.omero.lab import Lab
from tests.omero_standin.sample import PASSWORDS

CELL = """%%openhcs spots --plate acquired --save
from openhcs_jupyter.functions import max_projection, gaussian_blur
pipeline_steps = [Step(max_projection, save=True, name="mip"), Step(gaussian_blur, channel="DAPI")]
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("jupyter")
    with jupyter_in(folder), kernel(folder / "data", folder) as running:
        yield running


def test_the_password_is_asked_once_and_shown_nowhere(lab: Lab, notebook: Kernel) -> None:
    request = notebook.send(f"%openhcs connect {lab.uri('ada')}", batch=False)
    asked = notebook.client.get_stdin_msg(timeout=TIMEOUT_S)
    assert (asked["content"]["prompt"], asked["content"]["password"]) == ("Password of ada: ", True)
    notebook.client.input(PASSWORDS["ada"])
    told = notebook.collect(request)
    assert not told.error
    assert "acquired" in told.text
    assert PASSWORDS["ada"] not in told.text + told.html
    again = notebook.run(f"%openhcs connect {lab.uri('ada')}")
    assert not again.error
    assert "drawn" in again.text


def test_a_cell_runs_on_a_plate_by_its_name_and_its_results_are_in_omero(lab: Lab, notebook: Kernel) -> None:
    done = notebook.run(CELL)
    assert not done.error, done.error
    assert "done" in done.text
    listed = notebook.run("%openhcs plates")
    assert "acquired spots mip" in listed.text


@pytest.mark.parametrize(
    "made", ["acquired spots mip", "https://omero.lab.edu/webclient/?show=plate-{plate}", "Image:{image}"]
)
def test_the_cell_is_made_again_from_what_it_made(lab: Lab, notebook: Kernel, made: str) -> None:
    with lab.join("ada") as ada:
        plate = ada.plate("acquired spots mip")
    name = made.format(plate=plate.id, image=plate.wells[0].fields[0].images[0].id)
    told = notebook.run(f"%openhcs replay '{name}'")
    assert not told.error, told.error
    assert f"%%openhcs spots --plate {lab.imported[0]} --save" in told.text
    assert 'Step(max_projection, save=True, name="mip")' in told.text


def test_what_no_run_made_says_so(lab: Lab, notebook: Kernel) -> None:
    told = notebook.run("%openhcs replay Plate:drawn")
    assert "No run has made Plate:drawn" in told.error


def test_groups_are_listed_and_one_is_taken(notebook: Kernel) -> None:
    listed = notebook.run("%openhcs group")
    assert "read-annotate" in listed.text
    notebook.run("%openhcs group archive")
    assert "acquired" not in notebook.run("%openhcs plates").text
    assert "in no group 'elsewhere'" in notebook.run("%openhcs group elsewhere").error
    notebook.run("%openhcs group all")
    assert "acquired" in notebook.run("%openhcs plates").text


def test_the_results_of_a_run_are_deleted(lab: Lab, notebook: Kernel) -> None:
    told = notebook.run("%openhcs results spots --delete")
    assert "1 Plate" in told.text
    assert "acquired spots mip" not in notebook.run("%openhcs plates").text


def test_a_batch_joins_the_session_and_never_asks(lab: Lab, notebook: Kernel) -> None:
    told = notebook.run(f"%openhcs connect {lab.uri('grace')}")
    assert "There is no session" in told.error


def test_the_keys_are_in_no_file_that_others_read(notebook: Kernel, tmp_path_factory: pytest.TempPathFactory) -> None:
    kept = [path for path in Path(tmp_path_factory.getbasetemp()).rglob("*_ada.json") if path.is_file()]
    assert kept
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept)
