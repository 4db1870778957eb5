"""Opens files for reading inside of given folders, and nowhere else, whatever links and renames do meanwhile."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

_MOST_LINKS = 16
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class OutsideError(Exception):
    """A path leads to what may not be handed out."""


class Folders:
    """The folders from which files are handed out.

    Parameters
    ----------
    first
        To which relative paths are relative.
    others
        Into which links may lead as well.
    """

    def __init__(self, first: Path, others: Sequence[Path] = ()) -> None:
        self._first = first.absolute()
        self._others = tuple(one.absolute() for one in others)

    def open(self, relative: str) -> int:
        """Open a file for reading.

        Each component is opened by itself, from the descriptor of the one before, and never through a link: links are
        read and walked in the same way. What was checked is thus what is opened, though names change meanwhile.

        Returns
        -------
        int
            Its descriptor; the caller closes it.

        Raises
        ------
        OutsideError
            If the path leaves the folders, or leads to anything but a file that only its owner or group may write.
        OSError
            If there is no such file, or this account may not read it.
        """
        found = self._walk(deque(PurePosixPath(relative).parts) if relative else deque())
        try:
            status = os.fstat(found)
            if not stat.S_ISREG(status.st_mode):
                raise OutsideError("it is no file")
            if status.st_mode & stat.S_IWOTH:
                # Whoever holds its descriptor could open it again for writing.
                raise OutsideError("everybody may write it")
            return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(found)

    def _walk(self, parts: deque[str]) -> int:
        """Return a descriptor of what a path leads to, which can only be looked at."""
        if parts and parts[0] == "/":
            raise OutsideError("its path is absolute")
        opened = [self._top(self._first)]
        links = 0
        try:
            while parts:
                part = parts.popleft()
                if part == "..":
                    if len(opened) == 1:
                        raise OutsideError("its path leads out of the folder")
                    os.close(opened.pop())
                    continue
                one = os.open(part, _LOOK, dir_fd=opened[-1])
                opened.append(one)
                if not stat.S_ISLNK(os.fstat(one).st_mode):
                    continue
                links += 1
                if links > _MOST_LINKS:
                    raise OutsideError(f"its path has more than {_MOST_LINKS} links")
                target = PurePosixPath(os.readlink(b"", dir_fd=one).decode(errors="surrogateescape"))
                os.close(opened.pop())
                if target.is_absolute():
                    top, target = self._inside(target)
                    while opened:
                        os.close(opened.pop())
                    opened.append(self._top(top))
                parts.extendleft(reversed(target.parts))
            return opened.pop()
        finally:
            for one in opened:
                os.close(one)

    def _inside(self, target: PurePosixPath) -> tuple[Path, PurePosixPath]:
        """Say in which folder a link's target lies, and where in it."""
        for top in (self._first, *self._others):
            for spelling in (top, top.resolve()):
                if target.is_relative_to(spelling):
                    return top, target.relative_to(spelling)
        raise OutsideError("a link leads out of the folders")

    @staticmethod
    def _top(folder: Path) -> int:
        return os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
