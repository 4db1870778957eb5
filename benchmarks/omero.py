"""Plates in OMERO, against the stand-in of the tests: reading in place, listing, masks, a whole run, saving objects."""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.pipelines import quickstart_steps
from benchmarks.report import interleaved, median_ratio, report
from openhcs_jupyter.compiler import compile
from openhcs_jupyter.engine import fork_server, run
from openhcs_jupyter.model import Channel, Image, Plate, ResultSpec, RunRecord, well_name
from openhcs_jupyter.pipeline import Pipeline
from openhcs_jupyter.repository import FieldResults, Repository
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.repository.omero import OmeroRepository
from openhcs_jupyter.repository.omero.masks import masks_of
from openhcs_jupyter.repository.omero.romio import path_of
from openhcs_jupyter.topology import discover
from tests.omero_standin.process import StandIn
from tests.omero_standin.sample import PASSWORDS, Sample
from tests.plates import MadePlate, write_plate

GOALS = {
    "direct_vs_memmap": (">=", 0.9),
    "broker_vs_memmap": (">=", 0.9),
    "vs_get_plane": (">=", 20.0),
    "vs_rps_ssl": (">=", 3.0),
    "rps_vs_bare": (">=", 0.9),
    "plate_queries": ("<=", 6.0),
    "vs_gateway_listing": (">=", 3.0),
    "masks_vs_omero_rois": (">=", 50.0),
    "pipeline_vs_embedded": ("<=", 1.1),
}
SIZE = 1080
SLICES = 3
REPEATS = 9
_ROOT = Path(__file__).parents[1]


class Cells(MadePlate):
    """A plate of the tests with round cells instead of noise, so that there is something to segment."""

    def plane(self, well: str, number: int, c: int, z: int | None) -> NDArray[np.generic]:
        """Return the pixels of a plane."""
        noise = super().plane(well, number, c, z).astype(np.float32) / 40
        y, x = np.mgrid[: self.size[0], : self.size[1]].astype(np.float32)
        cells = np.maximum(0, np.sin(x / 12 + number) * np.sin(y / 12)) ** 2
        return np.asarray(noise + 3000 * cells, self.dtype)


def write_cells(folder: Path, *shape: Any, **options: Any) -> MadePlate:
    """Write such a plate."""
    made = write_plate(folder, *shape, **options)
    cells = Cells(made.folder, made.wells, made.fields, made.channels, made.z, made.size, made.dtype, made.seed)
    for well in made.wells:
        for number, c, z in np.ndindex(made.fields, len(made.channels), made.z):
            cells.write(well, number + 1, c, z)
    return cells


@contextmanager
def with_settings(**settings: str) -> Iterator[None]:
    """Have settings for what is made meanwhile."""
    names = {f"OPENHCS_{name.upper()}": value for name, value in settings.items()}
    os.environ |= names
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]


