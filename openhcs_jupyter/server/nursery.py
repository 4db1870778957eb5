"""A process that has imported what jobs need, and forks the processes of jobs from itself in milliseconds.

Each becomes its owner's account and a process of its own, which lives on when this one and the server end. This one has
one thread, holds nobody's data, and ends with the server. Its standard input is a socket to the server.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import site
import socket
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import import_module

import msgspec

from openhcs_jupyter.config import ONE_THREAD
from openhcs_jupyter.engine.allocator import keep_in_one_heap
from openhcs_jupyter.server import accounts, job, limits
from openhcs_jupyter.server.accounts import Account
from openhcs_jupyter.server.processes import KEY_FILE, SEAT
from openhcs_jupyter.server.settings import Limits

LONGEST_ORDER = 1 << 16
_LOOK_S = 0.5
_END = object()


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One process that is wanted; the socket by which it gets its job comes along."""

    account: Account
    limits: Limits
    mark: str
    """Stands in the environment of the process and of all that come from it."""
    session: str
    """Where it keeps the key of its session with OMERO."""
    ahead: bool
    """There is no job for it yet."""
    shows: bool = False
    """It shows a job's run in viewers, rather than doing a job."""


_orders = msgspec.msgpack.Decoder(Order)


def main() -> None:
    """Fork processes until the server closes its end."""
    os.umask(0o077)
    keep_in_one_heap()  # workers of jobs are forked from this process, too
    control = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # nobody else has the socket: who waits for an answer is to see the end of this process
    os.close(nothing)
    environment = dict(os.environ)
    os.environ.update(ONE_THREAD)
    steps: Iterator[None] | None = _get_ready()
    pause = 0.0
    while True:
        if not select.select([control], [], [], _LOOK_S if steps is None else pause)[0]:
            pause = 0.0
            if steps is not None and next(steps, _END) is _END:
                steps = None
            _reap()
            continue
        pause = _LOOK_S  # a job that is to begin needs the cores
        message, files, _, _ = socket.recv_fds(control, LONGEST_ORDER, 1)
        if not message:
            return
        order = _orders.decode(message)
        pid = os.fork()
        if not pid:
            control.close()
            _live(order, socket.socket(fileno=files[0]), environment)
        os.close(files[0])
        control.send(pid.to_bytes(8))


def _get_ready() -> Iterator[None]:
    """Import what jobs and their workers need, a step at a time, so that nobody waits for all of it."""
    yield from map(_import, job.NEEDED)
    from openhcs_jupyter.engine import fork_server
    from openhcs_jupyter.engine.needed import LIKELY, NEEDED
    from openhcs_jupyter.server.rehearsal import rehearse

    yield from map(_import, NEEDED + LIKELY)
    fork_server().branch()
    with suppress(Exception):  # the job itself says what is amiss
        yield from rehearse()
    fork_server().stop()  # those that are forked have their own
    gc.collect()
    gc.freeze()


def _import(module: str) -> None:
    with suppress(Exception):  # likewise
        import_module(module)


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _live(order: Order, server: socket.socket, environment: Mapping[str, str]) -> None:
    """Be the process that is wanted."""
    code = 1
    try:
        os.setsid()
        _remark(order.mark)
        given = accounts.environment(order.account, environment)
        accounts.become(order.account)
        os.environ.clear()
        os.environ.update(given | {SEAT: order.mark, KEY_FILE: order.session, "OPENHCS_SCHEDULER": ""})
        os.chdir("/")
        tempfile.tempdir = None  # of whoever the process was
        if not order.account.is_own and sys.prefix == sys.base_prefix:
            site.USER_BASE = site.USER_SITE = None
            site.addsitedir(site.getusersitepackages())
        limits.apply(order.limits)
        if order.shows:
            from openhcs_jupyter.server.showing import show_next

            show_next(server)
        else:
            job.do_next(server, ahead=order.ahead)
        code = 0
    except BaseException:  # noqa: BLE001 - it must not return into the loop of its parent
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # the server ends what is left; an orderly end would take it a tenth of a second


def _remark(mark: str) -> None:
    """Write the process's own mark over the one that it was started with, where the system shows its environment."""
    library = ctypes.CDLL(None)
    library.getenv.restype = ctypes.c_void_p
    place = library.getenv(SEAT.encode())
    if len(ctypes.string_at(place)) != len(mark):
        raise RuntimeError("the mark of a process has another length")
    ctypes.memmove(place, mark.encode(), len(mark))
