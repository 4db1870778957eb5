"""Images of results that are registered in OMERO as OME-Zarr, where the server shows that it serves them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("omero", reason="omero-py is not installed: it needs Ice, see docs/omero.md")

from openhcs_jupyter import Step
from openhcs_jupyter.compiler import compile
from openhcs_jupyter.engine import run
from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.functions import max_projection
from openhcs_jupyter.model import Channel, ResultSpec, RunRecord
from openhcs_jupyter.pipeline import Pipeline
from openhcs_jupyter.repository import FieldResults
from openhcs_jupyter.repository.omero import OmeroRepository
from openhcs_jupyter.repository.omero.markers import marker_of
from openhcs_jupyter.repository.omero.queries import ask
from openhcs_jupyter.repository.omero.results import OmeroWriter
from openhcs_jupyter.topology import discover
from tests.omero.lab import Lab

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif("OMERO_HOST" in os.environ, reason="it is a stand-in that serves OME-Zarr, and then does not"),
]
_ROOT = Path(__file__).parents[2]
_RESULT = "a/b c"
_PIXELS = np.arange(1, 2 * 3 * 40 * 50 + 1, dtype=np.uint16).reshape(1, 2, 3, 40, 50)

_KILLED = """
import os, signal, sys
from openhcs_jupyter.repository.omero import OmeroRepository, images, results
from tests.omero.test_zarr_results import begin, write, writer

