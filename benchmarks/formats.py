"""Formats: planes of OME-Zarr plates out of the repository, against zarr-python."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from benchmarks.report import interleaved, median_ratio, report
from openhcs_jupyter.repository.embedded import EmbeddedRepository

GOALS = {"blosc_vs_zarr": (">=", 1.0), "sharded_vs_zarr": (">=", 1.0), "raw_vs_zarr": (">=", 1.0)}
SIZE, WELLS, CHANNELS, REPEATS = 2160, 8, 2, 7


def pixels() -> NDArray[np.uint16]:
    """Make a plane such as cameras do: a background with noise, and blobs."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:SIZE, :SIZE]
    blobs = 2000 * (np.sin(x / 31) * np.sin(y / 29)).clip(0.7) - 1400
    return (rng.poisson(120, (SIZE, SIZE)) + blobs).astype(np.uint16)


def write_plate(root: Path, version: int, **how: Any) -> list[Path]:
    """Write a plate with zarr-python; returns the folders of its arrays."""
    plane = pixels()
    group = zarr.open_group(root, mode="w", zarr_format=version)
    wells = [{"path": f"A/{n + 1}", "rowIndex": 0, "columnIndex": n} for n in range(WELLS)]
    _tell(group, {"plate": {"wells": wells, "rows": [{"name": "A"}], "columns": [{"name": str(n)} for n in range(12)]}})
    folders = []
    for well in wells:
        made = group.require_group(str(well["path"]))
        _tell(made, {"well": {"images": [{"path": "0"}]}})
        image = made.require_group("0")
        axes = [{"name": "c", "type": "channel"}, *({"name": axis, "type": "space"} for axis in "yx")]
        scale = [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]
        _tell(image, {"multiscales": [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}]})
        array = image.create_array("0", shape=(CHANNELS, SIZE, SIZE), dtype=np.uint16, **how)
        array[...] = np.stack([plane] * CHANNELS)
        folders.append(root / str(well["path"]) / "0" / "0")
    return folders


def _tell(group: zarr.Group, values: Mapping[str, Any]) -> None:
    group.attrs.update(values if group.metadata.zarr_format == 2 else {"ome": {"version": "0.5", **values}})


def planes_vs_zarr(folder: Path, name: str, version: int, **how: Any) -> float:
    """Speed of opening every image and reading every plane / of zarr-python doing so."""
    arrays = write_plate(folder / name, version, **how)
    with EmbeddedRepository(folder / "repository") as repository:
        plate = repository.plate(repository.import_plate(folder / name, name=name).id)
        images = [field.images[0] for _, field in plate.fields()]
        buffer = np.empty((SIZE, SIZE), np.uint16)

        def ours() -> None:
            for image in images:
                with repository.open(image) as opened:
                    for c in range(CHANNELS):
                        np.copyto(buffer, opened.plane(0, c, 0))

        def theirs() -> None:
            for array in arrays:
                opened = zarr.open_array(array, mode="r")
                for c in range(CHANNELS):
                    np.copyto(buffer, opened[c])

        seconds = interleaved({"ours": ours, "zarr": theirs}, REPEATS)
    size = len(images) * CHANNELS * buffer.nbytes / 1e9
    told = {arm: f"{size / sorted(values)[len(values) // 2]:.2f} GB/s" for arm, values in seconds.items()}
    print(f"{name}: {json.dumps(told)}")
    return median_ratio(seconds["zarr"], seconds["ours"])


def main() -> None:
    """Measure and report."""
    blosc = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 2, "blocksize": 0}
    with tempfile.TemporaryDirectory(prefix="openhcs-bench-") as name:
        folder = Path(name)
        import numcodecs

        whole, part = (1, SIZE, SIZE), (1, SIZE // 4, SIZE // 4)
        figures = {
            "blosc_vs_zarr": planes_vs_zarr(folder, "blosc", 2, chunks=part, compressors=numcodecs.get_codec(blosc)),
            "sharded_vs_zarr": planes_vs_zarr(folder, "sharded", 3, chunks=part, shards=whole),
            "raw_vs_zarr": planes_vs_zarr(folder, "raw", 3, chunks=whole, compressors=None),
        }
    report("formats", figures, GOALS)


if __name__ == "__main__":
    main()
