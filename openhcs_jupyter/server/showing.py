"""What a process does that shows a job's run in viewers: reads the run's folder, and ends when nobody looks."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from openhcs_jupyter.errors import StreamError
from openhcs_jupyter.files import write_whole
from openhcs_jupyter.server.orders import SHOW, STREAM, write_to_log

if TYPE_CHECKING:
    from openhcs_jupyter.streaming import StreamServer

_LONGEST_PATH = 4096
_LOOK_S = 0.5


class ShowOrders(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown, and to whom."""

    job: str
    run: str
    """Folder of the job's run."""
    viewers: tuple[str, ...]
    """Listening viewers that are called, by their lines; more may come."""
    idle_s: float
    """So long after the run's end it is waited for viewers."""


def write_show(folder: Path, orders: ShowOrders) -> None:
    """Write into a job's folder what its process shows; one that is there takes note."""
    write_whole(folder / SHOW, msgspec.json.encode(orders), private=True)


def show_next(server: socket.socket) -> None:
    """Wait for a job, and show its run; without one, end with the server.

    Parameters
    ----------
    server
        Gives the job's folder.
    """
    gc.enable()
    try:
        message = server.recv(_LONGEST_PATH)
    except OSError:
        return  # the server has ended
    server.close()
    if message:
        folder = Path(os.fsdecode(message))
        write_to_log(folder)
        _show(folder)


def _show(folder: Path) -> None:
    from openhcs_jupyter.engine.store import RunFolder
    from openhcs_jupyter.streaming.keys import read_invitation

    orders = _read(folder)
    stream = _serve(folder / STREAM, orders.job)
    try:
        stream.show(Path(orders.run))
        called: set[str] = set()
        end = time.monotonic() + orders.idle_s
        while time.monotonic() < end:
            orders = _read(folder)
            for line in orders.viewers:
                if line not in called:
                    called.add(line)
                    stream.call(read_invitation(line))
            if stream.viewers or RunFolder(Path(orders.run)).is_conducted():
                end = time.monotonic() + orders.idle_s
            time.sleep(_LOOK_S)  # until somebody has asked for more, or nobody looks
    finally:
        stream.close()


def _read(folder: Path) -> ShowOrders:
    return msgspec.json.decode((folder / SHOW).read_bytes(), type=ShowOrders)


def _serve(folder: Path, job: str) -> StreamServer:
    from openhcs_jupyter.config import load_settings
    from openhcs_jupyter.streaming import StreamServer
    from openhcs_jupyter.streaming.keys import kept_keys

    for again in (True, False):
        server = StreamServer(folder, name=job, host=load_settings().stream_host, port=0, keys=kept_keys("kernel"))
        try:
            server.start()
            break
        except StreamError:
            # The port that an earlier process for this job had, which viewers may know, is somebody else's by now.
            if not again:
                raise
            shutil.rmtree(folder)
    return server
