"""A real kernel "OpenHCS" for tests, and what its cells print."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager

from openhcs_jupyter.kernel import install

TIMEOUT_S = 60


class Output(NamedTuple):
    """What one cell left."""

    text: str
    """Streams and plain texts, in order; the last state of what was redrawn."""
    html: str
    data: list[dict[str, Any]]
    """Bundles by MIME type, the last state of each display."""
    error: str
    """The traceback as it is shown, without colours."""
    updates: int
    """How often something was redrawn."""


class Kernel:
    """A kernel and its client."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client

    def run(self, code: str, *, batch: bool = True, timeout: float = TIMEOUT_S) -> Output:
        """Run a cell to its end; `batch` is what nbconvert and papermill are, else a person looks."""
        return self.collect(self.send(code, batch=batch), timeout)

    def send(self, code: str, *, batch: bool = True) -> str:
        """Start a cell."""
        return str(self.client.execute(code, allow_stdin=not batch))

    def collect(self, request: str, timeout: float = TIMEOUT_S) -> Output:
        """Wait until a cell ends, and return what it left."""
        deadline = time.monotonic() + timeout
        text: list[str] = []
        shown: dict[str, dict[str, Any]] = {}
        error, updates = "", 0
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.1, deadline - time.monotonic()))
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                text.append(content["text"])
            elif kind in ("display_data", "update_display_data", "execute_result"):
                key = content.get("transient", {}).get("display_id") or f"#{len(shown)}"
                updates += kind == "update_display_data"
                shown[key] = content["data"]
            elif kind == "error":
                error = plain("\n".join(content["traceback"]))
            elif kind == "status" and content["execution_state"] == "idle":
                break
        data = list(shown.values())
        return Output(
            "".join(text) + "\n".join(bundle.get("text/plain", "") for bundle in data),
            "\n".join(bundle.get("text/html", "") for bundle in data),
            data,
            error,
            updates,
        )

    def reply(self, request: str, timeout: float = TIMEOUT_S) -> str:
        """Wait for the reply to a request, and return its status."""
        deadline = time.monotonic() + timeout
        while True:
            message = self.client.get_shell_msg(timeout=max(0.1, deadline - time.monotonic()))
            if message["parent_header"]["msg_id"] == request:
                return str(message["content"]["status"])

    def complete(self, code: str) -> list[str]:
        """Ask what may stand at the end of `code`."""
        reply = self.client.complete(code, len(code), reply=True, timeout=TIMEOUT_S)
        return list(reply["content"]["matches"])


@contextmanager
def kernel(data: Path, folder: Path, **environment: str) -> Iterator[Kernel]:
    """Start the installed kernel in `folder`, with repositories below `data`."""
    manager = KernelManager(kernel_name="openhcs")
    env = os.environ | {"OPENHCS_DATA_DIR": str(data)} | environment
    manager.start_kernel(env=env, cwd=str(folder))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=TIMEOUT_S)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


@contextmanager
def jupyter_in(folder: Path) -> Iterator[None]:
    """Install the kernelspec in a folder where Jupyter looks meanwhile, and keep the user's own folders out."""
    install(prefix=folder / "prefix")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder / "prefix" / "share" / "jupyter"))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("JUPYTER_CONFIG_DIR", str(folder / "config"))
        patch.setenv("XDG_CONFIG_HOME", str(folder / "settings"))
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.delenv("OPENHCS_BATCH", raising=False)
        yield


def plain(text: str) -> str:
    """Remove ANSI colours."""
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", text)
