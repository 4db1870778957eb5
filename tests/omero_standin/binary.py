"""The binary repository on disk, and the services that read and write it: pixels and files."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import omero
import omero.api
from numpy.typing import NDArray

from tests.omero_standin import schema
from tests.omero_standin.servants import Servant
from tests.omero_standin.store import Record, Store

DTYPES = {
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "float": "f4",
    "double": "f8", "bit": "u1",
}  # fmt: skip


class BinaryRepository:
    """Folders laid out as OMERO.server's data directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("Pixels", "Files", "Thumbnails", "ManagedRepository"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def managed(self) -> Path:
        return self.folder / "ManagedRepository"

    def of_id(self, kind: str, number: int) -> Path:
        """Return the file of an id: a folder for each thousand."""
        parts: list[str] = []
        rest = number
        while rest > 999:
            rest //= 1000
            if rest > 0:
                parts.insert(0, f"Dir-{rest % 1000:03d}")
        return self.folder.joinpath(kind, *parts, str(number))

    def of_file(self, record: Record) -> Path:
        """Return where an OriginalFile lies."""
        if record.values.get("repo"):
            return self.managed / str(record.values["path"]) / str(record.values["name"])
        return self.of_id("Files", record.id)


class Planes:
    """The pixels of one Pixels record: its own file, or imported files."""

    def __init__(self, store: Store, repository: BinaryRepository, pixels: Record, zarr: str = "") -> None:
        self.values = pixels.values
        kind = store.find(pixels.values["pixelsType"])
        assert kind is not None
        self.dtype = np.dtype(DTYPES[kind.values["value"]]).newbyteorder(">")
        self.shape = tuple(int(pixels.values[f"size{axis}"]) for axis in "TCZYX")
        self.path = repository.of_id("Pixels", pixels.id)
        image = store.find(pixels.values["image"])
        assert image is not None
        self.blank = zarr == "blank"
        external = store.find(image.external) if zarr == "served" else None
        self.zarr = None if external is None else str(external.values["lsid"])
        self.imported = None
        if (fileset := image.values.get("fileset")) is not None:
            side = repository.folder / "Planes" / f"{fileset.id}.json"
            self.imported = json.loads(side.read_text())[str(image.values.get("series") or 0)]
            self.root = repository.managed

    @property
    def plane_bytes(self) -> int:
        return self.shape[3] * self.shape[4] * self.dtype.itemsize

    def offset(self, t: int, c: int, z: int) -> int:
        for axis, value, size in zip("TCZ", (t, c, z), self.shape[:3], strict=True):
            if not 0 <= value < size:
                raise omero.ApiUsageException(None, None, f"{axis} = {value} is outside of 0 to {size - 1}")
        return ((t * self.shape[1] + c) * self.shape[2] + z) * self.plane_bytes

    def read(self, t: int, c: int, z: int) -> NDArray[Any]:
        """Return one plane, big-endian."""
        offset = self.offset(t, c, z)
        if self.imported is not None:
            return self._imported(self.imported, t, c, z)
        if self.zarr is not None:
            return self._zarr(self.zarr, t, c, z)
        if self.blank and not self.path.exists():
            return np.zeros(self.shape[3:], self.dtype)
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                data = file.read(self.plane_bytes)
        except OSError as error:
            raise omero.ResourceError(None, None, f"Cannot read pixels: {self.path.name}: {error.strerror}") from error
        if len(data) < self.plane_bytes:
            raise omero.ResourceError(None, None, f"The pixels' file {self.path.name} is too short")
        return np.frombuffer(data, self.dtype).reshape(self.shape[3:])

    def _imported(self, files: dict[str, Any], t: int, c: int, z: int) -> NDArray[Any]:
        import tifffile

        entry = files.get(f"{t}/{c}/{z}")
        if entry is None:
            return np.zeros(self.shape[3:], self.dtype)  # as Bio-Formats does for planes that were not acquired
        name, page = entry
        try:
            return tifffile.imread(self.root / name, key=page).astype(self.dtype)
        except (OSError, ValueError, tifffile.TiffFileError) as error:
            raise omero.ResourceError(None, None, f"Cannot read {name}: {error}") from error

    def _zarr(self, folder: str, t: int, c: int, z: int) -> NDArray[Any]:
        import zarr

        try:
            array = zarr.open_group(folder, mode="r", zarr_format=2)["0"]
        except (OSError, KeyError) as error:
            raise omero.ResourceError(None, None, f"Cannot read {folder}: {error}") from error
        assert isinstance(array, zarr.Array)
        return np.asarray(array[t, c, z]).astype(self.dtype)

    def write(self, data: bytes, offset: int) -> None:
        if self.imported is not None:
            raise omero.ApiUsageException(None, None, "Imported pixels cannot be written")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Clients send several planes at once: none of the threads may empty what another has written.
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.pwrite(descriptor, data, offset)
            whole = int(np.prod(self.shape)) * self.dtype.itemsize
            if os.fstat(descriptor).st_size < whole:
                os.truncate(descriptor, whole)
        finally:
            os.close(descriptor)


