"""``openhcs-jupyter serve`` and ``openhcs-jupyter token``."""

from __future__ import annotations

import argparse
from pathlib import Path

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.server.settings import read_settings


def add_serve_options(parser: argparse.ArgumentParser) -> None:
    """Add what stands behind ``serve``."""
    parser.add_argument("--status", action="store_true", help="say how the server is that runs, and start none")
    parser.add_argument("--config", metavar="FILE", type=Path, help="the server's settings, TOML; options win")
    parser.add_argument("--repository", metavar="URI", help="where plates are: a folder, default, omero://HOST")
    parser.add_argument("--bind", metavar="ADDRESS", help="tcp://127.0.0.1:7777 if left out; port 0 takes a free one")
    parser.add_argument("--max-workers", metavar="N", type=int, help="cores leased to jobs; left out, all")
    parser.add_argument("--state", metavar="FOLDER", help="of the queue, the keys and the jobs")
    parser.add_argument("--metrics", metavar="ADDRESS:PORT", help="answer Prometheus there, on the loopback")
    parser.add_argument(
        "--park", dest="park_on_stop", action="store_const", const=True, help="when stopped, park jobs that run"
    )


def folder_of(arguments: argparse.Namespace) -> Path:
    """Return the folder of the server that the options mean."""
    return read_settings(arguments.config, state=arguments.state).folder


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


def add_token_options(parser: argparse.ArgumentParser) -> None:
    """Add what stands behind ``token``."""
    parser.add_argument("owner", metavar="OWNER", help="whom the token stands for, as the account map names them")
    parser.add_argument("--state", metavar="FOLDER", help="the server's folder, if it is not the usual one")
    parser.add_argument("--file", metavar="FILE", type=Path, help="where the token is written; left out, a new file")


def new_token(arguments: argparse.Namespace) -> Path:
    """Make an owner's token, also while the server runs, and return its file. An earlier token no longer counts.

    Raises
    ------
    UsageError
        If there is no server's folder, or the file cannot be written.
    """
    from openhcs_jupyter.server import identity
    from openhcs_jupyter.server.queue import Queue

    folder = read_settings(None, state=arguments.state).folder
    if not (folder / "queue.db").exists():
        raise UsageError(f"No server keeps its files in {folder}.", "Start it once, or name its folder: --state.")
    file: Path = arguments.file or folder / "tokens" / arguments.owner
    queue = Queue(folder / "queue.db")
    try:
        file.parent.mkdir(mode=0o700, exist_ok=True)
        identity.new_token(queue, arguments.owner, file)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}.") from error
    finally:
        queue.close()
    return file
