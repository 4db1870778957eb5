"""Compresses rows of planes for slow links, without loss, and chooses by the rate of the link whether and how."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.streaming.frames import MalformedError
from openhcs_jupyter.streaming.layers import LayerKind
from openhcs_jupyter.streaming.wire import Codec

# Noisy 16-bit planes, one core: lz4 halves them at some 0.6 GB/s, zstd saves a tenth more at a third of that speed.
_RAW_ABOVE = 235e6
_LZ4_ABOVE = 40e6
_UNKNOWN_RATE = 20e6
_PART_S = 0.04
_LEAST_PART = 1 << 18
_MOST_PART = 1 << 26
_RATIO = 2
_KINDS = "?bBhHiIlLqQefd"


def choose_codec(rate: float, kind: LayerKind, *, near: bool) -> Codec:
    """Choose how planes are sent.

    Parameters
    ----------
    rate
        Bytes a second that the link carries; 0 where that is not known yet.
    kind
        Labels compress a hundredfold, images by half.
    near
        The viewer is on the same machine.
    """
    if near or rate > _RAW_ABOVE:
        return "raw"
    return "lz4" if rate > _LZ4_ABOVE and kind != "labels" else "zstd"


def rows_of_part(row_bytes: int, rate: float, *, near: bool) -> int:
    """Choose how many rows one part has: the link is never taken for longer than what is more urgent can wait.

    Parameters
    ----------
    row_bytes
        Of one row, uncompressed.
    rate, near
        As in `choose_codec`.
    """
    most = _MOST_PART if near or rate > _RAW_ABOVE else int((rate or _UNKNOWN_RATE) * _PART_S * _RATIO)
    return max(1, min(max(most, _LEAST_PART), _MOST_PART) // max(1, row_bytes))


def pack(rows: NDArray[np.generic], codec: Codec) -> Any:
    """Return the payload of some rows ``(N, X)``: their own memory, or a compressed copy."""
    if rows.dtype.byteorder == ">":
        rows = rows.astype(rows.dtype.newbyteorder("<"))
    rows = np.ascontiguousarray(rows)
    if codec == "raw":
        return rows.data
    import imagecodecs

    lz4 = codec == "lz4"
    encode: Any = imagecodecs.blosc_encode
    return encode(
        rows.reshape(-1).view(np.uint8),
        level=1,
        compressor="lz4" if lz4 else "zstd",
        shuffle="bitshuffle" if lz4 else "shuffle",
        typesize=rows.dtype.itemsize,
        numthreads=1,
    )


@lru_cache(maxsize=64)
def dtype_name(dtype: np.dtype[np.generic]) -> str:
    """Return the name of a dtype on the wire; NumPy takes some 30 us to make it."""
    return dtype.name


@lru_cache(maxsize=64)
def plane_dtype(name: str) -> np.dtype[np.generic]:
    """Return a plane's dtype by its name on the wire.

    Raises
    ------
    MalformedError
        If pixels cannot be of this type.
    """
    try:
        dtype = np.dtype(name)
    except (TypeError, ValueError, SyntaxError) as error:
        raise MalformedError(f"{name!r} is no dtype: {error}") from None
    if dtype.char not in _KINDS:
        raise MalformedError(f"pixels cannot be {name!r}")
    return dtype.newbyteorder("<")


def unpack(payload: Any, codec: Codec, rows: NDArray[np.generic]) -> None:
    """Put a payload into rows ``(N, X)`` of a plane, which lie together in memory.

    Raises
    ------
    MalformedError
        If it does not fill them exactly, or is damaged.
    """
    flat = rows.reshape(-1).view(np.uint8)
    data = memoryview(payload).cast("B")
    if codec == "raw":
        if data.nbytes != flat.nbytes:
            raise MalformedError(f"{data.nbytes} bytes for rows of {flat.nbytes}")
        flat[:] = np.frombuffer(data, np.uint8)
        return
    import imagecodecs

    # A Blosc header tells the size of its content in bytes 4 to 8.
    if data.nbytes < 16 or int.from_bytes(data[4:8], "little") != flat.nbytes:
        raise MalformedError(f"a compressed payload that does not hold {flat.nbytes} bytes")
    if int.from_bytes(data[12:16], "little") != data.nbytes:
        raise MalformedError("a compressed payload that was cut")
    decode: Any = imagecodecs.blosc_decode
    try:
        decode(data, out=flat, numthreads=1)
    except (imagecodecs.BloscError, ValueError) as error:
        raise MalformedError(f"a compressed payload that is damaged: {error}") from None