class RawPixels(Servant, omero.api.RawPixelsStore):
    """RawPixelsStore."""

    _planes: Planes | None = None
    _pixels: Record | None = None
    _dirty = False

    @property
    def planes(self) -> Planes:
        if self._planes is None:
            raise omero.ApiUsageException(
                None, None, "This RawPixelsStore has not been properly initialized: call setPixelsId"
            )
        time.sleep(self.world.slow_s)
        return self._planes

    def do_setPixelsId(self, number: int, bypass: bool, *, context: dict[str, str]) -> None:
        store = self.world.store
        with store.lock:
            pixels = store.get("Pixels", number)
            if pixels is None or not self.session.sees(pixels, self.session.group_of(context)):
                raise omero.ValidationException(None, None, f"Cannot read pixels id={number}")
            self._planes = Planes(store, self.world.repository, pixels, self.world.zarr)
            self._pixels = pixels
            if self.world.no_pyramids and self.do_requiresPixelsPyramid(context=context):
                raise omero.MissingPyramidException(None, None, "Import pyramid", 1000, number)

    def do_getPixelsId(self, *, context: dict[str, str]) -> int:
        assert self._pixels is not None
        return self._pixels.id

    def do_getPixelsPath(self, *, context: dict[str, str]) -> str:
        if self.planes.imported is not None:
            first = next(iter(self.planes.imported.values()))
            return str(self.planes.root / first[0])
        return str(self.planes.path)

    def do_prepare(self, ids: list[int], *, context: dict[str, str]) -> None:
        return None

    def do_getPlane(self, z: int, c: int, t: int, *, context: dict[str, str]) -> bytes:
        return self.planes.read(t, c, z).tobytes()

    def do_getTile(self, z: int, c: int, t: int, x: int, y: int, w: int, h: int, *, context: dict[str, str]) -> bytes:
        return self.planes.read(t, c, z)[y : y + h, x : x + w].tobytes()

    def do_getHypercube(self, offset: list[int], size: list[int], step: list[int], *, context: dict[str, str]) -> bytes:
        x, y, z, c, t = (slice(o, o + s, max(d, 1)) for o, s, d in zip(offset, size, step, strict=True))
        planes = self.planes
        ts, cs, zs = (range(planes.shape[i])[one] for i, one in enumerate((t, c, z)))
        return b"".join(planes.read(a, b, d)[y, x].tobytes() for a in ts for b in cs for d in zs)

    def do_getStack(self, c: int, t: int, *, context: dict[str, str]) -> bytes:
        return b"".join(self.planes.read(t, c, z).tobytes() for z in range(self.planes.shape[2]))

    def do_setPlane(self, data: bytes, z: int, c: int, t: int, *, context: dict[str, str]) -> None:
        if len(data) != self.planes.plane_bytes:
            raise omero.ApiUsageException(None, None, f"A plane has {self.planes.plane_bytes} bytes, not {len(data)}")
        self._write(data, self.planes.offset(t, c, z))

    def do_setTile(
        self, data: bytes, z: int, c: int, t: int, x: int, y: int, w: int, h: int, *, context: dict[str, str]
    ) -> None:
        planes = self.planes
        rows = np.frombuffer(data, planes.dtype).reshape(h, w)
        for row in range(h):
            at = planes.offset(t, c, z) + ((y + row) * planes.shape[4] + x) * planes.dtype.itemsize
            self._write(rows[row].tobytes(), at)

    def _write(self, data: bytes, offset: int) -> None:
        assert self._pixels is not None
        self.session.check_edit(self._pixels)
        self.planes.write(data, offset)
        self._dirty = True

    def do_save(self, *, context: dict[str, str]) -> Any:
        from tests.omero_standin.graphs import Loader

        assert self._pixels is not None
        store = self.world.store
        with store.lock:
            if self._dirty:
                digest = hashlib.sha1(self.planes.path.read_bytes(), usedforsecurity=False).hexdigest()
                self._pixels.values["sha1"] = digest
                store.put(self._pixels)
                store.commit()
                self._dirty = False
            return Loader(store, self.session).load(self._pixels)

    def do_close(self, *, context: dict[str, str]) -> None:
        if self._dirty:
            self.do_save(context=context)
        self._planes = None

    def do_getPlaneSize(self, *, context: dict[str, str]) -> int:
        return self.planes.plane_bytes

    def do_getRowSize(self, *, context: dict[str, str]) -> int:
        return self.planes.shape[4] * self.planes.dtype.itemsize

    def do_getTotalSize(self, *, context: dict[str, str]) -> int:
        return int(np.prod(self.planes.shape)) * self.planes.dtype.itemsize

    def do_getPlaneOffset(self, z: int, c: int, t: int, *, context: dict[str, str]) -> int:
        return self.planes.offset(t, c, z)

    def do_getByteWidth(self, *, context: dict[str, str]) -> int:
        return self.planes.dtype.itemsize

    def do_isSigned(self, *, context: dict[str, str]) -> bool:
        return self.planes.dtype.kind != "u"

    def do_isFloat(self, *, context: dict[str, str]) -> bool:
        return self.planes.dtype.kind == "f"

    def do_requiresPixelsPyramid(self, *, context: dict[str, str]) -> bool:
        big = max(self.planes.shape[3:]) and self.planes.shape[3] * self.planes.shape[4] > 3192 * 3192
        return bool(big) and self.planes.dtype.kind != "f"

    def do_getResolutionLevels(self, *, context: dict[str, str]) -> int:
        return 1

    def do_getTileSize(self, *, context: dict[str, str]) -> list[int]:
        return [min(1024, self.planes.shape[4]), min(1024, self.planes.shape[3])]


