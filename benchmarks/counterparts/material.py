"""Pixels and tables that the functions are tried on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from scipy import ndimage

from openhcs_jupyter import functions as f
from openhcs_jupyter.pipeline import Context

if TYPE_CHECKING:
    from numpy.typing import NDArray

cv2.setNumThreads(1)


class Material(NamedTuple):
    """Pixels and tables that the functions are tried on."""

    channels: NDArray[np.uint16]
    """DAPI and GFP of one field, ``(2, 1080, 1080)``."""
    slices: NDArray[np.uint16]
    """DAPI of one field, ``(3, 1080, 1080)``."""
    fields: NDArray[np.uint16]
    """DAPI of the fields of a well, ``(4, 1080, 1080)``."""
    moved: NDArray[np.uint16]
    """DAPI, and the same under other noise at another place."""
    nuclei: NDArray[np.int32]
    flat: NDArray[np.float32]
    objects: pd.DataFrame
    """A plate of objects: 96 wells of 500."""
    film: pd.DataFrame
    """200 objects at 20 time points."""
    context: Context

    @classmethod
    def of(cls, folder: Path) -> Material:
        """Take it from a synthetic plate in `folder`, which is made if it is not there."""
        import tifffile

        from openhcs_jupyter.repository.embedded.synthetic import SyntheticPlate, write_plate
        from openhcs_jupyter.repository.embedded.synthetic.files import stage_errors_um

        spec = SyntheticPlate(name="Functions", rows=1, columns=1, neurites=1, stage_error_px=3, size=1080)
        if not folder.exists():
            write_plate(folder, spec)

        def plane(field: int, channel: int, z: int) -> NDArray[np.uint16]:
            found = next((folder / "TimePoint_1" / f"ZStep_{z}").glob(f"*_A01_s{field}_w{channel}*.tif"))
            return np.array(tifffile.imread(found))

        channels = np.stack([plane(1, 1, 2), plane(1, 2, 2)])
        _, nuclei = f.segment_nuclei(channels[:1])
        fields = np.stack([plane(field, 1, 2) for field in range(1, 5)])
        origins = np.array([spec.origin(field) for field in range(1, 5)]) * spec.pixel_size_um
        stage = origins + stage_errors_um(spec, 0, 0)
        rng = np.random.default_rng(1)
        shifted = ndimage.shift(channels[0].astype(np.float64), (4.3, -7.6), order=3, mode="nearest")
        moved = np.stack([channels[0], (shifted + rng.normal(0, 10, shifted.shape)).clip(0, 65535).astype(np.uint16)])
        y, x = np.indices(channels.shape[1:])
        context = Context(
            plate="P",
            well="A01",
            field=None,
            channel=None,
            channels=("DAPI", "GFP"),
            t=0,
            z=(0,),
            pixel_size_um=spec.pixel_size_um,
            z_step_um=None,
            positions_um=tuple(map(tuple, stage)),
            fields=(1, 2, 3, 4),
        )
        flat = (1 - 0.3 * np.hypot(y - 540, x - 540) / 760).astype(np.float32)
        return cls(channels, plane_stack(plane), fields, moved, nuclei[0], flat, _objects(), _film(), context)


def plane_stack(plane: Any) -> NDArray[np.uint16]:
    """Stack the three slices of DAPI in the first field."""
    return np.stack([plane(1, 1, z) for z in (1, 2, 3)])


def _objects() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    wells = [f"{row}{column:02d}" for row in "ABCDEFGH" for column in range(1, 13)]
    table = pd.DataFrame(rng.normal(100, 10, (48000, 12)), columns=[f"feature{i}" for i in range(12)])
    table.insert(0, "well", np.repeat(wells, 500))
    return table


def _film() -> pd.DataFrame:
    rng = np.random.default_rng(4)
    starts = np.stack(np.meshgrid(np.arange(20), np.arange(10)), -1).reshape(-1, 2) * 50.0
    places = starts + np.cumsum(rng.normal(0, 1.5, (20, 200, 2)), axis=0)
    return pd.DataFrame(
        {
            "t": np.repeat(np.arange(1, 21), 200),
            "y": places[..., 0].ravel(),
            "x": places[..., 1].ravel(),
            "true": np.tile(np.arange(200), 20),
        }
    )
