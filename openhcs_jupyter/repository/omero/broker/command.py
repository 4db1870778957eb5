"""``openhcs-jupyter broker``: reads its options, serves until a signal comes."""

from __future__ import annotations

import argparse
import grp
import logging
import signal
import sys
from pathlib import Path

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.repository.omero.address import parse_address
from openhcs_jupyter.repository.omero.broker.server import Broker, Options


def serve(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises
    ------
    UsageError
        If an option does not fit.
    RepositoryError
        If the broker cannot start.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    options = Options(
        socket=Path(arguments.socket).absolute(),
        server=parse_address(f"omero://{arguments.server}"),
        repository=Path(arguments.repository),
        folders=tuple(Path(one) for one in arguments.folder),
        plates=arguments.plates,
        group=_group(arguments.group),
        requests_per_s=_rate(arguments.rate),
    )
    with Broker(options) as broker:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: broker.stop())
        plates = "images of plates are handed out" if options.plates else "restricted images are not handed out"
        logging.getLogger(__name__).info("listening at %s; %s", options.socket, plates)
        broker.serve()


def _group(name: str | None) -> int | None:
    if name is None:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise UsageError(f"--group: there is no group {name!r} on this machine.", f"groupadd --system {name}") from None


def _rate(rate: float) -> float:
    if not rate > 0:
        raise UsageError("--rate must be more than 0.")
    return rate
