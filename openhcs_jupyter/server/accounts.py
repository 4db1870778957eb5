"""Accounts of this machine under which jobs run: how a process becomes one, how files are read with its rights."""

from __future__ import annotations

import ctypes
import os
import pwd
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from openhcs_jupyter.errors import UsageError

_KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
_OURS = "OPENHCS_"
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 24, 38
_CAPABILITY_VERSION = 0x20080522
_RIGHTS = 64
"""More than the kernel has capabilities."""
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
        If they cannot, as the server has no right to; or if two owners share an account, or one would run as root.
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
    if os.geteuid() != 0:
        raise UsageError(
            "Jobs under other accounts need a server that may change accounts.",
            "Start it by the systemd unit in deploy/, or leave the account map out: it then serves one owner.",
        )


def become(one: Account) -> None:
    """Turn this process into one of an account for good, without any right of the server's."""
    if one.is_own:
        return
    library = ctypes.CDLL(None, use_errno=True)
    for right in range(_RIGHTS):
        library.prctl(_PR_CAPBSET_DROP, right, 0, 0, 0)  # refused where there is no such right
    os.setgroups(one.groups)
    os.setresgid(one.gid, one.gid, one.gid)
    os.setresuid(one.uid, one.uid, one.uid)  # takes all rights
    nothing = (ctypes.c_uint32 * 6)()
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    for what in (
        library.capset(header, nothing),  # those that a program could inherit, too
        library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        library.prctl(
            _PR_SET_DUMPABLE, 1, 0, 0, 0
        ),  # so that what /proc says of it is the account's, as of any process
    ):
        if what != 0:
            raise PermissionError(f"the server's rights cannot be given up: {os.strerror(ctypes.get_errno())}")


def common_environment() -> dict[str, str]:
    """Return what of this process's environment is nobody's own."""
    return {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_OURS)}


def environment(one: Account, before: Mapping[str, str]) -> dict[str, str]:
    """Make of an environment that of an account's processes."""
    if one.is_own:
        return dict(before)
    return dict(before) | {"HOME": one.home, "USER": one.name, "LOGNAME": one.name, "SHELL": "/bin/sh"}


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