class Lab:
    """A stand-in in a process of its own, with plates."""

    def __init__(self, folder: Path, wells: int, full: tuple[int, int]) -> None:
        sample = Sample(folder)
        names = tuple(well_name(0, number) for number in range(wells))
        twice = tuple(well_name(0, number) for number in range(2 * wells))  # with four fields each, as the demo's plate
        self.read, _ = sample.plate("read", wells=names, fields=2, z=SLICES, size=(SIZE, SIZE))
        self.tiff, self.tiff_made = sample.plate(
            "tiff", wells=names, fields=2, z=SLICES, size=(SIZE, SIZE), imported=True
        )
        self.run, made = sample.plate(
            "run", wells=twice, fields=4, z=SLICES, size=(540, 540), imported=True, write=write_cells
        )
        self.run_folder = made.folder
        full_names = tuple(well_name(number // 24, number % 24) for number in range(full[0]))
        self.full, _ = sample.plate("full", wells=full_names, fields=full[1], z=1, size=(2, 2), imported=True)
        self.fields = full[0] * full[1]
        self.server = StandIn(folder)

    @contextmanager
    def join(self, **settings: str) -> Iterator[OmeroRepository]:
        """Join as a user, with settings of the user's."""
        with with_settings(**settings):
            repository = OmeroRepository(f"omero://ada@127.0.0.1:{self.server.port}", lambda _: PASSWORDS["ada"])
        with repository:
            repository.reach()
            yield repository

    @contextmanager
    def broker(self, folder: Path) -> Iterator[str]:
        """Start the broker."""
        folder.mkdir(mode=0o755)
        command = [sys.executable, "-W", "ignore", "-m", "openhcs_jupyter.cli", "broker", "--plates"]
        command += ["--socket", str(folder / "socket"), "--server", f"127.0.0.1:{self.server.port}"]
        command += ["--repository", str(self.server.binary_repository)]
        with subprocess.Popen(command, cwd=_ROOT, stderr=subprocess.DEVNULL) as process:
            try:
                until = time.monotonic() + 30
                while not (folder / "socket").exists():
                    assert process.poll() is None, "the broker ended"
                    assert time.monotonic() < until, "the broker does not start"
                    time.sleep(0.05)  # between looks
                yield str(folder / "socket")
            finally:
                process.terminate()


def reading(lab: Lab, folder: Path, repeats: int) -> dict[str, float]:
    """Read all planes of a plate in big-endian files, in the ways that there are."""
    from omero.gateway import BlitzGateway

    root = lab.server.binary_repository
    gateway = BlitzGateway("ada", PASSWORDS["ada"], host="127.0.0.1", port=lab.server.port, secure=True)
    assert gateway.connect()
    with (
        lab.broker(folder / "broker") as socket,
        lab.join(omero_binary_repository=str(root)) as direct,
        lab.join(omero_broker=socket) as broker,
        lab.join() as server,
    ):
        plates = [one.plate(lab.read) for one in (direct, broker, server)]
        images = [field.images[0] for _, field in plates[0].fields()]
        assert direct.told_of(images)[0].startswith(f"{len(images)} of {len(images)} images are read in place")
        assert "through the broker" in broker.told_of(images)[0], broker.told_of(images)
        assert "through the OMERO server" in server.told_of(images)[0]
        files = [root / path_of("Pixels", int(image.version.partition(":")[0])) for image in images]
        shape = (2, SLICES, SIZE, SIZE)

        def memmap() -> None:
            for file in files:
                planes = np.memmap(file, ">u2", "r", shape=shape)
                for c, z in np.ndindex(2, SLICES):
                    planes[c, z].astype(np.uint16)

        fast = interleaved(
            {
                "memmap": memmap,
                "direct": lambda: _read_all(direct, images),
                "broker": lambda: _read_all(broker, images),
            },
            3 * repeats,
        )
        tiff = _imported(lab, broker, 3 * repeats)
        some = images[:4]
        slow = interleaved(
            {
                "direct": lambda: _read_all(direct, some),
                "ours, through the server": lambda: _read_all(server, some),
                "bare RawPixelsStore": lambda: _bare(gateway, some),
                "getPlane": lambda: _get_plane(gateway, some),
            },
            max(3, repeats // 2),
        )
    gateway.close()
    size = 2 * SLICES * SIZE * SIZE * 2 / 1e6
    _tell("read, MB/s", {name: [size * len(images) / one for one in each] for name, each in fast.items()})
    _tell("read imported TIFF, MB/s", {name: [size * len(images) / one for one in each] for name, each in tiff.items()})
    _tell("read, MB/s", {name: [size * len(some) / one for one in each] for name, each in slow.items()})
    return {
        "direct_vs_memmap": median_ratio(fast["memmap"], fast["direct"]),
        "broker_vs_memmap": median_ratio(fast["memmap"], fast["broker"]),
        "broker_tiff_vs_memmap": median_ratio(tiff["memmap"], tiff["broker"]),
        "vs_get_plane": median_ratio(slow["getPlane"], slow["direct"]),
        "vs_rps_ssl": median_ratio(slow["bare RawPixelsStore"], slow["direct"]),
        "rps_vs_bare": median_ratio(slow["bare RawPixelsStore"], slow["ours, through the server"]),
    }


def _imported(lab: Lab, broker: OmeroRepository, repeats: int) -> dict[str, list[float]]:
    """Read the planes of imported TIFF files through the broker, and by maps of the same files; both are copied."""
    import tifffile

    started = time.perf_counter()
    plate = broker.plate(lab.tiff)
    between = time.perf_counter()
    broker.plate(lab.tiff)
    print(f"load an imported plate, s: {between - started:.2f}, and again {time.perf_counter() - between:.2f}")
    made = lab.tiff_made
    places = [(well.name, field) for well, field in plate.fields()]
    images = [field.images[0] for _, field in places]
    assert "through the broker" in broker.told_of(images)[0], broker.told_of(images)
    files = [made.file(well, field.number, c, z) for well, field in places for c, z in np.ndindex(2, SLICES)]
    with tifffile.TiffFile(files[0]) as one:
        offset = one.pages.first.dataoffsets[0]

    def memmap() -> None:
        for file in files:
            np.memmap(file, "<u2", "r", offset=offset, shape=(SIZE, SIZE)).copy()

    def by_broker() -> None:
        for image in images:
            with broker.open(image) as pixels:
                for c, z in np.ndindex(2, SLICES):
                    pixels.plane(0, c, z).copy()

    return interleaved({"memmap": memmap, "broker": by_broker}, repeats)


def listing(lab: Lab, repeats: int) -> dict[str, float]:
    """Open a full plate, and one of a few wells: queries, and time against the gateway's."""
    from omero.gateway import BlitzGateway

    queries = []
    with lab.join(omero_binary_repository=str(lab.server.binary_repository)) as repository:
        for plate in (lab.run, lab.full):
            lab.server.ask(calls=True)
            repository.plate(plate)
            queries.append(len(lab.server.ask(calls=True)["queries"]))
    print(f"queries to open a plate: {queries[0]} (small), {queries[1]} ({lab.fields} fields)")
    gateway = BlitzGateway("ada", PASSWORDS["ada"], host="127.0.0.1", port=lab.server.port, secure=True)
    assert gateway.connect()

    def by_gateway() -> None:
        plate = gateway.getObject("Plate", lab.full)
        names = [
            (s.getImage().getId(), s.getImage().getName()) for well in plate.listChildren() for s in well.listChildren()
        ]
        assert len(names) == lab.fields

    with lab.join() as repository:

        def ours() -> None:
            assert sum(1 for _ in repository.plate(lab.full).fields()) == lab.fields

        seconds = interleaved({"ours": ours, "gateway": by_gateway}, max(2, repeats // 4))
    gateway.close()
    _tell("list a full plate, s", seconds)
    ratio = median_ratio(seconds["gateway"], seconds["ours"])
    return {"plate_queries": float(max(queries)), "vs_gateway_listing": ratio}


def masks() -> float:
    """Masks of 1,296 objects by omero-rois / by us; the same bytes."""
    from omero_rois import masks_from_label_image

    size, side = 2160, 36
    y, x = np.mgrid[:size, :size]
    cell = size // side
    round_ = (y % cell - cell / 2) ** 2 + (x % cell - cell / 2) ** 2 < (cell / 2.5) ** 2
    labels = np.where(round_, (y // cell) * side + x // cell + 1, 0).astype(np.int64)
    start = time.perf_counter()
    theirs = masks_from_label_image(labels)
    between = time.perf_counter()
    rounds = []
    for _ in range(5):
        begin = time.perf_counter()
        ours = list(masks_of(labels[None, None, None]))
        rounds.append(time.perf_counter() - begin)
    assert len(ours) == len(theirs) == side * side
    assert all(bytes(mask.getBytes()) == one.bits for mask, one in zip(theirs, ours, strict=True))
    print(f"masks of {len(ours)} objects, s: omero-rois {between - start:.2f}, ours {statistics.median(rounds):.3f}")
    return (between - start) / statistics.median(rounds)


def pipeline(lab: Lab, folder: Path, repeats: int) -> float:
    """Time of the quickstart's pipeline on OMERO's plate / on the same files in an embedded repository."""

    def works(plate: Plate) -> Callable[[], None]:
        plan = compile(Pipeline(quickstart_steps(), name="quickstart"), plate, discover(), workers=2)

        def work() -> None:
            done = run(plan, force=True).result()
            assert done.status == "done", done.failures

        return work

    root = str(lab.server.binary_repository)
    with (
        with_settings(omero_binary_repository=root),  # workers have them, too
        lab.join() as omero,
        EmbeddedRepository(folder / "embedded") as embedded,
    ):
        there = omero.plate(lab.run)
        told = omero.told_of([field.images[0] for _, field in there.fields()])
        assert "read in place" in told[0], told
        here = embedded.plate(embedded.import_plate(lab.run_folder).id)
        seconds = interleaved({"omero": works(there), "embedded": works(here)}, max(3, repeats))
        fork_server().stop()
    _tell("the quickstart's pipeline, s", seconds)
    return median_ratio(seconds["omero"], seconds["embedded"])


def saving(lab: Lab, objects: int) -> dict[str, float]:
    """Write objects as ROIs with a table: objects a second, and memory that it takes."""
    import pandas as pd

    each = 625
    side = 25
    y, x = np.mgrid[:SIZE, :SIZE]
    cell = SIZE // side
    inside = (y % cell > 2) & (x % cell > 2) & (y < cell * side) & (x < cell * side)
    labels = np.where(inside, (y // cell) * side + x // cell + 1, 0).astype(np.int32)[None, None, None]
    with lab.join() as repository:
        plate = repository.plate(lab.full)
        places = [(well.name, field.number) for well, field in plate.fields()][: objects // each]
        specs = (
            ResultSpec(name="nuclei", kind="labels", step=0, scope="field", channels=("DAPI",)),
            ResultSpec(name="nuclei_table", kind="table", step=1, scope="field"),
        )
        writer = repository.writer(_record(repository.uri, plate))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        writer.begin(specs, (Channel(name="DAPI"),), plate.rows, plate.columns)
        for well, field in places:
            writer.write_field(
                FieldResults(well=well, field=field, arrays={"nuclei": labels}, pixel_size_um=0.65, z_step_um=None)
            )
        between = time.perf_counter()
        rows = pd.DataFrame(
            [(well, field, label) for well, field in places for label in range(1, each + 1)],
            columns=["well", "field", "label"],
        )
        for number in range(20):
            rows[f"feature_{number}"] = np.arange(len(rows)) * 0.5
        writer.write_table("nuclei_table", rows)
        table = time.perf_counter()
        writer.finish(places, {"provenance.json": b"{}"})
        end = time.perf_counter()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"save {len(rows)} objects, s: ROIs {between - start:.1f}, table {table - between:.1f}, end {end - table:.1f}"
    )
    return {f"save_{objects}_objects_per_s": len(rows) / (end - start), "save_memory_mb": (after - before) / 1024}


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shows that it runs; its figures mean nothing")
    names = ("reading", "listing", "masks", "pipeline", "saving")
    parser.add_argument("--only", choices=names, action="append", help="may be repeated")
    options = parser.parse_args()
    wanted = options.only or names
    repeats = 2 if options.quick else REPEATS
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="openhcs-bench-") as name:
        folder = Path(name)
        os.environ |= {"OPENHCS_DATA_DIR": str(folder / "data"), "XDG_STATE_HOME": str(folder / "state")}
        lab = Lab(folder / "server", wells=2 if options.quick else 6, full=(24, 2) if options.quick else (384, 9))
        with lab.server:
            if "reading" in wanted:
                figures |= reading(lab, folder, repeats)
            if "listing" in wanted:
                figures |= listing(lab, repeats)
            if "masks" in wanted:
                figures["masks_vs_omero_rois"] = masks()
            if "pipeline" in wanted:
                figures["pipeline_vs_embedded"] = pipeline(lab, folder, repeats // 2)
            if "saving" in wanted:
                figures |= saving(lab, 5000 if options.quick else 100_000)
    report("omero", figures, GOALS)


def _read_all(repository: Repository, images: Sequence[Image]) -> None:
    for image in images:
        with repository.open(image) as pixels:
            for c, z in np.ndindex(2, SLICES):
                pixels.plane(0, c, z)


def _bare(gateway: Any, images: Sequence[Image]) -> None:
    """Ask for planes with four requests on the wire, and nothing else."""
    for image in images:
        store = gateway.c.sf.createRawPixelsStore()
        store.setPixelsId(int(image.version.partition(":")[0]), False)
        asked: deque[Any] = deque()
        places = iter(list(np.ndindex(2, SLICES)))

        def receive(store: Any = store, asked: deque[Any] = asked) -> None:
            data = store.end_getPlane(asked.popleft())
            np.frombuffer(data, ">u2").reshape(SIZE, SIZE).astype(np.uint16)

        for c, z in places:
            if len(asked) >= 4:
                receive()
            asked.append(store.begin_getPlane(z, c, 0))
        while asked:
            receive()
        store.close()


def _get_plane(gateway: Any, images: Sequence[Image]) -> None:
    for image in images:
        pixels = gateway.getObject("Image", image.id).getPrimaryPixels()
        for c, z in np.ndindex(2, SLICES):
            pixels.getPlane(z, c, 0)


def _record(uri: str, plate: Plate) -> RunRecord:
    return RunRecord(
        id="bench", name="bench", repository=uri, plate_id=plate.id, plate_name=plate.name, source="", source_name="",
        options={}, user="", host="", started="", versions={}, inputs={},
    )  # fmt: skip


def _tell(what: str, values: Mapping[str, Sequence[float]]) -> None:
    for name, each in values.items():
        print(f"{what}: {name} {statistics.median(each):.4g} ({min(each):.4g} to {max(each):.4g})", flush=True)


if __name__ == "__main__":
    main()
