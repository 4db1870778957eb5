"""The files of a plate as an ImageXpress microscope writes them: names, TIFF, MetaMorph's XML, the .HTD file."""

from __future__ import annotations

import hashlib
import struct
import uuid
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.model import parse_well
from openhcs_jupyter.repository.embedded.synthetic.plate import CHANNELS, SyntheticPlate

_EMISSION_NM = (447, 536)
_PITCH_UM = {96: 9000.0, 384: 4500.0}
_A01_UM = (11_000.0, 14_000.0)
STRIP = 4096
"""Where the pixels start in each file: the size of a page of memory."""


def image_name(spec: SyntheticPlate, well: str, field: int, channel: int, z: int) -> str:
    """Name the file of a plane; its GUID follows from the plate and the place."""
    return f"{spec.name}_{well}_s{field}_w{channel + 1}{_guid(spec, well, field, channel, z)}.tif"


def _guid(spec: SyntheticPlate, *place: object) -> str:
    text = msgspec.json.encode((spec, place))
    return str(uuid.UUID(bytes=hashlib.blake2b(text, digest_size=16).digest())).upper()


def tiff_header(spec: SyntheticPlate, description: bytes) -> bytes:
    """Return everything before the pixels: one directory, one strip."""
    description += b"\0"
    tags = 10
    after = 8 + 2 + 12 * tags + 4
    start = -(-(after + len(description)) // STRIP) * STRIP
    entries = [
        (254, 4, 1, 0),
        (256, 4, 1, spec.size),
        (257, 4, 1, spec.size),
        (258, 3, 1, 16),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (270, 2, len(description), after),
        (273, 4, 1, start),
        (278, 4, 1, spec.size),
        (279, 4, 1, spec.size**2 * 2),
    ]
    head = b"II*\0" + struct.pack("<IH", 8, tags)
    head += b"".join(struct.pack("<HHII", *entry) for entry in entries) + struct.pack("<I", 0)
    return (head + description).ljust(start, b"\0")


def description(spec: SyntheticPlate, well: str, field: int, channel: int, z: int) -> bytes:
    """Describe a plane in the XML of MetaMorph, as far as it is known of a synthetic one."""
    row, column = parse_well(well)
    pitch = _PITCH_UM[_plate_size(spec)]
    site_y, site_x = divmod(field - 1, spec.grid[1])
    step = (spec.size - spec.overlap_px) * spec.pixel_size_um
    error_y, error_x = stage_errors_um(spec, row, column)[field - 1]
    off_y = (site_y - (spec.grid[0] - 1) / 2) * step + error_y
    off_x = (site_x - (spec.grid[1] - 1) / 2) * step + error_x
    height = (z - (spec.slices - 1) / 2) * spec.z_step_um
    plane = [
        ("plane-type", "string", "plane"),
        ("pixel-size-x", "int", spec.size),
        ("pixel-size-y", "int", spec.size),
        ("bits-per-pixel", "int", 16),
        ("spatial-calibration-state", "bool", "on"),
        ("spatial-calibration-x", "float", f"{spec.pixel_size_um:g}"),
        ("spatial-calibration-y", "float", f"{spec.pixel_size_um:g}"),
        ("spatial-calibration-units", "string", "um"),
        ("image-name", "string", CHANNELS[channel]),
        ("plane-guid", "guid", f"{{{_guid(spec, well, field, channel, z)}}}"),
        ("stage-position-x", "float", f"{_A01_UM[1] + column * pitch + off_x:.4f}"),
        ("stage-position-y", "float", f"{_A01_UM[0] + row * pitch + off_y:.4f}"),
        ("stage-label", "string", f"{well} : Site {field}"),
        ("z-position", "float", f"{5000 + height:.4f}"),
        ("wavelength", "float", _EMISSION_NM[channel]),
        ("_IllumSetting_", "string", CHANNELS[channel]),
    ]
    custom = [
        ("OffsetFromWellCenterUmX", f"{off_x:.4f}"),
        ("OffsetFromWellCenterUmY", f"{off_y:.4f}"),
        ("SiteX", site_x + 1),
        ("SiteY", site_y + 1),
        ("Z Step", z + 1),
    ]
    lines = [
        "<MetaData>",
        f'<prop id="Description" type="string" value="Plate Name: {spec.name}&#13;&#10;Synthetic&#13;&#10;"/>',
        '<prop id="MetaDataVersion" type="float" value="1"/>',
        '<prop id="ApplicationName" type="string" value="MetaMorph"/>',
        "<PlaneInfo>",
        *(f'<prop id="{key}" type="{kind}" value="{value}"/>' for key, kind, value in plane),
        *(f'<custom-prop id="{key}" type="float" value="{value}"/>' for key, value in custom),
        "</PlaneInfo>",
        '<SetInfo>\n<prop id="number-of-planes" type="int" value="1"/>\n</SetInfo>',
        "</MetaData>",
    ]
    return "\n".join(lines).encode()


@lru_cache(maxsize=64)
def stage_errors_um(spec: SyntheticPlate, row: int, column: int) -> NDArray[np.float64]:
    """Return by how much the stage positions of a well's fields are wrong, ``(F, 2)`` along y and x."""
    rng = np.random.default_rng([spec.seed, 4, row, column])
    errors: NDArray[np.float64] = rng.normal(0, spec.stage_error_px * spec.pixel_size_um, (spec.fields, 2))
    return errors


def _plate_size(spec: SyntheticPlate) -> int:
    return 96 if spec.rows <= 8 and spec.columns <= 12 else 384


def write_htd(folder: Path, spec: SyntheticPlate) -> None:
    """Write the file by which MetaXpress describes a plate."""
    rows, columns = (8, 12) if _plate_size(spec) == 96 else (16, 24)
    entries: list[tuple[str, str | int]] = [
        ("HTSInfoFile", "Version 1.0"),
        ("Description", "Synthetic"),
        ("PlateType", 1),
        ("TimePoints", 1),
        ("ZSeries", "TRUE" if spec.slices > 1 else "FALSE"),
        ("ZSteps", spec.slices),
        ("XWells", columns),
        ("YWells", rows),
        ("XSites", spec.grid[1]),
        ("YSites", spec.grid[0]),
        ("NWavelengths", len(CHANNELS)),
        *((f"WaveName{c + 1}", f'"{name}"') for c, name in enumerate(CHANNELS)),
        ("EndFile", ""),
    ]
    lines = "".join(f'"{key}", {value}\r\n' if value != "" else f'"{key}"\r\n' for key, value in entries)
    (folder / f"{spec.name}.HTD").write_text(lines, encoding="latin-1", newline="")
