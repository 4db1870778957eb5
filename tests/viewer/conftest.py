"""Fixtures of the viewer's tests: a screen, windows, and runs in other processes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openhcs_jupyter.engine import Run, load_run
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.repository.embedded.synthetic import SyntheticPlate, write_plate
from tests.engine.bench import until
from tests.viewer.conductor import Conductor
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
    """A run that another process conducts, as ``openhcs-jupyter run`` does; each well waits for `release`."""

    def __init__(
        self, conductor: Conductor, folder: Path, repository: EmbeddedRepository, pipeline: str, *options: str
    ) -> None:
        self.repository = repository
        self.gates = folder / "gates"
        self.gates.mkdir(parents=True, exist_ok=True)
        script = folder / "pipeline.py"
        script.write_text(pipeline.format(gates=str(self.gates)))
        before = self._folders()
        self._conductor = conductor
        place = ["--repository", repository.uri, "--workers", "2"]
        conductor.begin("run", str(script), "nuclei", "--plate", "1", *place, *options)
        self.folder = until(lambda: next(iter(self._folders() - before), None), "the run's folder")

    def release(self, well: str = "all") -> None:
        (self.gates / well).touch()

    def wait(self, code: int = 0) -> Run:
        """Wait until it has ended with an exit code."""
        assert self._conductor.wait() == code
        return load_run(self.repository, self.folder.name)

    def _folders(self) -> set[Path]:
        place = self.repository.runs_folder
        return {path for path in place.glob("*") if (path / "journal.jsonl").exists()} if place.is_dir() else set()


@pytest.fixture(scope="session")
def demo_plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic plate of 2 x 3 wells with four overlapping fields of two channels and three slices."""
    spec = SyntheticPlate(name="Demo", rows=2, columns=3, grid=(2, 2), size=540, slices=3, cells_per_field=50)
    return write_plate(tmp_path_factory.mktemp("demo") / "plate", spec)


@pytest.fixture(scope="session")
def conductor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Conductor]:
    """A process that conducts runs."""
    conductor = Conductor(tmp_path_factory.mktemp("conductor") / "log")
    yield conductor
    conductor.end()


@pytest.fixture
def run_elsewhere(
    tmp_path: Path, repository: EmbeddedRepository, conductor: Conductor
) -> Iterator[Callable[..., RunElsewhere]]:
    """Return a function that starts a run of a plate's folder in another process."""
    runs: list[RunElsewhere] = []

    def start(plate: Path, *options: str, pipeline: str = PIPELINE, bad: tuple[str, ...] = ()) -> RunElsewhere:
        if not repository.plates():
            repository.import_plate(plate)
        folder = tmp_path / f"run{len(runs)}"
        for well in bad:
            (folder / "gates").mkdir(parents=True, exist_ok=True)
            (folder / "gates" / f"{well}.bad").touch()
        runs.append(RunElsewhere(conductor, folder, repository, pipeline, *options))
        return runs[-1]

    yield start
    if conductor.busy:
        conductor.end()


@pytest.fixture(scope="session")
def finished(demo_plate: Path, conductor: Conductor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run that has ended, of the synthetic plate."""
    folder = tmp_path_factory.mktemp("finished")
    with EmbeddedRepository(folder / "repository") as repository:
        repository.import_plate(demo_plate)
        run = RunElsewhere(conductor, folder, repository, PIPELINE)
        run.release()
        yield run.wait()
