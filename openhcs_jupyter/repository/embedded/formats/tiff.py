"""Headers of TIFF files: where their planes lie, and what their microscope wrote beside them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import msgspec

from openhcs_jupyter.repository.embedded.formats.base import PlaneData

if TYPE_CHECKING:
    from tifffile import TiffFile


class TiffHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The first page of a TIFF file."""

    data: PlaneData
    description: str
    """The tag ImageDescription; empty where there is none."""
    pages: int
    """How many pages the file has."""


class TiffPages(msgspec.Struct, frozen=True, kw_only=True):
    """All pages of a TIFF file."""

    planes: tuple[PlaneData | str, ...]
    """One a page; a sentence without a subject where the page cannot be used."""
    description: str
    imagej: dict[str, Any]
    """What ImageJ wrote; empty where it did not."""
    pixel_size_um: float | None = None
    """As ImageJ's unit and the tag XResolution say."""


class TiffFaultError(Exception):
    """A TIFF file that cannot be used; the text says why, without its name."""


def read_header(path: Path | BinaryIO, size: int) -> TiffHeader:
    """Read the first page's header.

    Parameters
    ----------
    path
        The file, or its content.
    size
        Its size in bytes; every byte that the header promises must lie within.

    Raises
    ------
    TiffFaultError
        If the file is truncated, is no TIFF, or holds no grey-scale plane.
    """
    with _opened(path, size) as file:
        page, pages = file.pages.first, len(file.pages)
        data = _plane(page, 0, file.byteorder, size)
        return TiffHeader(data=data, description=page.description, pages=pages)


def read_pages(path: Path | BinaryIO, size: int) -> TiffPages:
    """Read the headers of all pages; parameters and errors as of `read_header`, but of the whole file only."""
    with _opened(path, size) as file:
        planes: list[PlaneData | str] = []
        for number, page in enumerate(file.pages):
            try:
                planes.append(_plane(page, number, file.byteorder, size))
            except TiffFaultError as fault:
                planes.append(str(fault))
        _require_last(file, size)
        imagej = dict(file.imagej_metadata or {}) if file.is_imagej else {}
        return TiffPages(
            planes=tuple(_beyond_the_first(planes, imagej, size)),
            description=file.pages.first.description,
            imagej=imagej,
            pixel_size_um=_pixel_size(file, imagej),
        )


@contextmanager
def _opened(path: Path | BinaryIO, size: int) -> Iterator[TiffFile]:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            yield file
    except TiffFaultError:
        raise
    except OSError as error:
        raise TiffFaultError(f"cannot be read: {error.strerror or error}") from error
    except Exception as error:
        why = "is empty" if size == 0 else f"is not a readable TIFF file: {error}"
        raise TiffFaultError(why) from error


def _plane(page: Any, number: int, order: str, size: int) -> PlaneData:
    dtype, shape, offsets, counts = page.dtype, page.shape, page.dataoffsets, page.databytecounts
    contiguous = page.is_contiguous and page.compression == 1 and page.predictor == 1 and page.fillorder == 1
    if page.samplesperpixel > 1:
        raise TiffFaultError(f"is a colour image, of {page.samplesperpixel} samples a pixel; planes must be grey-scale")
    if dtype is None or len(shape) != 2 or not all(shape):
        raise TiffFaultError(f"holds no grey-scale plane: its shape is {shape}")
    end = max((offset + count for offset, count in zip(offsets, counts, strict=True)), default=0)
    if contiguous:
        end = offsets[0] + shape[0] * shape[1] * dtype.itemsize
    if not offsets or end > size:
        raise TiffFaultError(f"is truncated: it has {size:,} bytes and needs {end:,}")
    return PlaneData(
        size_y=shape[0],
        size_x=shape[1],
        dtype=dtype.name,
        page=number,
        offset=offsets[0] if contiguous else None,
        swapped=dtype.itemsize > 1 and (order == "<") != (sys.byteorder == "little"),
    )


def _require_last(file: TiffFile, size: int) -> None:
    """Refuse a file whose last page that can be read names another one: pages behind the cut are just not there."""
    last, how, stream = file.pages[-1], file.tiff, file.filehandle
    order: Literal["little", "big"] = "little" if file.byteorder == "<" else "big"
    stream.seek(last.offset)
    tags = int.from_bytes(stream.read(how.tagnosize), order)
    stream.seek(last.offset + how.tagnosize + tags * how.tagsize)
    following = stream.read(how.offsetsize)
    if len(following) < how.offsetsize or int.from_bytes(following, order) >= size:
        raise TiffFaultError(f"is truncated after its page {len(file.pages)}: it has {size:,} bytes")


def _beyond_the_first(planes: list[PlaneData | str], imagej: dict[str, Any], size: int) -> Iterator[PlaneData | str]:
    """Add the planes of a stack that ImageJ wrote behind one single header, as it does above 4 GB."""
    yield from planes
    first, count = planes[0], int(imagej.get("images", 1))
    if len(planes) > 1 or isinstance(first, str) or first.offset is None:
        return
    import numpy as np

    length = first.size_y * first.size_x * np.dtype(first.dtype).itemsize
    for number in range(1, count):
        end = first.offset + (number + 1) * length
        if end > size:
            yield f"is truncated: it has {size:,} bytes and needs {end:,}"
        else:
            yield msgspec.structs.replace(first, page=number, offset=first.offset + number * length)


def _pixel_size(file: TiffFile, imagej: dict[str, Any]) -> float | None:
    from openhcs_jupyter.repository.embedded.formats.metadata import micrometres

    # ImageJ writes the sign as an escape where its file cannot hold it.
    unit = str(imagej.get("unit", "")).replace("\\u00B5", "\u00b5")
    tag = file.pages.first.tags.get("XResolution")
    if not unit or tag is None or not tag.value[0]:
        return None
    return micrometres(tag.value[1] / tag.value[0], unit)
