"""Saved results are there whole or not at all: errors, repeated writes, kills, full disks."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr
from numpy.typing import NDArray

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.repository.embedded.saved import list_results, open_results
from tests.repository.results import PLACES, SPECS, begun, pixels, results_of, save, tree, writer


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"projection": np.zeros((1, 2, 1, 8, 8), complex)}, "complex128"),
        ({"projection": np.zeros((8, 8), np.uint8)}, r"\(8, 8\)"),
        ({"projection": np.zeros((1, 1, 0, 8, 8), np.uint8)}, r"\(1, 1, 0, 8, 8\)"),
        ({"nuclei": np.zeros((1, 1, 1, 8, 8), np.int32)}, "lie over 'projection'"),
        ({"unknown": np.zeros((1, 1, 1, 8, 8), np.uint8)}, "no image or labels 'unknown'"),
        (
            {"projection": np.zeros((1, 2, 1, 8, 8), np.uint8), "nuclei": np.zeros((1, 1, 1, 8, 8), np.float32)},
            "labels cannot have",
        ),
    ],
)
def test_what_cannot_be_saved_is_named(tmp_path: Path, arrays: dict[str, NDArray[Any]], says: str) -> None:
    made = begun(tmp_path)
    with pytest.raises(RepositoryError, match=says) as caught:
        made.write_field(results_of("A01", 1, **arrays))
    assert caught.value.hint


def test_a_column_of_mixed_types_is_named(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="area"):
        begun(tmp_path).write_table("cells", pd.DataFrame({"area": [1, "large"]}))


def test_nothing_is_a_result_before_it_is_finished(tmp_path: Path) -> None:
    made = begun(tmp_path)
    made.write_field(results_of("A01", 1))
    assert list_results(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
    with pytest.raises(RepositoryError, match="no results"):
        open_results(tmp_path / "run-1")


def test_abort_leaves_nothing(tmp_path: Path) -> None:
    made = begun(tmp_path)
    made.write_field(results_of("A01", 1))
    made.abort()
    assert list(tmp_path.iterdir()) == []


def test_a_repeated_write_replaces_the_field(tmp_path: Path) -> None:
    made = begun(tmp_path)
    large = np.full((1, 2, 3, 600, 600), 7, np.uint16)
    made.write_field(results_of("A01", 1, projection=large, nuclei=np.ones((1, 1, 3, 600, 600), np.int32)))
    made.write_field(results_of("A01", 1))
    once = begun(tmp_path / "once")
    once.write_field(results_of("A01", 1))
    assert tree(Path(made.finish([("A01", 1)], {}))) == tree(Path(once.finish([("A01", 1)], {})))


def test_fields_that_were_lost_are_named_at_the_end(tmp_path: Path) -> None:
    made = begun(tmp_path)
    made.write_field(results_of("A01", 1))
    with pytest.raises(RepositoryError, match="B12 field 1"):
        made.finish([("A01", 1), ("B12", 1)], {})
    assert list_results(tmp_path) == []


def test_fields_of_failed_units_are_left_out(tmp_path: Path) -> None:
    made = begun(tmp_path)
    for well, field in PLACES:
        made.write_field(results_of(well, field))
    folder = Path(made.finish([("A01", 2)], {}))
    assert open_results(folder).fields == (("A01", 2),)
    assert not (folder / "projection.ome.zarr" / "B" / "12").exists()
    assert not (folder / "projection.ome.zarr" / "A" / "1" / "0").exists()
    assert zarr.open_group(folder / "projection.ome.zarr" / "A" / "1", mode="r").attrs["well"]["images"] == [
        {"path": "1"}
    ]


def test_a_run_that_goes_on_keeps_the_fields_it_gathered(tmp_path: Path) -> None:
    begun(tmp_path).write_field(results_of("A01", 1))
    again = begun(tmp_path)
    again.write_field(results_of("A01", 2))
    assert open_results(Path(again.finish([("A01", 1), ("A01", 2)], {}))).fields == (("A01", 1), ("A01", 2))


def test_a_changed_run_starts_afresh(tmp_path: Path) -> None:
    begun(tmp_path).write_field(results_of("A01", 1))
    changed = begun(tmp_path, SPECS[:1])
    with pytest.raises(RepositoryError, match="A01 field 1"):
        changed.finish([("A01", 1)], {})


def test_a_run_finished_again_keeps_what_it_published(tmp_path: Path) -> None:
    first = tree(save(tmp_path))
    again = begun(tmp_path)
    again.write_field(results_of("A01", 1))
    again.write_table("cells", pd.DataFrame({"well": ["A01", "B12"], "area": [10.5, 7.0]}))
    folder = again.finish(PLACES, {"provenance.json": b"{}", "cell.py": b"pipeline_steps = []"})
    assert tree(Path(folder)) == first
    assert [path.name for path in tmp_path.iterdir()] == ["run-1"]


def write_some(folder: Path, fields: list[int], ready: Any) -> None:
    made = writer(folder)
    ready.wait(60)
    for field in fields:
        made.write_field(results_of("A01", field))


def test_two_processes_write_fields_of_one_well(tmp_path: Path) -> None:
    fields = list(range(1, 17))
    alone = begun(tmp_path / "alone")
    together = begun(tmp_path / "together")
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(2)
    workers = [context.Process(target=write_some, args=(tmp_path / "together", fields[n::2], ready)) for n in (0, 1)]
    for worker in workers:
        worker.start()
    for field in fields:
        alone.write_field(results_of("A01", field))
    for worker in workers:
        worker.join()
    places = [("A01", field) for field in fields]
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert tree(Path(together.finish(places, {}))) == tree(Path(alone.finish(places, {})))


def write_large(folder: Path) -> None:
    made = writer(folder)
    while True:
        made.write_field(results_of("A01", 1, **pixels("A01", 1, size=(512, 512), z=16)))


def test_a_writer_killed_in_the_middle_leaves_no_trace(tmp_path: Path) -> None:
    large = results_of("A01", 1, **pixels("A01", 1, size=(512, 512), z=16))
    begun(tmp_path / "killed")
    worker = multiprocessing.get_context("spawn").Process(target=write_large, args=(tmp_path / "killed",))
    worker.start()
    half = tmp_path / "killed" / ".run-1.partial" / "projection.ome.zarr" / "A" / "1" / "0" / "0" / "0" / "1" / "3"
    while not half.exists():
        assert worker.is_alive()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    assert list_results(tmp_path / "killed") == []

    again, whole = begun(tmp_path / "killed"), begun(tmp_path / "whole")
    for made in (again, whole):
        made.write_field(large)
    assert tree(Path(again.finish([("A01", 1)], {}))) == tree(Path(whole.finish([("A01", 1)], {})))


def finish_and_die(folder: Path) -> None:
    made = begun(folder)
    made.write_field(results_of("A01", 1))
    rename = Path.rename

    def last(path: Path, target: Path) -> None:
        rename(path, target)
        os.kill(os.getpid(), signal.SIGKILL)

    Path.rename = last  # type: ignore[method-assign, assignment]  # replaced on purpose
    made.finish([("A01", 1)], {})


def test_a_kill_while_publishing_loses_neither_old_nor_new(tmp_path: Path) -> None:
    first = tree(save(tmp_path))
    worker = multiprocessing.get_context("spawn").Process(target=finish_and_die, args=(tmp_path,))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    assert not (tmp_path / "run-1").exists()

    [results] = list_results(tmp_path)
    assert tree(Path(results.folder)) == first
    assert open_results(tmp_path / "run-1").fields == tuple(PLACES)

    # The run goes on: it has nothing more to write.
    folder = Path(begun(tmp_path).finish([("A01", 1)], {}))
    assert open_results(folder).fields == (("A01", 1),)
    assert [path.name for path in tmp_path.iterdir()] == ["run-1"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("a small disk needs root and mount")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {done.stderr.decode()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_named_and_leaves_no_results(small_disk: Path) -> None:
    made = begun(small_disk)
    made.write_field(results_of("A01", 1, projection=np.zeros((1, 2, 1, 64, 64), np.uint16)))
    noise = np.random.default_rng(0).integers(0, 65536, (1, 2, 1, 1024, 1024), dtype=np.uint16)
    with pytest.raises(RepositoryError, match=f"no space left for the results in {small_disk}") as caught:
        made.write_field(results_of("A01", 2, projection=noise))
    assert "Free some space" in str(caught.value.hint)
    with pytest.raises(RepositoryError, match="no space left"):
        made.write_table("cells", pd.DataFrame({"noise": noise.ravel()}))
    with pytest.raises(RepositoryError, match="no space left"):
        made.finish([("A01", 1)], {"plan.json": noise.tobytes()})
    assert list_results(small_disk) == []

    # With room again the run goes on from there.
    (small_disk / ".run-1.partial" / "plan.json").unlink()
    again = begun(small_disk)
    assert open_results(Path(again.finish([("A01", 1)], {}))).fields == (("A01", 1),)


def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path: Path) -> None:
    import resource

    made = begun(tmp_path)
    noise = np.random.default_rng(0).integers(0, 65536, (1, 2, 1, 512, 512), dtype=np.uint16)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(RepositoryError, match="no space left"):
            made.write_field(results_of("A01", 1, projection=noise))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with pytest.raises(RepositoryError, match="A01 field 1"):
        made.finish([("A01", 1)], {})


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """A folder that can be looked into and not written, by whoever runs the tests."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    shutil.rmtree(folder)


def test_a_folder_that_cannot_be_written_is_named(closed_folder: Path) -> None:
    with pytest.raises(RepositoryError, match=f"{closed_folder} cannot be written") as caught:
        begun(closed_folder)
    assert "Make it writable" in str(caught.value.hint)
    assert list(closed_folder.iterdir()) == []
