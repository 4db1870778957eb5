"""Keeps a session alive: a small program, run as a file, so that no computing holds it up.

Its input is a line of JSON with ``host``, ``port``, ``key`` and ``every_s``. It ends with its input, and so with the
process that started it, however that ends; or when the session has ended.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from contextlib import suppress
from typing import Any

_SOON_S = 2.0
"""A server that was away is asked again after so long."""
_JOINING_S = 10.0
"""So long before it is needed, the session is joined at first: most programs leave it before, and save the work."""


def main() -> None:
    """Keep until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is meant for the kernel
    options = json.loads(sys.stdin.readline())
    client: Any = None
    wait_s = max(0.0, options["every_s"] - _JOINING_S)
    while not _ended(wait_s):
        try:
            if client is None:
                client = _join(options["host"], options["port"], options["key"])
            client.getSession().keepAlive(None)
            wait_s = options["every_s"]
        except PermissionError:
            break  # the session has ended: nobody can keep it
        except Exception:  # noqa: BLE001 - the server is away, in one of Ice's many words for it: it is joined again
            _leave(client)
            client = None
            wait_s = min(_SOON_S, options["every_s"])
    _leave(client)


def _ended(wait_s: float) -> bool:
    """Wait; tell whether the input ended meanwhile."""
    readable, _, _ = select.select([sys.stdin], [], [], wait_s)
    return bool(readable) and not os.read(sys.stdin.fileno(), 1)


def _join(host: str, port: int, key: str) -> Any:
    import Glacier2
    import omero.clients

    client = omero.client(host, port)
    client.setAgent("openhcs-jupyter keep-alive")
    client.enableKeepAlive(0)
    try:
        client.joinSession(key).detachOnDestroy()  # others use it: it must outlive this program
    except (Glacier2.PermissionDeniedException, Glacier2.CannotCreateSessionException) as error:
        _leave(client)
        raise PermissionError from error
    return client


def _leave(client: Any) -> None:
    if client is not None:
        with suppress(Exception):
            client.__del__()  # closes the connection and detaches from the session


if __name__ == "__main__":
    main()
