"""The run store: a folder for each run, in which a unit's results appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import functools
import io
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from openhcs_jupyter.compiler.plan import DECODING, ExecutionPlan, Unit
from openhcs_jupyter.errors import RunError
from openhcs_jupyter.events import StoredFile
from openhcs_jupyter.files import write_whole
from openhcs_jupyter.model import Plate, RunRecord

_LOCK = "lock"
_STOP = "stop"
_LOOKED_AT_S = 0.1
_HERE = platform.node()
"""Processes of several machines may write into one run's folder."""

Writer = Callable[[BinaryIO], None]
"""Writes one file's bytes."""
File = Writer | Path
"""What becomes a file: its writer, or another file, which is linked."""
_NO_LINKS = {
    errno.EPERM, errno.EACCES, errno.EXDEV, errno.EMLINK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL,
}  # fmt: skip
"""How file systems say that they know no hard links, or have no more for a file."""


class RunFolder:
    """The folder of one run.

    ``run.json`` is the record, ``plan.json`` the plan, ``plate.json`` the plate as it was, ``journal.jsonl`` the
    events, and ``units/KEY/`` the results of a unit. A unit's folder is written beside its place and renamed into it,
    so it is there only when it is whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.units = path / "units"
        self.waypoints = path / "waypoints"
        self.journal = path / "journal.jsonl"

    @property
    def run_id(self) -> str:
        """The run's id, which is the folder's name."""
        return self.path.name

    def exists(self) -> bool:
        """Tell whether a run was begun here."""
        return (self.path / "plan.json").exists()  # the last that `create` writes

    def create(self, record: RunRecord, plan: ExecutionPlan) -> None:
        """Make the folder, or bring an interrupted run's up to date with its new plan."""
        try:
            self.units.mkdir(parents=True, exist_ok=True)
            self.write("run.json", msgspec.json.format(msgspec.json.encode(record), indent=1))
            self.write("plate.json", msgspec.json.encode(plan.plate))
            self.write("plan.json", plan.to_json())
        except OSError as error:
            raise RunError(
                f"The run's folder {self.path} cannot be written: {error.strerror}",
                "Free space there, mend its permissions, or connect to a repository in another folder.",
            ) from error

    def record(self) -> RunRecord:
        """Read the run's record.

        Raises
        ------
        RunError
            If there is none, or it cannot be read.
        """
        try:
            text = (self.path / "run.json").read_bytes()
            with DECODING:
                return msgspec.json.decode(text, type=RunRecord)
        except (OSError, msgspec.MsgspecError) as error:
            raise RunError(f"{self.path} holds no run that can be read: {error}") from error

    def plan(self) -> ExecutionPlan:
        """Read the run's plan."""
        try:
            return ExecutionPlan.from_json((self.path / "plan.json").read_bytes())
        except (OSError, msgspec.MsgspecError) as error:
            raise RunError(f"The plan of run {self.run_id} cannot be read: {error}") from error

    def plate(self) -> Plate:
        """Read the plate as it was when the run started."""
        try:
            text = (self.path / "plate.json").read_bytes()
            with DECODING:
                return msgspec.json.decode(text, type=Plate)
        except (OSError, msgspec.MsgspecError) as error:
            raise RunError(f"The plate of run {self.run_id} cannot be read: {error}") from error

    def lock(self) -> Lock:
        """Take the run for this process; held until it is closed or the process ends.

        Raises
        ------
        RunError
            If another process conducts the run.
        """
        return Lock(self.path)

    def is_conducted(self) -> bool:
        """Tell whether a process conducts the run now."""
        try:
            file = os.open(self.path / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(file)
        return False

    def unit(self, unit: Unit) -> Path:
        """Return the place of a unit's results."""
        return self.units / unit.key

    def ask_to_stop(self) -> None:
        """Ask the process that conducts the run to stop it; does nothing if there is none.

        The request names the start of the run that it means, so that a later start is not stopped by it.

        Raises
        ------
        RunError
            If the folder cannot be written.
        """
        asked = None
        while self.is_conducted() and (start := self._start()) != asked:
            try:
                self.write(_STOP, start)
            except OSError as error:
                raise RunError(
                    f"Run {self.run_id} cannot be cancelled from here: {self.path} cannot be written "
                    f"({error.strerror or error}).",
                    "Cancel it in the notebook or shell that started it.",
                ) from error
            asked = start

    def is_asked_to_stop(self) -> bool:
        """Tell whether another process asked for this start of the run, whose lock this process holds, to stop."""
        try:
            return (self.path / _STOP).read_bytes() == self._start()
        except OSError:
            return False

    def _start(self) -> bytes:
        return (self.path / _LOCK).read_bytes()

    def holds(self, key: str, files: Sequence[StoredFile] | None) -> bool:
        """Tell whether a unit's results are there, with the sizes that the journal has of them, if it has any."""
        place = self.units / key
        if files is None:
            return place.is_dir()
        try:
            return all((place / file.name).stat().st_size == file.size for file in files) and place.is_dir()
        except OSError:
            return False

    def commit(
        self, key: str, files: Mapping[str, File], check: Callable[[], None] | None = None
    ) -> tuple[StoredFile, ...]:
        """Write a unit's results; they appear all at once, or not at all.

        Parameters
        ----------
        key
            Of the unit.
        files
            By name: what writes it.
        check
            Called when all is written; what it raises keeps the results from appearing.

        Raises
        ------
        OSError
            If they cannot be written; what was written is removed.
        """
        place = self.units / key
        partial = self.units / f".{key}.{_HERE}.{os.getpid()}"
        stored = []
        try:
            partial.mkdir()
            for name, file in files.items():
                stored.append(StoredFile(name, write_file(f"{partial}/{name}", file)))
            if check is not None:
                check()
            if place.exists():  # an older result whose files were damaged
                shutil.rmtree(place)
            try:
                partial.rename(place)
            except OSError as error:
                # Another machine was taken for lost, and has made the same result meanwhile.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                shutil.rmtree(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return tuple(stored)

    def remove(self, key: str) -> None:
        """Remove a unit's results, if there are any."""
        shutil.rmtree(self.units / key, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what units that were killed left half written."""
        for place in (self.units, self.waypoints):
            for partial in place.glob(".*"):
                shutil.rmtree(partial, ignore_errors=True)

    def write(self, name: str, text: bytes) -> None:
        """Write a file of the folder, whole or not at all."""
        write_whole(self.path / name, text)


def removed_message(folder: RunFolder) -> str:
    """Say that a run's folder was removed while the run went on."""
    return f"The run's folder {folder.path} was removed while the run went on; what was finished went with it."


class Lock:
    """Holds a run for one process; the system lets go of it when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        self._file: int | None = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        end = time.monotonic() + _LOOKED_AT_S
        while not self._try():
            if time.monotonic() > end:
                self.close()
                raise RunError(
                    f"Run {folder.name} is being conducted by another process.",
                    f"Follow it with %openhcs attach {folder.name}.",
                )
            time.sleep(_LOOKED_AT_S / 10)  # whoever looks whether the run is conducted holds the lock for a moment
        # Names this start of the run, for those who ask it to stop.
        os.pwrite(self._file, os.urandom(8).hex().encode(), 0)

    def _try(self) -> bool:
        assert self._file is not None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of the run."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def write_file(path: Path | str, file: File) -> int:
    """Write or link a file and return its size in bytes."""
    if isinstance(file, Path):
        link(file, path)
        return file.stat().st_size
    with io.FileIO(path, "w") as opened:
        file(opened)
        return opened.tell()


def link(file: Path, target: Path | str) -> None:
    """Make another name for a file's bytes; copies them where the file system knows no hard links."""
    try:
        os.link(file, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(file, target)


def write_array(arrays: Sequence[Any]) -> Writer:
    """Return a writer of arrays ``(N, Y, X)``, one for each time point, as one ``.npy`` file ``(T, N, Y, X)``.

    Raises
    ------
    ValueError
        If they are not alike in shape and dtype.
    """
    import numpy as np

    first = arrays[0]
    for array in arrays[1:]:
        if (array.shape, array.dtype) != (first.shape, first.dtype):
            told = f"{first.shape} {first.dtype} and {array.shape} {array.dtype}"
            raise ValueError(f"its arrays differ from one time point to another: {told}")

    def write(file: BinaryIO) -> None:
        write_all(file, memoryview(_header(first.dtype, (len(arrays), *first.shape))))
        for array in arrays:
            write_all(file, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    return write


@functools.lru_cache(maxsize=64)
def _header(dtype: Any, shape: tuple[int, ...]) -> bytes:
    """Return the first bytes of a ``.npy`` file."""
    import numpy as np

    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(made := io.BytesIO(), header)
    return made.getvalue()


def write_bytes(data: Any) -> Writer:
    """Return a writer of bytes, or of whatever lends its memory as bytes."""

    def write(file: BinaryIO) -> None:
        write_all(file, memoryview(data))

    return write


def write_all(file: BinaryIO, data: memoryview) -> None:
    """Write all of `data` to an unbuffered file, which may take it in parts."""
    while data.nbytes:
        written = file.write(data)
        data = data[written:]


def read_array(path: Path) -> Any:
    """Map a ``.npy`` file read-only."""
    import numpy as np

    return np.load(path, mmap_mode="r", allow_pickle=False)


def stored_files(place: Path) -> tuple[StoredFile, ...]:
    """List the files of a unit's folder."""
    return tuple(StoredFile(path.name, path.stat().st_size) for path in sorted(place.iterdir()))