class RawFiles(Servant, omero.api.RawFileStore):
    """RawFileStore."""

    _file: Record | None = None

    @property
    def path(self) -> Path:
        if self._file is None:
            raise omero.ApiUsageException(None, None, "This RawFileStore has no file: call setFileId")
        path: Path = self.world.repository.of_file(self._file)
        return path

    def do_setFileId(self, number: int, *, context: dict[str, str]) -> None:
        store = self.world.store
        with store.lock:
            record = store.get("OriginalFile", number)
            if record is None or not self.session.sees(record, self.session.group_of(context)):
                raise omero.ValidationException(None, None, f"Cannot read file id={number}")
            if record.values.get("repo") and not self._may_download(record):
                raise omero.SecurityViolation(None, None, f"Binary access to file {number} is restricted")
            self._file = record

    def _may_download(self, record: Record) -> bool:
        store = self.world.store
        for entry in store.children(record.key, schema.Collection("FilesetEntry", "originalFile")):
            fileset = entry.values["fileset"]
            images = store.children(fileset.key, schema.Collection("Image", "fileset"))
            if any(not self.session.may_read_binary(image) for image in images):
                return False
        return True

    def do_getFileId(self, *, context: dict[str, str]) -> Any:
        return omero.rtypes.rlong(self._file.id) if self._file else None

    def do_exists(self, *, context: dict[str, str]) -> bool:
        return self.path.exists()

    def do_size(self, *, context: dict[str, str]) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def do_read(self, position: int, length: int, *, context: dict[str, str]) -> bytes:
        with self.path.open("rb") as file:
            file.seek(position)
            return file.read(length)

    def do_write(self, data: bytes, position: int, length: int, *, context: dict[str, str]) -> None:
        assert self._file is not None
        self.session.check_edit(self._file)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("r+b" if self.path.exists() else "w+b") as file:
            file.seek(position)
            file.write(data[:length] if length else data)

    def do_truncate(self, length: int, *, context: dict[str, str]) -> bool:
        if not self.path.exists() or self.path.stat().st_size <= length:
            return False
        os.truncate(self.path, length)
        return True

    def do_save(self, *, context: dict[str, str]) -> Any:
        from tests.omero_standin.graphs import Loader

        if self._file is None:
            return None
        store = self.world.store
        with store.lock:
            data = self.path.read_bytes() if self.path.exists() else b""
            self._file.values["size"] = len(data)
            self._file.values["hash"] = hashlib.sha1(data, usedforsecurity=False).hexdigest()
            store.put(self._file)
            store.commit()
            return Loader(store, self.session).load(self._file)

    def do_close(self, *, context: dict[str, str]) -> None:
        if self._file is not None and not self._file.values.get("repo") and self.path.exists():
            self.do_save(context=context)
        self._file = None
