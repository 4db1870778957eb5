"""Which file systems are this machine's own."""

from __future__ import annotations

import functools
import re
from pathlib import Path

_LOCAL = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs", "tmpfs", "ramfs", "overlay"}
    | {"overlayfs", "aufs", "apfs", "hfs", "ufs", "vfat", "exfat", "ntfs", "ntfs3", "squashfs"}
)
_TABLE = Path("/proc/self/mounts")
_OCTAL = re.compile(r"\\([0-7]{3})")
"""How the kernel writes blanks and the like."""


@functools.lru_cache(maxsize=64)
def is_local(folder: Path) -> bool:
    """Tell whether no other machine can write a folder's file system; one that is not known is taken for shared."""
    place = folder.resolve()
    mounts = _mounts()
    here = max((at for at in mounts if place.is_relative_to(at)), key=len, default="")
    return mounts.get(here, "").lower() in _LOCAL


def _mounts() -> dict[str, str]:
    """Return the kinds of the file systems by the folders in which they stand."""
    if not _TABLE.exists():
        import psutil

        return {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    # Read here, as psutil takes 10 ms to import and nothing else of a run's start needs it.
    lines = [line.split(" ") for line in _TABLE.read_text(errors="surrogateescape").splitlines()]
    return {_OCTAL.sub(lambda code: chr(int(code[1], 8)), words[1]): words[2] for words in lines}
