"""Work of about 20 ms a field, in three stages that can be measured apart: reading, computing, writing."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from openhcs_jupyter.pipeline import Labels, Pipeline, Step, Table, measure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from openhcs_jupyter.model import Plate

cv2.setNumThreads(1)


def normalize(stack: NDArray[Any], low: float = 1.0, high: float = 99.8, salt: int = 0) -> NDArray[np.uint16]:  # noqa: ARG001 - salt tells runs apart
    """Stretch each plane ``(N, Y, X)`` of uint16 to its whole range; `salt` only tells runs apart."""
    out = np.empty(stack.shape, np.uint16)
    for plane, target in zip(stack, out, strict=True):
        counts = np.cumsum(cv2.calcHist([plane], [0], None, [65536], [0, 65536]).ravel(), dtype=np.float64)
        bottom, top = np.searchsorted(counts, [counts[-1] * low / 100, counts[-1] * high / 100])
        scale = 65535 / max(float(top - bottom), 1.0)
        cv2.addWeighted(plane, scale, plane, 0, -float(bottom) * scale, dst=target, dtype=cv2.CV_16U)
    return out


def smooth(stack: NDArray[Any], sigma: float = 2.0) -> NDArray[Any]:
    """Blur each plane."""
    out = np.empty_like(stack)
    for plane, target in zip(stack, out, strict=True):
        target[...] = cv2.GaussianBlur(plane.astype(np.float32), (0, 0), sigma)
    return out


def nuclei(stack: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.uint16]]:
    """Label what Otsu's threshold leaves of the first plane."""
    _, mask = cv2.threshold(cv2.convertScaleAbs(stack[0], alpha=1 / 257), 0, 255, cv2.THRESH_OTSU)
    return stack, cv2.connectedComponents(mask, connectivity=4, ltype=cv2.CV_16U)[1][None]


@measure()
def objects(stack: NDArray[Any], labels: NDArray[np.uint16]) -> dict[str, NDArray[Any]]:
    """Measure area and mean intensity of every label."""
    count = int(labels.max()) + 1
    area = cv2.calcHist([labels[0]], [0], None, [count], [0, count]).ravel().astype(np.int64)
    total = np.bincount(labels[0].ravel(), stack[0].ravel(), minlength=count)
    return {"label": np.arange(1, len(area)), "area": area[1:], "mean": total[1:] / area[1:]}


def pipeline(plate: Plate, salt: int = 0) -> Pipeline:
    """Write the work as steps."""
    first = plate.channels[0].name
    steps = [
        Step(normalize, {"salt": salt}),
        Step(smooth),
        Step(nuclei, channel=first, outputs=Labels("nuclei"), save=True, name="segmented"),
        Step(objects, channel=first, inputs={"labels": "nuclei"}, outputs=Table("objects")),
    ]
    return Pipeline(steps, name=f"fields-{salt}")


class Results(NamedTuple):
    """What a field gives."""

    image: NDArray[np.uint16]
    labels: NDArray[np.uint16]
    objects: dict[str, NDArray[Any]]


def field_files(folder: Path) -> list[tuple[Path, ...]]:
    """List the files of every field, a channel each."""
    found: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(folder.rglob("*.tif")):
        found[re.sub(r"_w\d+$", "", file.stem)].append(file)
    return [tuple(files) for _, files in sorted(found.items())]


class PlaneMap:
    """Where the pixels lie in the files of a benchmark plate, which are all alike."""

    def __init__(self, file: Path) -> None:
        import tifffile

        with tifffile.TiffFile(file) as tiff:
            page = tiff.pages.first
            self.offset, self.shape, self.dtype = page.dataoffsets[0], page.shape, page.dtype

    def read(self, file: Path) -> NDArray[Any]:
        """Return the plane in memory, ``(1, Y, X)``."""
        return np.array(np.memmap(file, self.dtype, "r", self.offset, self.shape))[None]


def compute(stacks: list[NDArray[Any]]) -> Results:
    """Do the work of all steps on one field."""
    flat = [smooth(normalize(stack)) for stack in stacks]
    image, labels = nuclei(flat[0])
    return Results(image, labels, objects(image, labels))


def write(results: Results, folder: Path, name: str) -> None:
    """Write what a run keeps of a field: two arrays and a table."""
    import pyarrow as pa

    np.save(folder / f"{name}_image.npy", results.image)
    np.save(folder / f"{name}_labels.npy", results.labels)
    table = pa.table(results.objects)
    with pa.ipc.new_file(str(folder / f"{name}.arrow"), table.schema) as writer:
        writer.write_table(table)


def whole(files: tuple[Path, ...], planes: PlaneMap, out: Path) -> int:
    """Do a field from its files to its results; returns how many objects it has."""
    results = compute([planes.read(file) for file in files])
    write(results, out, files[0].stem)
    return len(results.objects["label"])
