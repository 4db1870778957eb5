"""The embedded repository: reading an uncompressed plate, listing a full one, writing results."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from benchmarks.report import interleaved, median_ratio, report
from openhcs_jupyter.model import Channel, Image, ResultSpec, RunRecord, well_name
from openhcs_jupyter.repository.base import FieldResults
from openhcs_jupyter.repository.embedded import EmbeddedRepository, importing
from openhcs_jupyter.repository.embedded.formats.base import FoundFile, FoundPlane, FoundPlate, PlaneData
from openhcs_jupyter.repository.embedded.multiscale import halve
from openhcs_jupyter.repository.embedded.ngff import pyramid_shapes

GOALS = {
    "read_vs_memmap": (">=", 0.9),
    "list_384_seconds": ("<=", 0.2),
    "write_vs_zarr": ("<=", 1.1),
}
SIZE = 1080
REPEATS = 9

_SPECS = (
    ResultSpec(name="projection", kind="image", step=0, scope="field", channels=("DAPI", "GFP")),
    ResultSpec(name="nuclei", kind="labels", step=1, scope="field", channels=("DAPI",), over="projection"),
)


def read_vs_memmap(folder: Path) -> float:
    """Speed of copying all planes of an uncompressed plate out of the repository / out of `numpy.memmap`."""
    names = _write_plate(folder / "plate")
    with EmbeddedRepository(folder / "repository") as repository:
        plate = repository.plate(repository.import_plate(folder / "plate").id)
        images = [image for _, field in plate.fields() for image in field.images]
        with tifffile.TiffFile(names[0]) as tiff:
            offset = tiff.pages[0].dataoffsets[0]
        buffer = np.empty((SIZE, SIZE), np.uint16)

        def ours() -> None:
            for image in images:
                _read(repository, image, buffer)

        def plain() -> None:
            for name in names:
                np.copyto(buffer, np.memmap(name, np.uint16, "r", offset, (SIZE, SIZE)))

        seconds = interleaved({"ours": ours, "memmap": plain}, REPEATS)
    _tell("copy every plane, s", seconds)
    return median_ratio(seconds["memmap"], seconds["ours"])


def list_384_seconds(folder: Path) -> float:
    """Seconds to list the plates and load one of 384 wells, 9 fields, 4 channels, 5 slices, by a new connection."""
    found = _full_plate(folder)
    checked = importing._Checked(found)
    with EmbeddedRepository(folder / "full") as repository, repository.catalogue.transaction() as connection:
        importing._write(connection, found, checked, None)

    def load() -> None:
        with EmbeddedRepository(folder / "full") as again:
            plate = again.plate(again.plates()[0].id)
        assert sum(1 for _ in plate.fields()) == 384 * 9

    seconds = interleaved({"list": load}, REPEATS)
    _tell("list and load a full plate, s", seconds)
    return statistics.median(seconds["list"])


def write_vs_zarr(folder: Path) -> float:
    """CPU of writing fields with their pyramids and metadata / of bare zarr-python writing finished pyramids."""
    fields = _fields(6)
    pyramids = [{name: _pyramid(array, name == "nuclei") for name, array in field.items()} for field in fields]
    target = folder / "written"

    def ours() -> None:
        shutil.rmtree(target, ignore_errors=True)
        repository = EmbeddedRepository(folder / "full")
        record = _record()
        writer = repository.writer(record)
        writer.begin(_SPECS, (Channel(name="DAPI"), Channel(name="GFP")), 16, 24)
        places = [(well_name(0, number), 1) for number in range(len(fields))]
        for (well, field), arrays in zip(places, fields, strict=True):
            writer.write_field(FieldResults(well=well, field=field, arrays=arrays, pixel_size_um=0.65, z_step_um=None))
        writer.finish(places, {})
        repository.close()

    def bare() -> None:
        for number, pyramid in enumerate(pyramids):
            _zarr(target / str(number), pyramid)

    seconds: dict[str, list[float]] = {"ours": [], "zarr": []}
    # Removing what an earlier round wrote is not part of the work.
    for repeat in range(REPEATS + 1):
        for name, work in (("ours", ours), ("zarr", bare)):
            shutil.rmtree(folder / "full" / "results", ignore_errors=True)
            shutil.rmtree(target, ignore_errors=True)
            start = time.process_time()
            work()
            if repeat:
                seconds[name].append(time.process_time() - start)
    _tell(f"write {len(fields)} fields, CPU s", seconds)
    return median_ratio(seconds["ours"], seconds["zarr"])


def main() -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory(prefix="openhcs-bench-") as name:
        folder = Path(name)
        figures = {
            "read_vs_memmap": read_vs_memmap(folder),
            "list_384_seconds": list_384_seconds(folder),
            "write_vs_zarr": write_vs_zarr(folder),
        }
    report("repository", figures, GOALS)


def _read(repository: EmbeddedRepository, image: Image, buffer: NDArray[np.uint16]) -> None:
    layout = image.layout
    with repository.open(image) as pixels:
        for t, c, z in np.ndindex(layout.size_t, layout.size_c, layout.size_z):
            np.copyto(buffer, pixels.plane(t, c, z))


def _write_plate(folder: Path) -> list[Path]:
    plane = np.random.default_rng(0).integers(100, 4000, (SIZE, SIZE), dtype=np.uint16)
    names = []
    for z in range(3):
        step = folder / "TimePoint_1" / f"ZStep_{z + 1}"
        step.mkdir(parents=True)
        for well in range(6):
            for wave in (1, 2):
                names.append(step / f"Bench_{well_name(0, well)}_s1_w{wave}.tif")
                tifffile.imwrite(names[-1], plane)
    return names


def _full_plate(folder: Path) -> FoundPlate:
    data = PlaneData(size_y=2160, size_x=2160, dtype="uint16", offset=8)
    planes = [
        FoundPlane(
            row=row,
            column=column,
            field=field + 1,
            kind="stack",
            t=0,
            c=c,
            z=z,
            file=FoundFile(f"r{row}c{column}f{field}c{c}z{z}.tif", 2160 * 2160 * 2 + 8, 1),
            data=data,
        )
        for row, column, field, c, z in np.ndindex(16, 24, 9, 4, 5)
    ]
    channels = tuple(Channel(name=name) for name in ("DAPI", "GFP", "RFP", "Cy5"))
    return FoundPlate(name="full", format="bench", root=folder / "pixels", channels=channels, planes=planes)


def _fields(count: int) -> list[dict[str, NDArray[Any]]]:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:SIZE, :SIZE]
    cells = 400 * (1 + np.sin(x / 25)) * (1 + np.cos(y / 25))
    labels = np.where(cells > 700, (y // 157) * 7 + x // 157 + 1, 0).astype(np.int32)
    return [
        {
            "projection": (cells + rng.normal(300, 20, (1, 2, 1, SIZE, SIZE))).astype(np.uint16),
            "nuclei": labels[None, None, None],
        }
        for _ in range(count)
    ]


def _pyramid(array: NDArray[Any], labels: bool) -> list[NDArray[Any]]:
    levels = [array]
    for shape in pyramid_shapes(*array.shape[3:])[1:]:
        above = levels[-1]
        level = np.empty((*array.shape[:3], *shape), array.dtype)
        for index in np.ndindex(*array.shape[:3]):
            level[index] = halve(above[index], shape, labels)
        levels.append(level)
    return levels


def _zarr(folder: Path, pyramids: Mapping[str, Sequence[NDArray[Any]]]) -> None:
    """Write pyramids as zarr-python does it best: whole planes, Blosc as ours, no look for empty chunks, one thread."""
    import numcodecs
    import zarr

    numcodecs.blosc.set_nthreads(1)
    zarr.config.set({"threading.max_workers": 1, "async.concurrency": 1})
    root = zarr.open_group(folder, mode="w", zarr_format=2)
    for name, levels in pyramids.items():
        group = root.create_group(name)
        shuffle = numcodecs.Blosc.SHUFFLE if name == "nuclei" else numcodecs.Blosc.BITSHUFFLE
        for number, level in enumerate(levels):
            array = group.create_array(
                str(number),
                shape=level.shape,
                chunks=(1, 1, 1, *level.shape[3:]),
                dtype=level.dtype,
                compressors=numcodecs.Blosc("lz4", 1, shuffle),
                chunk_key_encoding={"name": "v2", "separator": "/"},
                config={"write_empty_chunks": True},
            )
            array[...] = level


def _record() -> RunRecord:
    return RunRecord(
        id="bench",
        name="bench",
        repository="",
        plate_id=1,
        plate_name="full",
        source="",
        source_name="",
        options={},
        user="",
        host="",
        started="",
        versions={},
        inputs={},
    )


def _tell(what: str, seconds: Mapping[str, Sequence[float]]) -> None:
    for name, values in seconds.items():
        print(f"{what}: {name} {statistics.median(values):.4f} ({min(values):.4f} to {max(values):.4f})")


if __name__ == "__main__":
    main()
