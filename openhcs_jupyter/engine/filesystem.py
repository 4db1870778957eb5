"""Which file systems are this machine's own."""

from __future__ import annotations

import functools
from pathlib import Path

_LOCAL = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs", "tmpfs", "ramfs", "overlay"}
    | {"overlayfs", "aufs", "apfs", "hfs", "ufs", "vfat", "exfat", "ntfs", "ntfs3", "squashfs"}
)


@functools.lru_cache(maxsize=64)
def is_local(folder: Path) -> bool:
    """Tell whether no other machine can write a folder's file system; one that is not known is taken for shared."""
    import psutil

    place = folder.resolve()
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    here = max((at for at in mounts if place.is_relative_to(at)), key=len, default="")
    return mounts.get(here, "").lower() in _LOCAL
