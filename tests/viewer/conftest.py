"""Fixtures of the viewer's tests: a screen, windows, and runs in other processes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openhcs_jupyter.engine import Run, load_run
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.repository.embedded.synthetic import SyntheticPlate, write_plate
from tests.engine.bench import until
from tests.viewer.screen import OpenWindow, application, xvfb

PIPELINE = """
from openhcs_jupyter import Labels, Points, Step, Table
from openhcs_jupyter.functions import find_spots, gaussian_blur, max_projection, measure_objects, segment_nuclei
from tests.viewer.functions import hold_well

pipeline_steps = [
    Step(hold_well, {{"gates": {gates!r}}}, save=True, name="raw"),
    Step(max_projection, save=True),
    Step(gaussian_blur),
    Step(segment_nuclei, channel="DAPI", outputs=Labels("nuclei")),
    Step(measure_objects, inputs={{"labels": "nuclei"}}, outputs=Table("nuclei")),
    Step(find_spots, channel="GFP", outputs=Points("spots")),
]
"""


@pytest.fixture(scope="session")
def screen() -> Iterator[str]:
    """A screen, for as long as the tests last."""
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed")
    with xvfb() as display:
        application()
        yield display


@pytest.fixture
def open_window(screen: str) -> Iterator[Callable[..., OpenWindow]]:
    """Return a function that opens a window on sources or run folders; it is closed at the end."""
    windows: list[OpenWindow] = []

    def make(*sources: object) -> OpenWindow:
        windows.append(OpenWindow(*sources))
        return windows[-1]

    yield make
    for window in windows:
        window.close()


class RunElsewhere:
    """A run that ``openhcs-jupyter run`` conducts in a process of its own; each well waits for `release`."""

    def __init__(self, folder: Path, repository: EmbeddedRepository, pipeline: str, *options: str) -> None:
        self.repository = repository
        self.gates = folder / "gates"
        self.gates.mkdir(parents=True, exist_ok=True)
        script = folder / "pipeline.py"
        script.write_text(pipeline.format(gates=str(self.gates)))
        before = self._folders()
        command = [sys.executable, "-m", "openhcs_jupyter.cli", "run", str(script), "nuclei", "--plate", "1"]
        command += ["--repository", repository.uri, "--workers", "2", *options]
        self.log = (folder / "run.log").open("w")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        self.folder = until(lambda: next(iter(self._folders() - before), None), "the run's folder")

    def release(self, well: str = "all") -> None:
        (self.gates / well).touch()

    def wait(self) -> Run:
        assert self.process.wait(120) == 0, Path(self.log.name).read_text()
        return load_run(self.repository, self.folder.name)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def _folders(self) -> set[Path]:
        place = self.repository.runs_folder
        return {path for path in place.glob("*") if (path / "journal.jsonl").exists()} if place.is_dir() else set()


@pytest.fixture(scope="session")
def demo_plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic plate of 2 x 3 wells with four overlapping fields of two channels and three slices."""
    spec = SyntheticPlate(name="Demo", rows=2, columns=3, grid=(2, 2), size=540, slices=3, cells_per_field=50)
    return write_plate(tmp_path_factory.mktemp("demo") / "plate", spec)


@pytest.fixture
def run_elsewhere(tmp_path: Path, repository: EmbeddedRepository) -> Iterator[Callable[..., RunElsewhere]]:
    """Return a function that starts a run of a plate's folder in another process."""
    runs: list[RunElsewhere] = []

    def start(plate: Path, *options: str, pipeline: str = PIPELINE, bad: tuple[str, ...] = ()) -> RunElsewhere:
        if not repository.plates():
            repository.import_plate(plate)
        folder = tmp_path / f"run{len(runs)}"
        for well in bad:
            (folder / "gates").mkdir(parents=True, exist_ok=True)
            (folder / "gates" / f"{well}.bad").touch()
        runs.append(RunElsewhere(folder, repository, pipeline, *options))
        return runs[-1]

    yield start
    for run in runs:
        run.close()


@pytest.fixture(scope="session")
def finished(demo_plate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run that has ended, of the synthetic plate."""
    folder = tmp_path_factory.mktemp("finished")
    with EmbeddedRepository(folder / "repository") as repository:
        repository.import_plate(demo_plate)
        run = RunElsewhere(folder, repository, PIPELINE)
        run.release()
        try:
            yield run.wait()
        finally:
            run.close()
