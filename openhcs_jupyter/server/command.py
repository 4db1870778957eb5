"""``openhcs-jupyter serve``."""

from __future__ import annotations

import argparse
from pathlib import Path

from openhcs_jupyter.server.settings import read_settings


def add_serve_options(parser: argparse.ArgumentParser) -> None:
    """Add what stands behind ``serve``."""
    parser.add_argument("--config", metavar="FILE", type=Path, help="the server's settings, TOML; options win")
    parser.add_argument("--repository", metavar="URI", help="where plates are: a folder, default, omero://HOST")
    parser.add_argument("--bind", metavar="ADDRESS", help="tcp://127.0.0.1:7777 if left out; port 0 takes a free one")
    parser.add_argument("--max-workers", metavar="N", type=int, help="cores leased to jobs; left out, all")
    parser.add_argument("--state", metavar="FOLDER", help="of the queue, the keys and the jobs")
    parser.add_argument("--metrics", metavar="ADDRESS:PORT", help="answer Prometheus there, on the loopback")
    parser.add_argument(
        "--park", dest="park_on_stop", action="store_const", const=True, help="when stopped, park jobs that run"
    )


def serve(arguments: argparse.Namespace) -> None:
    """Serve as the options say.

    Raises
    ------
    UsageError
        If they do not fit.
    """
    given = {
        name: getattr(arguments, name)
        for name in ("repository", "bind", "max_workers", "state", "metrics", "park_on_stop")
    }
    from openhcs_jupyter.server import daemon

    daemon.serve(read_settings(arguments.config, **given))
