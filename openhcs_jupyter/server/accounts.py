"""Accounts of this machine under which jobs run: how a process becomes one, how files are read with its rights."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from openhcs_jupyter.errors import UsageError

_KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
_OURS = "OPENHCS_"
_SETGROUPS = {"x86_64": 116, "aarch64": 159}
"""Number of the system call that sets the groups of one thread; the C library's sets those of all."""


class Account(msgspec.Struct, frozen=True):
    """One account of this machine."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str

    @property
    def is_own(self) -> bool:
        """Whether it is this process's."""
        return self.uid == os.geteuid()


def account(name: str) -> Account:
    """Find an account.

    Raises
    ------
    UsageError
        If there is none.
    """
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise UsageError(f"There is no account {name!r} on this machine.", "Mend the account map.") from None
    groups = tuple(os.getgrouplist(name, found.pw_gid))
    return Account(name, found.pw_uid, found.pw_gid, groups, found.pw_dir)


def own_account() -> Account:
    """Return the account of this process."""
    found = pwd.getpwuid(os.geteuid())
    return Account(found.pw_name, found.pw_uid, found.pw_gid, tuple(os.getgroups()), found.pw_dir)


def check_starter(accounts: Mapping[str, Account]) -> None:
    """Make sure that jobs can be started under other accounts.

    Raises
    ------
    UsageError
        If they cannot: the server has no right to, or there is no ``setpriv``; or if two owners share an account, or
        one would run as root.
    """
    uids: dict[int, str] = {}
    for owner, one in accounts.items():
        if one.uid == 0:
            raise UsageError(f"Jobs of {owner} would run as root.", "Give them an account of their own.")
        if one.uid in uids:
            raise UsageError(
                f"{owner} and {uids[one.uid]} have the same account, {one.name}, and could read each other's files.",
                "Give each owner an account of their own.",
            )
        uids[one.uid] = owner
    if all(one.is_own for one in accounts.values()):
        return
    if shutil.which("setpriv") is None:
        raise UsageError("Jobs under other accounts need setpriv, and there is none.", "Install util-linux.")
    if os.geteuid() != 0:
        raise UsageError(
            "Jobs under other accounts need a server that may change accounts.",
            "Start it by the systemd unit in deploy/, or leave the account map out: it then serves one owner.",
        )


def command(one: Account, words: Sequence[str]) -> list[str]:
    """Return the command that runs another one under an account, without any right of the server's."""
    if one.is_own:
        return list(words)
    starter = shutil.which("setpriv") or "setpriv"
    return [
        starter, f"--reuid={one.uid}", f"--regid={one.gid}", "--init-groups", "--no-new-privs", "--inh-caps=-all",
        "--bounding-set=-all", "--", *words,
    ]  # fmt: skip


def environment(one: Account) -> dict[str, str]:
    """Return the environment of an account's processes: the server's own only where the account is."""
    if one.is_own:
        return dict(os.environ)
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    kept |= {name: value for name, value in os.environ.items() if name.startswith(_OURS)}
    return kept | {"HOME": one.home, "USER": one.name, "LOGNAME": one.name, "SHELL": "/bin/sh"}


def make_folder(path: Path, one: Account) -> None:
    """Make a folder that only an account can enter."""
    path.mkdir(mode=0o700)
    if not one.is_own:
        os.chown(path, one.uid, one.gid)


@contextmanager
def acting_as(one: Account) -> Iterator[None]:
    """Open files with an account's rights and no others, in this thread.

    The kernel checks what the account may read, through whatever links it has put there.
    """
    if one.is_own or sys.platform != "linux":
        yield
        return
    library = ctypes.CDLL(None, use_errno=True)
    own = (os.getegid(), os.getgroups())
    _set_groups(library, one.groups)
    library.setfsgid(one.gid)
    library.setfsuid(one.uid)
    try:
        if library.setfsuid(-1) != one.uid or library.setfsgid(-1) != one.gid:
            raise PermissionError(f"cannot act as {one.name}")
        yield
    finally:
        library.setfsuid(os.geteuid())
        library.setfsgid(own[0])
        _set_groups(library, own[1])


def _set_groups(library: ctypes.CDLL, groups: Sequence[int]) -> None:
    array = (ctypes.c_uint32 * len(groups))(*groups)
    number = _SETGROUPS.get(os.uname().machine)
    if number is None or library.syscall(number, len(groups), array) != 0:
        raise PermissionError("the groups of a thread cannot be set")
