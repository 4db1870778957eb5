"""Headers of TIFF files: where their planes lie, and what their microscope wrote beside them."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from openhcs_jupyter.repository.embedded.formats.base import PlaneData


class TiffHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The first page of a TIFF file."""

    data: PlaneData
    description: str
    """The tag ImageDescription; empty where there is none."""
    pages: int
    """How many pages the file has."""


class TiffFaultError(Exception):
    """A TIFF file that cannot be used; the text says why, without its name."""


def read_header(path: Path, size: int) -> TiffHeader:
    """Read the first page's header.

    Parameters
    ----------
    path
        The file.
    size
        Its size in bytes; every byte that the header promises must lie within.

    Raises
    ------
    TiffFaultError
        If the file is truncated, is no TIFF, or holds no grey-scale plane.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page, pages = file.pages.first, len(file.pages)
            order = file.byteorder
            fields = (page.dtype, page.shape, page.dataoffsets, page.databytecounts)
            description = page.description
            contiguous = page.is_contiguous and page.compression == 1 and page.predictor == 1 and page.fillorder == 1
    except OSError as error:
        raise TiffFaultError(f"cannot be read: {error.strerror or error}") from error
    except Exception as error:
        why = "is empty" if size == 0 else f"is not a readable TIFF file: {error}"
        raise TiffFaultError(why) from error
    dtype, shape, offsets, counts = fields
    if dtype is None or len(shape) != 2 or not all(shape):
        raise TiffFaultError(f"holds no grey-scale plane: its shape is {shape}")
    end = max((offset + count for offset, count in zip(offsets, counts, strict=True)), default=0)
    if contiguous:
        end = offsets[0] + shape[0] * shape[1] * dtype.itemsize
    if not offsets or end > size:
        raise TiffFaultError(f"is truncated: it has {size:,} bytes and needs {end:,}")
    data = PlaneData(
        size_y=shape[0],
        size_x=shape[1],
        dtype=dtype.name,
        offset=offsets[0] if contiguous else None,
        swapped=dtype.itemsize > 1 and (order == "<") != (sys.byteorder == "little"),
    )
    return TiffHeader(data=data, description=description, pages=pages)
