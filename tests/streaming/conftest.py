"""Fixtures of the tests of streaming."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from openhcs_jupyter.streaming import StreamServer
from openhcs_jupyter.streaming.keys import new_keys
from tests.engine.conftest import bench, make_bench

__all__ = ["bench", "make_bench"]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., StreamServer]]:
    """Return a function that serves viewers: ``serve(run.folder, ..., at="kernel", host="127.0.0.1")``."""
    with ExitStack() as opened:

        def make(*runs: Path, at: str = "kernel", host: str = "127.0.0.1", port: int = 0) -> StreamServer:
            server = StreamServer(tmp_path / at, name=at, host=host, port=port, keys=new_keys())
            server.start()
            opened.callback(server.close)
            for run in runs:
                server.show(run)
            return server

        yield make
