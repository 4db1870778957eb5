"""Zarr arrays of versions 2 and 3, read plane by plane: where each chunk lies, and what it holds.

Written here because a plate has thousands of arrays: to open one costs zarr-python milliseconds, and this some
microseconds. Chunks are decompressed by imagecodecs.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILES = (".zarray", "zarr.json")
"""What an array of version 2, or 3, is described by."""

_KNOWN = ("blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma")
_ABSENT = 2**64 - 1
_ENTRY = 16  # bytes of a chunk's offset and length in the index of a shard
_CHECKSUM = 4
_BLOSC_HEADER = 16
_latest = threading.local()
"""What this thread decoded last."""


class ZarrFaultError(Exception):
    """An array or a chunk that cannot be used; the text says why, without its name."""


class ZarrArray(msgspec.Struct, frozen=True, kw_only=True):
    """An array whose last two axes are y and x."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    """Shape of what one file holds: a chunk, or a shard of smaller ones."""
    dtype: str
    """NumPy's name with its byte order, such as ``<u2``."""
    fill: float | int
    prefix: str
    """Of the chunks' names: ``c`` in version 3."""
    separator: str
    codec: str | None
    """That compresses the chunks; None: none."""
    order: tuple[int, ...] | None = None
    """How the chunks' axes are stored; None: as they come."""
    shard: tuple[int, ...] | None = None
    """Shape of the chunks in a shard; None: files are no shards."""
    checksums: tuple[bool, bool] = (False, False)
    """Whether four bytes follow each chunk, and each shard's index."""
    index_first: bool = False
    """A shard begins with its index, rather than ends with it."""

    @property
    def size_y(self) -> int:
        """Rows of a plane."""
        return self.shape[-2]

    @property
    def size_x(self) -> int:
        """Columns of a plane."""
        return self.shape[-1]

    @property
    def pixels(self) -> str:
        """NumPy's name of the pixel type in native byte order."""
        return np.dtype(self.dtype).newbyteorder("=").name

    def plane(self, *index: int) -> int:
        """Return the number of the plane at an index of all axes but y and x."""
        number = 0
        for position, size in zip(index, self.shape[:-2], strict=True):
            number = number * size + position
        return number

    def keys(self, plane: int) -> list[str]:
        """Name the files of a plane, row by row, relative to the array's folder."""
        leading = [str(position // chunk) for position, chunk in zip(self._index(plane), self.chunks, strict=False)]
        rows, columns = self._grid
        start = [self.prefix] if self.prefix else []
        return [
            self.separator.join([*start, *leading, str(row), str(column)])
            for row in range(rows)
            for column in range(columns)
        ]

    def place(self, plane: int) -> int | None:
        """Return where in its file a plane's first byte lies; None where it must be decoded."""
        whole = self._grid == (1, 1) and self.chunks[-2:] == self.shape[-2:]
        if not whole or self.codec or self.shard or self.order or self.checksums[0]:
            return None
        within = 0
        for position, chunk in zip(self._index(plane), self.chunks, strict=False):
            within = within * chunk + position % chunk
        return within * self.size_y * self.size_x * np.dtype(self.dtype).itemsize

    @property
    def swapped(self) -> bool:
        """Whether its byte order is not the machine's."""
        return not np.dtype(self.dtype).isnative

    def read(self, plane: int, files: Sequence[Path]) -> NDArray[np.generic]:
        """Decode a plane, ``(Y, X)``.

        Parameters
        ----------
        plane
            Its number, see `plane`.
        files
            As `keys` names them; those that are not there hold the fill value.

        Raises
        ------
        ZarrFaultError
            If a file is damaged.
        OSError
            If a file cannot be read.
        """
        rows, columns = self._grid
        if rows * columns == 1 and self.chunks[-2:] == self.shape[-2:]:
            return self._part(plane, files[0])
        height, width = self.chunks[-2:]
        whole = np.empty((self.size_y, self.size_x), self.dtype)
        for number, file in enumerate(files):
            y, x = number // columns * height, number % columns * width
            target = whole[y : y + height, x : x + width]
            target[...] = self._part(plane, file)[: target.shape[0], : target.shape[1]]
        return whole

    @property
    def _grid(self) -> tuple[int, int]:
        return -(-self.shape[-2] // self.chunks[-2]), -(-self.shape[-1] // self.chunks[-1])

    def _index(self, plane: int) -> tuple[int, ...]:
        found = []
        for size in reversed(self.shape[:-2]):
            plane, position = divmod(plane, size)
            found.append(position)
        return tuple(reversed(found))

    def _part(self, plane: int, file: Path) -> NDArray[np.generic]:
        """Read what one file holds of a plane."""
        try:
            if self.shard is not None:
                return self._of_shard(plane, file)
            chunk = self._decoded(file)
        except FileNotFoundError:
            return np.full(self.chunks[-2:], self.fill, self.dtype)
        within = tuple(position % size for position, size in zip(self._index(plane), self.chunks, strict=False))
        part: NDArray[np.generic] = chunk[within]
        return part

    def _decoded(self, file: Path) -> NDArray[np.generic]:
        """Decode a file; one of several planes is kept for the next of them."""
        several = math.prod(self.chunks[:-2]) > 1
        key = (file, file.stat().st_mtime_ns) if several else None
        if several and getattr(_latest, "key", None) == key:
            kept: NDArray[np.generic] = _latest.chunk
            return kept
        try:
            chunk = self._chunk(file.read_bytes(), self.chunks)
        except ZarrFaultError as error:
            raise ZarrFaultError(f"its chunk {file} {error}") from None
        if several:
            _latest.key, _latest.chunk = key, chunk
        return chunk

    def _chunk(self, content: bytes, shape: tuple[int, ...]) -> NDArray[np.generic]:
        dtype = np.dtype(self.dtype)
        size = math.prod(shape) * dtype.itemsize
        if self.checksums[0]:
            content = _checked(content)
        pixels = decompress(self.codec, content, size)
        if len(pixels) != size:
            raise ZarrFaultError(f"is truncated: it holds {len(pixels):,} bytes and needs {size:,}")
        if self.order is None:
            return np.frombuffer(pixels, dtype).reshape(shape)
        stored = np.frombuffer(pixels, dtype).reshape([shape[axis] for axis in self.order])
        return stored.transpose(np.argsort(self.order))

    def _of_shard(self, plane: int, file: Path) -> NDArray[np.generic]:
        """Read what a shard holds of a plane: its index, then the chunks that the plane touches."""
        assert self.shard is not None
        grid = tuple(outer // inner for outer, inner in zip(self.chunks, self.shard, strict=True))
        index = self._index(plane)
        inside = [position % size for position, size in zip(index, self.chunks, strict=False)]
        leading = [position // size for position, size in zip(inside, self.shard, strict=False)]
        within = tuple(position % size for position, size in zip(inside, self.shard, strict=False))
        whole = np.full(self.chunks[-2:], self.fill, self.dtype)
        height, width = self.shard[-2:]
        with file.open("rb") as stream:
            places = self._shard_index(stream, math.prod(grid), file).reshape(*grid, 2)
            for row, column in np.ndindex(grid[-2:]):
                offset, length = (int(value) for value in places[(*leading, row, column)])
                if offset == _ABSENT and length == _ABSENT:
                    continue
                stream.seek(offset)
                content = stream.read(length)
                if len(content) < length:
                    raise ZarrFaultError(f"its shard {file} is truncated")
                try:
                    part = self._chunk(content, self.shard)[within]
                except ZarrFaultError as error:
                    which = "/".join(map(str, (*leading, row, column)))
                    raise ZarrFaultError(f"chunk {which} of its shard {file} {error}") from None
                whole[row * height : (row + 1) * height, column * width : (column + 1) * width] = part
        return whole

    def _shard_index(self, stream: Any, count: int, file: Path) -> NDArray[np.uint64]:
        length = count * _ENTRY + (_CHECKSUM if self.checksums[1] else 0)
        size = stream.seek(0, 2)
        if size < length:
            raise ZarrFaultError(f"its shard {file} is truncated: it has {size:,} bytes, its index alone {length:,}")
        stream.seek(0 if self.index_first else size - length)
        content = stream.read(length)
        if self.checksums[1]:
            try:
                content = _checked(content)
            except ZarrFaultError as error:
                raise ZarrFaultError(f"the index of its shard {file} {error}") from None
        places = np.frombuffer(content, "<u8").reshape(count, 2)
        there = places[:, 0] != _ABSENT
        ends = places[there, 0] + places[there, 1]
        if (places[there, 0] > size).any() or (ends > size).any():
            raise ZarrFaultError(f"its shard {file} is truncated: its index points beyond its {size:,} bytes")
        return places


def read_array(folder: Path, name: str) -> ZarrArray:
    """Read an array's description.

    Parameters
    ----------
    folder
        Of the array.
    name
        Of the describing file: one of `FILES`.

    Raises
    ------
    ZarrFaultError
        If it is damaged, or the array is stored in a way that is not known.
    OSError
        If it cannot be read.
    """
    try:
        told = msgspec.json.decode((folder / name).read_bytes())
        found = _of_2(told) if name == FILES[0] else _of_3(told)
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ZarrFaultError(f"has a damaged {name}: {error!r}") from error
    sizes = (*found.shape, *found.chunks, *(found.shard or ()))
    if len(found.shape) < 2 or min(sizes) < 1 or len(sizes) % len(found.shape) or len(found.chunks) != len(found.shape):
        raise ZarrFaultError(f"has the shape {found.shape} in chunks of {found.chunks}")
    if np.dtype(found.dtype).kind not in "iufb":
        raise ZarrFaultError(f"has pixels of type {found.dtype}, which are not numbers")
    return found


def is_whole(array: ZarrArray, file: Path, size: int) -> bool:
    """Tell whether a chunk's file is as long as it must be, as far as its size and its first bytes tell."""
    if array.shard is not None:
        grid = math.prod(outer // inner for outer, inner in zip(array.chunks, array.shard, strict=True))
        return size >= grid * _ENTRY
    if array.codec is None:
        extra = _CHECKSUM if array.checksums[0] else 0
        return size == math.prod(array.chunks) * np.dtype(array.dtype).itemsize + extra
    if array.codec != "blosc":
        return size > 0
    with file.open("rb") as stream:
        header = stream.read(_BLOSC_HEADER)
    extra = _CHECKSUM if array.checksums[0] else 0
    return len(header) == _BLOSC_HEADER and int.from_bytes(header[12:16], "little") + extra == size


def _checked(content: bytes) -> bytes:
    """Return what a checksum follows, which must be right."""
    import google_crc32c

    checked, checksum = content[:-_CHECKSUM], content[-_CHECKSUM:]
    if len(checksum) < _CHECKSUM or google_crc32c.value(checked) != int.from_bytes(checksum, "little"):
        raise ZarrFaultError("is damaged or truncated: its checksum (crc32c) is another one")
    return checked


def decompress(codec: str | None, content: bytes, size: int) -> bytes | bytearray:
    """Undo a codec; `size` is that of the result.

    Raises
    ------
    ZarrFaultError
        If the content is damaged.
    """
    if codec is None:
        return content
    import imagecodecs

    decoders: Mapping[str, Callable[..., bytes | bytearray]] = {
        "blosc": lambda data, out: imagecodecs.blosc_decode(data, out=out, numthreads=1),
        "zstd": imagecodecs.zstd_decode,
        "gzip": imagecodecs.gzip_decode,
        "zlib": imagecodecs.zlib_decode,
        # numcodecs writes the size before an LZ4 block.
        "lz4": lambda data, out: imagecodecs.lz4_decode(data, header=True, out=out),
        "bz2": imagecodecs.bz2_decode,
        "lzma": imagecodecs.lzma_decode,
    }
    try:
        return decoders[codec](content, out=size)
    except Exception as error:
        raise ZarrFaultError(f"is damaged: {error}") from error


def _of_2(told: Mapping[str, Any]) -> ZarrArray:
    compressor = told.get("compressor")
    if told.get("filters"):
        raise ZarrFaultError(f"is stored through the filter {told['filters'][0].get('id')!r}, which is not read")
    shape = _sizes(told["shape"])
    return ZarrArray(
        shape=shape,
        chunks=_sizes(told["chunks"]),
        dtype=np.dtype(told["dtype"]).str,
        fill=_fill(told.get("fill_value")),
        prefix="",
        separator=_separator(told.get("dimension_separator", ".")),
        codec=_codec(compressor["id"]) if compressor else None,
        order=tuple(reversed(range(len(shape)))) if told.get("order") == "F" else None,
    )


def _of_3(told: Mapping[str, Any]) -> ZarrArray:
    if told["node_type"] != "array":
        raise ZarrFaultError("is a group, not an array")
    if told["chunk_grid"]["name"] != "regular":
        raise ZarrFaultError(f"has a chunk grid {told['chunk_grid']['name']!r}, which is not read")
    if told.get("storage_transformers"):
        raise ZarrFaultError("is stored through a transformer, which is not read")
    chunks = _sizes(told["chunk_grid"]["configuration"]["chunk_shape"])
    encoding = told["chunk_key_encoding"]
    default = encoding["name"] == "default"
    separator = encoding.get("configuration", {}).get("separator", "/" if default else ".")
    codecs = list(told["codecs"])
    shard, index_first, index_checked = None, False, False
    if codecs[0]["name"] == "sharding_indexed":
        outer = codecs[0]["configuration"]
        if len(codecs) > 1:
            raise ZarrFaultError(f"has shards that are stored as {codecs[1]['name']!r}, which is not read")
        shard = _sizes(outer["chunk_shape"])
        codecs = list(outer["codecs"])
        index_first = outer.get("index_location", "end") == "start"
        index_checked = any(codec["name"] == "crc32c" for codec in outer["index_codecs"])
    little, codec, order, checked = _chain(codecs)
    dtype = np.dtype(told["data_type"]).newbyteorder("<" if little else ">")
    return ZarrArray(
        shape=_sizes(told["shape"]),
        chunks=chunks,
        dtype=dtype.str,
        fill=_fill(told.get("fill_value")),
        prefix="c" if default else "",
        separator=_separator(separator),
        codec=codec,
        order=order,
        shard=shard,
        checksums=(checked, index_checked),
        index_first=index_first,
    )


def _chain(codecs: Sequence[Mapping[str, Any]]) -> tuple[bool, str | None, tuple[int, ...] | None, bool]:
    """Read a chain of codecs: little-endian or not, what compresses, the order of axes, whether a checksum ends it."""
    little, codec, order, checked = sys.byteorder == "little", None, None, False
    for one in codecs:
        name, how = one["name"], one.get("configuration", {})
        if name == "bytes":
            little = how.get("endian", "little") == "little"
        elif name == "transpose" and order is None:
            order = _sizes(how["order"])
        elif name == "crc32c" and not checked:
            checked = True
        elif codec is None and not checked:
            codec = _codec(name)
        else:
            raise ZarrFaultError(f"is stored through {name!r} after other codecs, which is not read")
    return little, codec, order, checked


def _sizes(value: object) -> tuple[int, ...]:
    return msgspec.convert(value, tuple[int, ...])


def _codec(name: str) -> str:
    if name not in _KNOWN:
        raise ZarrFaultError(f"is compressed with {name!r}, which is not read; known are {', '.join(_KNOWN)}")
    return name


def _separator(text: str) -> str:
    if text not in ("/", "."):
        raise ZarrFaultError(f"separates the names of its chunks by {text!r}")
    return text


def _fill(value: object) -> float | int:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float):
        return value
    if value is None:
        return 0
    return float(str(value))  # NaN and Infinity are text
