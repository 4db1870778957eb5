"""Files that are there whole or not at all, and folders in which nobody else can put others in their place."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from openhcs_jupyter.errors import OpenHCSError


def partial_of(path: Path) -> Path:
    """Name what is written beside a file or folder and then put in its place; nobody else has the name."""
    # Threads share the number of their process, and containers that share a folder may have the same.
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}")


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
    partial = partial_of(path)
    try:
        with open(partial, "xb", opener=lambda name, flags: os.open(name, flags, 0o600 if private else 0o666)) as file:
            file.write(content)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def check_parents(path: Path, refused: type[OpenHCSError]) -> None:
    """Check that no folder above a path lets every account of the machine put something else in its place.

    As SSH has it for its keys. A folder like ``/tmp`` is good: there one can rename only what is one's own. So is one
    that a group may write: homes in containers are of that kind, and who is in a group is an administrator's choice.

    Parameters
    ----------
    path
        A folder that is to hold secrets.
    refused
        What is raised.
    """
    if os.name != "posix":
        return
    for folder in path.resolve().parents:
        mode = folder.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise refused(
                f"{path} is to hold secrets, and every account of this machine can replace what lies in {folder}.",
                f"chmod o-w {folder}; or chmod +t, if others must write there.",
            )
