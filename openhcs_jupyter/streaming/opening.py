"""Opens whatever a user names to the viewer: a run's folder, a connection file, or one on a machine behind SSH."""

from __future__ import annotations

import re
from pathlib import Path

from openhcs_jupyter.errors import StreamError
from openhcs_jupyter.streaming.keys import ConnectionFile, read_private
from openhcs_jupyter.streaming.source import Source

_ELSEWHERE = re.compile(r"^(?:ssh://)?(?P<host>(?:[^/:@\s]+@)?[\w.-]{2,}):(?P<path>[/~].+)$")


def is_source(path: str | Path) -> bool:
    """Tell whether a path is a run's folder or a connection file, without opening it."""
    path = Path(path).expanduser()
    if path.is_dir():
        return (path / "run.json").is_file()
    try:
        read_private(path, ConnectionFile)
    except StreamError:
        return False
    return True


def open_source(where: str | Path) -> Source:
    """Return the source that something stands for.

    Parameters
    ----------
    where
        A run's folder, a connection file, or ``HOST:FILE`` for a connection file on a machine that SSH reaches.

    Raises
    ------
    StreamError
        If it is none of these, or cannot be reached.
    """
    path = Path(where).expanduser()
    if (path / "run.json").is_file():
        from openhcs_jupyter.streaming.folder import FolderSource

        return FolderSource(path.absolute())
    if path.is_file():
        from openhcs_jupyter.streaming.remote import RemoteSource

        return RemoteSource.of(path)
    elsewhere = _ELSEWHERE.match(str(where))
    if elsewhere is not None:
        from openhcs_jupyter.streaming.ssh import SshSource

        return SshSource(elsewhere["host"], elsewhere["path"])
    raise StreamError(
        f"{where} is neither a run's folder nor a connection file.",
        "%openhcs view prints what to open; openhcs-jupyter runs lists the runs.",
    )
