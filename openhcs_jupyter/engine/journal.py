"""The journal of a run: one event a line, appended as it happens, read by whoever follows the run."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from openhcs_jupyter.closing import Closing
from openhcs_jupyter.errors import RunError
from openhcs_jupyter.events import AnyEvent

_decoder = msgspec.json.Decoder(AnyEvent)
_encoder = msgspec.json.Encoder()


class Journal(Closing):
    """Appends events to a run's journal. One writer at a time; the run's lock sees to that."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mend()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def append(self, event: AnyEvent) -> None:
        """Write one event; it is there for every reader when this returns.

        Raises
        ------
        OSError
            If the disk is full. A line that was written in part is taken back.
        """
        line = _encoder.encode(event) + b"\n"
        try:
            written = os.write(self._file, line)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from None
        if written != len(line):
            self._mend()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _mend(self) -> None:
        """Cut off a last line that was not written to its end."""
        if not self._path.exists():
            return
        with self._path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            while size > 0:
                file.seek(size - 1)
                if file.read(1) == b"\n":
                    break
                size -= 1
            file.truncate(size)


class JournalReader:
    """Reads a journal from its beginning, and on as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def read(self) -> Iterator[AnyEvent]:
        """Give the whole lines that were added since the last call; a line that is still being written waits.

        Raises
        ------
        RunError
            If a line is no event: damaged, or of a later release.
        """
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    event = _decoder.decode(line)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                    raise RunError(
                        f"{self._path} cannot be read from its byte {self._position:,} on: {error}",
                        "It is damaged, or a later release of openhcs-jupyter wrote it. Other runs do not need it.",
                    ) from error
                self._position += len(line)
                yield event
