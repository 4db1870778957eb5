"""The plates that benchmarks work on: ImageXpress folders of uncompressed TIFF files, which OpenHCS reads as well."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.processes import SCRATCH
from openhcs_jupyter.model import well_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_COLUMNS = 24


class PlateShape(NamedTuple):
    """How large a plate is."""

    wells: int
    sites: int
    channels: int
    z: int
    size: int
    """Of a plane, in pixels, both ways."""

    @property
    def planes(self) -> int:
        """How many planes it has."""
        return self.wells * self.sites * self.channels * self.z

    @property
    def name(self) -> str:
        """A folder's name that says all of it."""
        return "x".join(map(str, self))


FIELDS_96 = PlateShape(wells=24, sites=4, channels=2, z=1, size=1080)
WELLS_16 = PlateShape(wells=16, sites=4, channels=2, z=3, size=1024)


def plate_folder(shape: PlateShape) -> Path:
    """Return the folder of a plate of this shape, which is written if it is not there yet."""
    folder = SCRATCH / "plates" / shape.name / "plate"
    done = folder.parent / "done.json"
    if not done.exists():
        shutil.rmtree(folder.parent, ignore_errors=True)
        _write(folder, shape)
        done.write_text(json.dumps(shape._asdict()))
    return folder


def wells(count: int) -> list[str]:
    """Name wells row by row, on plates of 24 columns."""
    return [well_name(i // _COLUMNS, i % _COLUMNS) for i in range(count)]


def _write(folder: Path, shape: PlateShape) -> None:
    import numpy as np
    import tifffile

    base = _cells(shape.size)
    shifts = np.random.default_rng(2)
    for z in range(shape.z):
        level = folder / "TimePoint_1" / f"ZStep_{z + 1}" if shape.z > 1 else folder / "TimePoint_1"
        level.mkdir(parents=True, exist_ok=True)
        for well in wells(shape.wells):
            for site in range(1, shape.sites + 1):
                for channel in range(1, shape.channels + 1):
                    plane = np.roll(base[channel % 2], shifts.integers(0, shape.size, 2), (0, 1))
                    tifffile.imwrite(level / f"{well}_s{site:03d}_w{channel}.tif", plane)
    (folder / "plate.HTD").write_text(_header(shape))


def _cells(size: int) -> list[NDArray[np.uint16]]:
    """Make two planes with round, blurred, noisy cells: about 130 a million pixels."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(1)
    planes = []
    for _ in range(2):
        plane = np.full((size, size), 300, np.float32)
        for y, x in rng.integers(0, size, (max(4, 130 * size * size // 1_000_000), 2)):
            centre = (int(x), int(y))
            cv2.circle(plane, centre, int(rng.integers(8, 16)), float(rng.uniform(800, 3000)), -1)
        plane = cv2.GaussianBlur(plane, (0, 0), 2) + rng.normal(0, 20, plane.shape)
        planes.append(plane.clip(0, 65535).astype(np.uint16))
    return planes


def _header(shape: PlateShape) -> str:
    rows = -(-shape.wells // _COLUMNS)
    columns = min(shape.wells, _COLUMNS)
    across = max(n for n in range(1, shape.sites + 1) if shape.sites % n == 0 and n * n <= shape.sites)
    lines = [
        '"HTSInfoFile", Version 1.0',
        '"Description", "Made for benchmarks"',
        '"TimePoints", 1',
        f'"ZSeries", {"TRUE" if shape.z > 1 else "FALSE"}',
        f'"ZSteps", {shape.z}',
        '"ZProjection", FALSE',
        f'"XWells", {columns}',
        f'"YWells", {rows}',
    ]
    for row in range(rows):
        taken = ("TRUE" if row * _COLUMNS + column < shape.wells else "FALSE" for column in range(columns))
        lines.append(f'"WellsSelection{row + 1}", {", ".join(taken)}')
    lines += ['"Sites", TRUE', f'"XSites", {across}', f'"YSites", {shape.sites // across}']
    lines += [f'"SiteSelection{y + 1}", {", ".join(["TRUE"] * across)}' for y in range(shape.sites // across)]
    lines += ['"Waves", TRUE', f'"NWavelengths", {shape.channels}', '"PixelSizeUM", 0.65']
    for channel in range(1, shape.channels + 1):
        lines += [f'"WaveName{channel}", "W{channel}"', f'"WaveCollect{channel}", 1']
    return "\n".join([*lines, '"EndFile"', ""])
