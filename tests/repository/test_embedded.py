"""The embedded repository: the suite that all repositories pass, and what only this one does."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import pytest

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Plate
from openhcs_jupyter.repository import connect
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.repository.embedded.formats import Reader
from tests.plates import MadePlate, MakePlate, write_plate
from tests.repository.conformance import RepositoryConformance


class _OnFiles(RepositoryConformance):
    options: ClassVar[dict[str, object]] = {}

    @pytest.fixture
    def made(self, make_plate: MakePlate) -> MadePlate:
        return make_plate(**self.options)

    @pytest.fixture
    def repository(self, tmp_path: Path, made: MadePlate) -> Iterator[EmbeddedRepository]:
        with EmbeddedRepository(tmp_path / "repository") as repository:
            repository.import_plate(made.folder)
            yield repository


class TestUncompressed(_OnFiles):
    """Planes that are mapped."""


class TestBigEndian(_OnFiles):
    """Planes in the other byte order."""

    options: ClassVar[dict[str, object]] = {"byteorder": ">"}


class TestCompressed(_OnFiles):
    """Planes that are decoded."""

    options: ClassVar[dict[str, object]] = {"compression": "zlib", "predictor": True, "rowsperstrip": 5}


class TestFloat(_OnFiles):
    """Planes whose pixels are not aligned in the file."""

    options: ClassVar[dict[str, object]] = {"dtype": "float32", "size": (7, 9)}


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def only_image(plate: Plate) -> object:
    return plate.wells[0].fields[0].images[0]


# Connecting


def test_a_new_folder_becomes_an_empty_repository(tmp_path: Path) -> None:
    with connect(tmp_path / "a" / "b") as repository:
        assert repository.plates() == []
        assert repository.uri == str(tmp_path / "a" / "b")
        assert repository.runs_folder == tmp_path / "a" / "b" / "runs"
    with connect(str(tmp_path / "a" / "b")) as again:
        assert again.plates() == []


def test_relative_and_home_folders_have_an_absolute_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("here", "~/there"):
        with connect(name) as repository:
            assert repository.uri == str(tmp_path / name.removeprefix("~/"))


def test_default_lies_in_the_data_folder_and_is_what_settings_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENHCS_DATA_DIR", str(tmp_path))
    with connect("default") as repository:
        assert repository.uri == str(tmp_path / "repository")
    monkeypatch.setenv("OPENHCS_REPOSITORY", str(tmp_path / "mine"))
    with connect() as repository:
        assert repository.uri == str(tmp_path / "mine")


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RepositoryError, match="not empty and holds no repository"):
        connect(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryError, match="is a file"):
        connect(tmp_path / "file")


def test_a_folder_that_cannot_be_written_is_an_error() -> None:
    with pytest.raises(RepositoryError, match="cannot be made in /proc/"):
        connect("/proc/openhcs")


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("omero://ada:secret@omero.lab.edu", "A password does not belong into an address"),
        ("ftp://host/x", "no kind of repository named 'ftp'"),
        ("  ", "empty"),
    ],
)
def test_other_addresses_are_refused(uri: str, says: str) -> None:
    with pytest.raises(RepositoryError, match=says):
        connect(uri)


def test_a_catalogue_of_a_later_version_is_refused(tmp_path: Path) -> None:
    connect(tmp_path / "r").close()
    with sqlite3.connect(tmp_path / "r" / "catalogue.sqlite") as catalogue:
        catalogue.execute("PRAGMA user_version=99")
    catalogue.close()
    with pytest.raises(RepositoryError, match="version 99"):
        connect(tmp_path / "r")


def test_a_damaged_catalogue_is_named(tmp_path: Path) -> None:
    connect(tmp_path / "r").close()
    (tmp_path / "r" / "catalogue.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(RepositoryError, match=r"catalogue\.sqlite cannot be read"):
        connect(tmp_path / "r")


def test_what_a_killed_process_left_of_a_new_catalogue_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / ".catalogue.sqlite-123-456").write_bytes(b"half")
    with connect(tmp_path) as repository:
        assert repository.plates() == []


def _connect_and_count(folder: str) -> int:
    with connect(folder) as repository:
        return len(repository.plates())


def test_several_processes_make_one_repository(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert pool.map(_connect_and_count, [str(tmp_path / "r")] * 8, chunksize=1) == [0] * 8
    assert [path.name for path in (tmp_path / "r").glob(".catalogue*")] == []


# Importing


def test_importing_again_changes_nothing(repository: EmbeddedRepository, make_plate: MakePlate) -> None:
    made = make_plate()
    first = repository.import_plate(made.folder)
    plate = repository.plate(first.id)
    assert repository.import_plate(made.folder) == first
    assert repository.plate(first.id) == plate


def test_a_name_can_be_given_and_changed(repository: EmbeddedRepository, make_plate: MakePlate) -> None:
    made = make_plate(wells=("A01",), fields=1, z=1)
    assert repository.import_plate(made.folder).name == "plate"
    assert repository.import_plate(made.folder, name="screen 7").name == "screen 7"
    assert repository.import_plate(made.folder).name == "screen 7"


def test_two_plates_of_one_name_are_told_apart_by_id(
    repository: EmbeddedRepository, make_plate: MakePlate, tmp_path: Path
) -> None:
    ids = [
        repository.import_plate(make_plate(tmp_path / name / "plate", wells=("A01",), fields=1, z=1).folder).id
        for name in ("one", "two")
    ]
    with pytest.raises(RepositoryError, match="Several plates are named 'plate': 1, 2"):
        repository.plate("plate")
    assert [repository.plate(number).id for number in ids] == ids


def test_a_changed_file_gives_its_image_a_new_version_and_keeps_all_ids(
    repository: EmbeddedRepository, make_plate: MakePlate
) -> None:
    made = make_plate()
    summary = repository.import_plate(made.folder)
    before = repository.plate(summary.id)
    os.utime(made.file("B02", 1, 0, 0), ns=(1, 1))
    assert repository.import_plate(made.folder).id == summary.id
    after = repository.plate(summary.id)
    changed = [
        (well.name, field.number)
        for (well, field), (_, old) in zip(after.fields(), before.fields(), strict=True)
        if field.images[0].version != old.images[0].version
    ]
    assert changed == [("B02", 1)]
    for (_, new), (_, old) in zip(after.fields(), before.fields(), strict=True):
        assert (new.id, new.images[0].id) == (old.id, old.images[0].id)


def test_an_added_well_leaves_the_ids_of_others(repository: EmbeddedRepository, make_plate: MakePlate) -> None:
    made = make_plate(wells=("A01", "B02"), fields=1, z=1)
    before = repository.plate(repository.import_plate(made.folder).id)
    for c in range(2):
        made.write("A02", 1, c, 0)
    after = repository.plate(repository.import_plate(made.folder).id)
    assert [well.name for well in after.wells] == ["A01", "A02", "B02"]
    ids = {well.name: well.id for well in after.wells}
    assert [ids[well.name] for well in before.wells] == [well.id for well in before.wells]
    assert after.wells[0] == before.wells[0]


def test_a_file_that_changed_since_is_noticed_on_opening(repository: EmbeddedRepository, make_plate: MakePlate) -> None:
    made = make_plate(wells=("A01",), fields=1)
    repository.import_plate(made.folder)
    image = only_image(repository.plate(1))
    os.utime(made.file("A01", 1, 1, 2), ns=(1, 1))
    with pytest.raises(RepositoryError, match=r"_w2\.tif has changed since the plate was imported"):
        repository.open(image)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_file_that_is_cut_short_while_it_is_open_is_an_error_and_no_crash(
    repository: EmbeddedRepository, make_plate: MakePlate, compression: str | None
) -> None:
    made = make_plate(wells=("A01",), fields=1, compression=compression)
    repository.import_plate(made.folder)
    path = made.file("A01", 1, 0, 0)
    with repository.open(only_image(repository.plate(1))) as pixels:
        os.truncate(path, path.stat().st_size // 2)
        with pytest.raises(RepositoryError, match=path.name):
            pixels.plane(0, 0, 0)
        path.unlink()
        with pytest.raises(RepositoryError, match="is gone"):
            pixels.plane(0, 0, 0)


def test_a_plate_loaded_before_a_new_import_cannot_be_read_by_mistake(
    repository: EmbeddedRepository, make_plate: MakePlate
) -> None:
    made = make_plate(wells=("A01",), fields=1)
    repository.import_plate(made.folder)
    image = only_image(repository.plate(1))
    os.utime(made.file("A01", 1, 0, 0), ns=(1, 1))
    repository.import_plate(made.folder)
    with pytest.raises(RepositoryError, match="imported again since the plate was loaded"):
        repository.open(image)


def test_more_planes_can_be_held_than_files_may_be_open(repository: EmbeddedRepository, make_plate: MakePlate) -> None:
    made = make_plate(wells=("A01",), fields=1, channels=("DAPI",), z=2)
    repository.import_plate(made.folder)
    held = []
    with repository.open(only_image(repository.plate(1))) as pixels:
        before = open_files()
        held = [pixels.plane(0, 0, z) for z in (0, 1) for _ in range(50)]
        assert open_files() == before
    assert all(np.array_equal(plane, made.plane("A01", 1, 0, 0)) for plane in held[:50])


@pytest.mark.parametrize(
    ("content", "says"), [(None, "There is no folder"), ({}, "no files"), ({"notes.txt": b"x"}, r"it has notes\.txt")]
)
def test_a_folder_that_is_no_plate_is_an_error_that_says_what_was_looked_for(
    repository: EmbeddedRepository, tmp_path: Path, content: dict[str, bytes] | None, says: str
) -> None:
    folder = tmp_path / "folder"
    if content is not None:
        folder.mkdir()
        for name, data in content.items():
            (folder / name).write_bytes(data)
    with pytest.raises(RepositoryError, match=says) as raised:
        repository.import_plate(folder)
    assert content is None or "ImageXpress: TIFF files named like PLATE_A01_s1_w1.tif" in str(raised.value)
    assert repository.plates() == []


def _import(uri: str, folder: str) -> str:
    with EmbeddedRepository(uri) as repository:
        return json.dumps(msgspec.to_builtins(repository.import_plate(folder)))


def test_several_processes_import_at_once(
    repository: EmbeddedRepository, make_plate: MakePlate, tmp_path: Path
) -> None:
    one = make_plate(tmp_path / "one", fields=1, z=1).folder
    two = make_plate(tmp_path / "two", fields=1, z=1).folder
    calls = [(repository.uri, str(folder)) for folder in (one, two) * 4]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        seen = pool.starmap(_import, calls, chunksize=1)
    assert len(set(seen)) == 2
    assert sorted(plate.name for plate in repository.plates()) == ["one", "two"]


_IMPORTS_AND_STOPS = """
import sys
from openhcs_jupyter.repository.embedded import EmbeddedRepository

