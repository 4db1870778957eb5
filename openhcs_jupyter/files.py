"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file so that whoever opens it finds the old content or the new one, however many write it at once.

    Parameters
    ----------
    path
        The file, in a folder that is there.
    content
        All of it.
    private
        Only its owner can read it (mode 0600).

    Raises
    ------
    OSError
        If it cannot be written; what was there stays, and nothing else does.
    """
    # Threads share the number of their process, and containers that share a folder may have the same.
    partial = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        with open(partial, "xb", opener=lambda name, flags: os.open(name, flags, 0o600 if private else 0o666)) as file:
            file.write(content)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
