"""Synthetic plates written to a folder, with their truth."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import RepositoryError, UsageError
from openhcs_jupyter.files import partial_of
from openhcs_jupyter.model import parse_well
from openhcs_jupyter.repository.embedded.synthetic.files import STRIP, description, image_name, tiff_header, write_htd
from openhcs_jupyter.repository.embedded.synthetic.neurites import draw_neurites, true_neurites
from openhcs_jupyter.repository.embedded.synthetic.plate import CHANNELS, SyntheticPlate
from openhcs_jupyter.repository.embedded.synthetic.truth import (
    cells_of,
    draw,
    shade,
    shade_centre,
    true_cells,
    true_wells,
)

if TYPE_CHECKING:
    import pyarrow as pa

_POOL = 1 << 20


def write_plate(folder: Path, spec: SyntheticPlate, progress: Callable[[int, int], None] | None = None) -> Path:
    """Write a synthetic plate as an ImageXpress microscope would, and its truth.

    The folder gets ``TimePoint_1/ZStep_K/NAME_A01_s1_w1GUID.tif``, uncompressed uint16; ``NAME.HTD``; and ``truth/``
    with ``cells.parquet`` (see `true_cells`), ``wells.parquet`` (see `true_wells`), ``truth.json`` and, of cells with
    neurites, ``neurites.parquet`` (see `true_neurites`).

    Parameters
    ----------
    folder
        The plate's folder. It is written beside its place and moved there when it is whole; one that holds this very
        plate already is left as it is.
    spec
        What the plate is made of. The same values give the same bytes.
    progress
        Called with the number of fields that are written and of all fields.

    Returns
    -------
    Path
        The plate's folder.

    Raises
    ------
    RepositoryError
        If the folder holds something else, there is not enough space, or writing fails.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        if _truth_of(folder) == _truth(spec):
            return folder
        raise RepositoryError(f"{folder} is not empty.", "Name a new folder for the synthetic plate.")
    partial = partial_of(folder)
    try:
        partial.mkdir(parents=True)
        _check_space(partial, spec)
        _write(partial, spec, progress)
        partial.replace(folder)
    except OSError as error:
        raise RepositoryError(f"The synthetic plate {folder} cannot be written: {error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _write(folder: Path, spec: SyntheticPlate, progress: Callable[[int, int], None] | None) -> None:
    slices = [folder / "TimePoint_1" / f"ZStep_{z + 1}" for z in range(spec.slices)]
    for path in slices:
        path.mkdir(parents=True)
    camera = _Camera.of(spec)
    fields = [(well, field) for well in spec.wells for field in range(1, spec.fields + 1)]
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="synthetic")
    try:
        done = pool.map(lambda place: _write_field(slices, spec, camera, *place), fields)
        for count, _ in enumerate(done, 1):
            if progress is not None:
                progress(count, len(fields))
    finally:
        pool.shutdown(cancel_futures=True)
    write_htd(folder, spec)
    _write_truth(folder / "truth", spec)


class _Camera(NamedTuple):
    """What all fields share."""

    shades: tuple[NDArray[np.float32], ...]
    pool: NDArray[np.float32]
    """Standard normal numbers; rows of pixels take them from different starts on."""

    @classmethod
    def of(cls, spec: SyntheticPlate) -> _Camera:
        pool = np.random.default_rng([spec.seed, 0]).standard_normal(_POOL + spec.size, dtype=np.float32)
        return cls(tuple(shade(spec, channel) for channel in CHANNELS), pool)


def _write_field(slices: list[Path], spec: SyntheticPlate, camera: _Camera, well: str, field: int) -> None:
    from openhcs_jupyter.repository.embedded.synthetic import _kernels as kernels

    cells = cells_of(spec, well)
    signal = np.empty((spec.size, spec.size), dtype=np.float32)
    pixels = np.empty((spec.size, spec.size), dtype=np.uint16)
    place = (*parse_well(well), field)
    for channel in range(len(CHANNELS)):
        for z, path in enumerate(slices):
            signal[...] = 0
            draw(signal, spec, cells, field, channel, z)
            if spec.neurites and CHANNELS[channel] == "GFP":
                draw_neurites(signal, spec, well, field, (z - (spec.slices - 1) / 2) * spec.z_step_um)
            starts = np.random.default_rng([spec.seed, 2, *place, channel, z]).integers(0, _POOL, spec.size)
            kernels.expose(
                signal,
                camera.shades[channel],
                camera.pool,
                starts,
                spec.background,
                spec.gain,
                spec.read_noise,
                spec.offset,
                pixels,
            )
            plane = (well, field, channel, z)
            with (path / image_name(spec, *plane)).open("wb", buffering=0) as file:
                file.write(tiff_header(spec, description(spec, *plane)))
                file.write(pixels.data)


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """What ``truth.json`` holds."""

    spec: SyntheticPlate
    overlap_px: int
    mosaic_px: tuple[int, int]
    origins_px: tuple[tuple[int, int], ...]
    """Where each field starts in the mosaic, ``(y, x)``."""
    shading: dict[str, tuple[float, float, float]]
    """By channel: its strength and the brightest point's y and x in pixels of the field; see `shade`."""
    ec50_um: float
    hill: float


def _truth(spec: SyntheticPlate) -> Truth:
    return Truth(
        spec=spec,
        overlap_px=spec.overlap_px,
        mosaic_px=spec.mosaic,
        origins_px=tuple(spec.origin(field) for field in range(1, spec.fields + 1)),
        shading={name: (spec.shading, *shade_centre(spec, c)) for c, name in enumerate(CHANNELS)},
        ec50_um=spec.ec50_um,
        hill=spec.hill,
    )


def _truth_of(folder: Path) -> Truth | None:
    try:
        return msgspec.json.decode((folder / "truth" / "truth.json").read_bytes(), type=Truth)
    except (OSError, msgspec.DecodeError, UsageError):
        return None


def _write_truth(folder: Path, spec: SyntheticPlate) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    folder.mkdir()
    writer = None
    try:
        # A well at a time: a full plate has a million cells.
        for table in _cell_tables(spec):
            writer = writer or parquet.ParquetWriter(folder / "cells.parquet", table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    if spec.neurites:
        neurites = [pa.Table.from_pandas(true_neurites(spec, well), preserve_index=False) for well in spec.wells]
        parquet.write_table(pa.concat_tables(neurites), folder / "neurites.parquet")
    wells = pa.Table.from_pandas(true_wells(spec), preserve_index=False)
    parquet.write_table(wells, folder / "wells.parquet")
    (folder / "truth.json").write_bytes(msgspec.json.format(msgspec.json.encode(_truth(spec))))


def _cell_tables(spec: SyntheticPlate) -> Iterator[pa.Table]:
    import pyarrow as pa

    for well in spec.wells:
        yield pa.Table.from_pandas(true_cells(spec, well), preserve_index=False)


def _check_space(folder: Path, spec: SyntheticPlate) -> None:
    needed = spec.pixel_bytes + spec.planes * STRIP
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RepositoryError(
            f"The synthetic plate needs {needed / 1e9:.1f} GB and {folder.parent} has {free / 1e9:.1f} GB free.",
            "Make it smaller, or name a folder elsewhere.",
        )