def stop(statement):
    seen.extend([statement] * statement.startswith(("INSERT", "DELETE")))
    if sys.argv[3] in (statement, str(len(seen))):
        print("writing", flush=True)
        sys.stdin.read()

seen = []
repository = EmbeddedRepository(sys.argv[1])
repository.catalogue.connection().set_trace_callback(stop)
repository.import_plate(sys.argv[2])
print("finished", flush=True)
"""


@pytest.mark.parametrize("statement", ["1", "12", "COMMIT"])
@pytest.mark.parametrize("known", [False, True])
def test_a_process_killed_while_it_writes_leaves_what_was_there(
    repository: EmbeddedRepository, make_plate: MakePlate, statement: str, known: bool
) -> None:
    made = make_plate()
    before = [repository.import_plate(made.folder)] if known else []
    plates = [repository.plate(summary.id) for summary in before]
    os.utime(made.file("A01", 1, 0, 0), ns=(1, 1))
    command = [sys.executable, "-c", _IMPORTS_AND_STOPS, repository.uri, str(made.folder), statement]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert repository.plates() == before
    assert [repository.plate(summary.id) for summary in before] == plates
    assert repository.catalogue.connection().execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert repository.import_plate(made.folder).planes == 24


_KEEPS_UNTIL_EXIT = """
import ctypes
import sys
import types
from pathlib import Path