uri, plate, name = sys.argv[1:]
with OmeroRepository(uri) as repository:
    made = writer(repository, int(plate), "killed" + name)
    begin(made)
    module = images if hasattr(images, name) and name.startswith("_") else results
    setattr(module, name, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    write(made)
"""


@pytest.fixture
def shared(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder that the server sees, too; the server serves what is registered there."""
    folder = tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setenv("OPENHCS_OMERO_ZARR_RESULTS", str(folder))
    lab.server.ask(zarr="served")
    yield folder
    lab.server.ask(zarr="")


def writer(repository: OmeroRepository, plate: int, run: str) -> OmeroWriter:
    record = RunRecord(
        id=run, name="spots", repository=repository.uri, plate_id=plate, plate_name="drawn", source="", source_name="",
        options={}, user="ada", host="here", started="now", versions={}, inputs={},
    )  # fmt: skip
    return OmeroWriter(repository, record)


def begin(made: OmeroWriter) -> None:
    made.begin([ResultSpec(name=_RESULT, kind="image", step=0, scope="field")], [Channel(name="DAPI")], 8, 12)


def write(made: OmeroWriter) -> None:
    """Write one field."""
    made.write_field(FieldResults(well="A01", field=1, arrays={_RESULT: _PIXELS}, pixel_size_um=0.5, z_step_um=None))


def images_of(repository: OmeroRepository, run: str) -> list[tuple[str, int, str | None]]:
    """List description, id of the pixels, and OME-Zarr folder of a run's images."""
    query = (
        "select i.description, p.id, ei.lsid from Image i join i.pixels p "
        "left outer join i.details.externalInfo ei where i.description like :text"
    )
    rows = repository.connection.call(
        lambda session: ask(session, query, repository.connection.everywhere, text=f"{marker_of(run)} %")
    )
    return [(text, pixels, path) for text, pixels, path in rows]


def files(folder: Path) -> list[Path]:
    """List the OME-Zarr images below a folder."""
    return sorted(folder.rglob("*.zarr"))


def served(repository: OmeroRepository, pixels: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return an image as the server gives it."""
    store = repository.connection.session.createRawPixelsStore()
    try:
        store.setPixelsId(pixels, False, repository.connection.everywhere)
        planes = [np.frombuffer(store.getPlane(z, c, t), ">u2") for t, c, z in np.ndindex(shape[:3])]
    finally:
        store.close()
    return np.stack(planes).reshape(shape)


def test_a_run_registers_its_images_and_they_are_read_in_place_and_deleted_with_their_files(
    lab: Lab, shared: Path, ada: OmeroRepository
) -> None:
    number, made = lab.made_by_client
    pipeline = Pipeline([Step(max_projection, save=True, name="mip")], name="spots")
    lab.server.ask(calls=True)
    done = run(compile(pipeline, ada.plate(number), discover(), save=True, workers=2)).result()
    assert {"RawPixels.setPlane", "RawPixels.setTile"}.isdisjoint(lab.server.ask(calls=True)["calls"])
    assert f"Images are registered in OMERO as OME-Zarr in {shared / done.id}." in done.notices
    registered = [path for _, _, path in images_of(ada, done.id)]
    assert sorted(map(str, registered)) == [str(path) for path in files(shared)]  # what was tried is gone
    plate = ada.plate("drawn spots mip")
    assert [well.name for well in plate.wells] == list(made.wells)
    assert [channel.name for channel in plate.channels] == list(made.channels)
    for well, field in plate.fields():
        (image,) = field.images
        assert image.layout.pixel_size_um == pytest.approx(0.65)
        lab.server.ask(calls=True)
        with ada.open(image) as source:
            for c in range(len(made.channels)):
                expected = np.max([made.plane(well.name, field.number, c, z) for z in range(made.z)], axis=0)
                np.testing.assert_array_equal(source.plane(0, c, 0), expected)
        assert not [call for call in lab.server.ask(calls=True)["calls"] if call.startswith("RawPixels")]
    told = ada.told_of([field.images[0] for _, field in plate.fields()])
    assert told == (f"{len(registered)} of {len(registered)} images are read in place.",)
    (shared / "of somebody else").mkdir()
    assert "stays" not in ada.delete_results(done.id)
    assert images_of(ada, done.id) == []
    assert [path.name for path in shared.iterdir()] == ["of somebody else"]


def test_the_server_gives_what_was_written(lab: Lab, shared: Path, ada: OmeroRepository) -> None:
    number, _ = lab.made_by_client
    ada.plate(number)
    made = writer(ada, number, "served")
    begin(made)
    write(made)
    ((_, pixels, path),) = images_of(ada, "served")
    np.testing.assert_array_equal(served(ada, pixels, _PIXELS.shape), _PIXELS)
    assert path is not None
    assert " " not in path.removeprefix(str(shared))  # servers take it for a URI
    write(made)  # the same unit, once more
    ((_, _, again),) = images_of(ada, "served")
    assert [str(one) for one in files(shared) if "probe" not in str(one)] == [again] != [path]
    made.finish([("A01", 1)], {})
    assert [str(one) for one in files(shared)] == [again]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENHCS_OMERO_ZARR_RESULTS", "")
        assert ada.delete_results("served").endswith(f"not in omero_zarr_results, and stay: {again}.")
    assert files(shared)
    assert "has made nothing" in ada.delete_results("served")
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize("server", ["", "blank", "no folder", "not absolute"])
def test_a_server_that_does_not_serve_it_is_sent_the_pixels_and_the_run_says_why(
    lab: Lab, shared: Path, ada: OmeroRepository, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    why = {"": "does not give its pixels", "blank": "gives other pixels"}.get(server, "there is no such folder")
    if server in ("", "blank"):
        lab.server.ask(zarr=server)
    else:
        name = "elsewhere" if server == "not absolute" else str(shared / "elsewhere")
        monkeypatch.setenv("OPENHCS_OMERO_ZARR_RESULTS", name)
    number, _ = lab.made_by_client
    ada.plate(number)
    run = f"sent-{server.replace(' ', '-')}"
    made = writer(ada, number, run)
    begin(made)
    write(made)
    (told,) = made.told
    assert told.startswith("Images are sent to OMERO, not registered")
    assert why in told
    assert list(shared.iterdir()) == []
    ((text, pixels, path),) = images_of(ada, run)  # that of the attempt is gone
    assert text.endswith("a/b c A01 field 1")
    assert path is None
    np.testing.assert_array_equal(served(ada, pixels, _PIXELS.shape), _PIXELS)
    made.abort()


@pytest.mark.parametrize("moment", ["write_image", "_register", "leave_only"])
def test_a_kill_between_files_and_registration_leaves_nothing_that_counts(
    lab: Lab, shared: Path, ada: OmeroRepository, moment: str
) -> None:
    number, run = lab.made_by_client[0], f"killed{moment}"
    command = [sys.executable, "-W", "ignore", "-c", _KILLED, lab.uri("ada"), str(number), moment]
    killed = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(_ROOT)}, cwd=_ROOT, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert len(files(shared)) == 2  # what was tried, and what was being written
    ada.plate(number)
    made = writer(ada, number, run)
    begin(made)
    write(made)
    made.finish([("A01", 1)], {})
    ((_, pixels, path),) = images_of(ada, run)
    assert [str(one) for one in files(shared)] == [path]
    np.testing.assert_array_equal(served(ada, pixels, _PIXELS.shape), _PIXELS)
    assert f"Deleted of run {run}" in ada.delete_results(run)
    assert list(shared.iterdir()) == []


def test_a_worker_that_does_not_see_the_folder_says_so(lab: Lab, shared: Path, ada: OmeroRepository) -> None:
    number, _ = lab.made_by_client
    ada.plate(number)
    made = writer(ada, number, "unseen")
    begin(made)
    away = shared.rename(shared.with_name("away"))
    shared.mkdir()  # as on a machine with a folder of its own there
    with pytest.raises(RepositoryError, match=r"is not what OMERO serves there"):
        write(writer(ada, number, "unseen"))
    assert images_of(ada, "unseen") == []
    assert list(shared.iterdir()) == []
    assert files(away)
    made.abort()
