"""Folders of small images, and what is known of them once they are imported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from openhcs_jupyter.model import Layout, Plate


def write_images(folder: Path, *names: str, size: tuple[int, int] = (8, 8), **options: object) -> Path:
    for value, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, np.full(size, value, np.uint16), **{"metadata": None, **options})
    return folder


def layout_of(plate: Plate, well: str = "A01", number: int = 1, kind: str = "stack") -> Layout:
    found = plate.well(well)
    assert found is not None
    image = found.fields[number - 1].image(kind)
    assert image is not None
    return image.layout