sys.modules["holder"] = holder = types.ModuleType("holder")
from openhcs_jupyter.repository.embedded import EmbeddedRepository, catalogue

holder.repository = EmbeddedRepository(Path(sys.argv[1]))
holder.repository.plates()
# As libraries in C do: both modules are still there when Python empties modules, the later one first.
for module in (holder, catalogue):
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(module))
"""


def test_a_script_that_keeps_a_repository_until_it_ends_prints_nothing(repository: EmbeddedRepository) -> None:
    command = [sys.executable, "-c", _KEEPS_UNTIL_EXIT, repository.uri]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_reading_goes_on_while_another_process_writes(repository: EmbeddedRepository, make_plate: MakePlate) -> None:
    made = make_plate(fields=1, z=1)
    repository.import_plate(made.folder)
    with EmbeddedRepository(repository.uri) as other, other.catalogue.transaction() as connection:
        connection.execute("UPDATE plate SET name = 'half done'")
        assert [plate.name for plate in repository.plates()] == ["plate"]


def test_an_interrupted_import_leaves_nothing(repository: EmbeddedRepository, make_plate: MakePlate) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repository.import_plate(make_plate().folder, progress=interrupt)
    assert repository.plates() == []


def test_progress_ends_with_all_files(repository: EmbeddedRepository, make_plate: MakePlate) -> None:
    seen: list[tuple[int, int]] = []
    repository.import_plate(make_plate(fields=3, z=6).folder, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (72, 72)
    assert seen == sorted(seen)


def test_connections_of_finished_threads_are_closed(repository: EmbeddedRepository) -> None:
    def work() -> None:
        repository.plates()

    repository.plates()
    before = open_files()
    for _ in range(20):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert open_files() <= before + 3


# The demo


def test_the_demo_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic = pytest.importorskip("openhcs_jupyter.repository.embedded.synthetic")
    made = []

    def write_small(folder: Path, spec: object, progress: object = None) -> None:
        made.append(spec)
        write_plate(folder, wells=("A01",), fields=1, z=1)

    monkeypatch.setattr(synthetic, "write_plate", write_small)
    monkeypatch.setenv("OPENHCS_DATA_DIR", str(tmp_path))
    for _ in range(2):
        with connect("demo") as repository:
            assert repository.uri == str(tmp_path / "demo")
            assert [plate.name for plate in repository.plates()] == ["demo"]
            assert repository.plates()[0].source == str(tmp_path / "demo" / "plates" / "demo")
    assert made == [synthetic.DEMO]


def test_a_catalogue_of_the_first_version_is_brought_up_to_date(tmp_path: Path, make_plate: MakePlate) -> None:
    folder = tmp_path / "old"
    with EmbeddedRepository(folder) as repository:
        before = repository.plate(repository.import_plate(make_plate().folder).id)
    with sqlite3.connect(folder / "catalogue.sqlite") as catalogue:
        catalogue.execute("ALTER TABLE channel DROP COLUMN excitation_nm")
        catalogue.execute("ALTER TABLE wellsample DROP COLUMN acquired")
        catalogue.execute("PRAGMA user_version=1")
    catalogue.close()
    with EmbeddedRepository(folder) as repository:
        assert repository.plate(before.id) == before
        with repository.open(before.wells[0].fields[0].images[0]) as pixels:
            assert pixels.plane(0, 0, 0).any()


def test_a_plane_of_another_type_than_its_file_says_is_an_error(
    tmp_path: Path, make_plate: MakePlate, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_plate(wells=("A01",), fields=1, compression="zlib")
    with EmbeddedRepository(tmp_path / "repository") as repository:
        repository.import_plate(made.folder)
        image = repository.plate(1).wells[0].fields[0].images[0]
        decode = Reader.decode
        monkeypatch.setattr(Reader, "decode", lambda *given: decode(*given).astype("float64") + 0.5)
        # Cut to whole numbers they would look like pixels.
        with repository.open(image) as source, pytest.raises(RepositoryError, match="plane of float64, not of uint16"):
            source.plane(0, 0, 0)
