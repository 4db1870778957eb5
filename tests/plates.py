"""Small ImageXpress plates whose pixels are known, for any test that needs a plate."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

PIXEL_SIZE_UM = 0.65
Z_STEP_UM = 2.0


@dataclass(frozen=True)
class MadePlate:
    """A plate on disk, and what its pixels are. Wells are named, fields count from 1, c and z from 0."""

    folder: Path
    wells: tuple[str, ...]
    fields: int
    channels: tuple[str, ...]
    z: int
    size: tuple[int, int]
    dtype: str
    seed: int
    projection: bool = False
    options: dict[str, object] = field(default_factory=dict)

    def plane(self, well: str, number: int, c: int, z: int | None) -> NDArray[np.generic]:
        """Return the pixels of a plane, ``(Y, X)``; z None is the projection."""
        place = zlib.crc32(f"{self.seed} {well} {number} {c} {z}".encode())
        values = np.random.default_rng(place).integers(0, 4096, self.size)
        return values.astype(self.dtype)

    def file(self, well: str, number: int, c: int, z: int | None) -> Path:
        """Return the file of a plane; z None is the projection."""
        level = f"TimePoint_1/ZStep_{z + 1}" if z is not None and self.z > 1 else "TimePoint_1"
        return self.folder / level / f"{self.folder.name}_{well}_s{number}_w{c + 1}.tif"

    def write(self, well: str, number: int, c: int, z: int | None, **options: object) -> Path:
        """Write the file of a plane; `options` go to tifffile."""
        path = self.file(well, number, c, z)
        path.parent.mkdir(parents=True, exist_ok=True)
        row, column = ord(well[0]) - 65, int(well[1:]) - 1
        position = {
            "stage-position-x": column * 9000 + (number - 1) * self.size[1] * PIXEL_SIZE_UM,
            "stage-position-y": row * 9000,
            "z-position": 100 + Z_STEP_UM * (z or 0),
            "spatial-calibration-x": PIXEL_SIZE_UM,
            "spatial-calibration-units": "um",
            "wavelength": 450 + 75 * c,
        }
        properties = "".join(f'<prop id="{key}" type="float" value="{value}"/>\n' for key, value in position.items())
        tifffile.imwrite(
            path,
            self.plane(well, number, c, z),
            description=f"<MetaData>\n<PlaneInfo>\n{properties}</PlaneInfo>\n</MetaData>",
            metadata=None,
            **{**self.options, **options},
        )
        return path


MakePlate = Callable[..., MadePlate]


def write_plate(
    folder: Path,
    wells: tuple[str, ...] = ("A01", "B02"),
    fields: int = 2,
    channels: tuple[str, ...] = ("DAPI", "GFP"),
    z: int = 3,
    size: tuple[int, int] = (24, 32),
    *,
    dtype: str = "uint16",
    seed: int = 1,
    projection: bool = False,
    **options: object,
) -> MadePlate:
    """Write an ImageXpress plate; `options`, such as ``compression`` and ``byteorder``, go to tifffile."""
    made = MadePlate(folder, tuple(wells), fields, tuple(channels), z, size, dtype, seed, projection, options)
    slices: list[int | None] = [*range(z), *([None] if projection else [])]
    for well in wells:
        for number in range(1, fields + 1):
            for c in range(len(channels)):
                for one in slices:
                    made.write(well, number, c, one)
    names = "".join(f'"WaveName{c + 1}", "{name}"\n' for c, name in enumerate(channels))
    text = f'"HTSInfoFile", Version 1.0\n"XWells", 12\n"YWells", 8\n"NWavelengths", {len(channels)}\n{names}"EndFile"\n'
    (folder / f"{folder.name}.HTD").write_text(text)
    return made
