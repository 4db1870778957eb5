"""Runs a plan: local executor, run store and journal, and the `Run` that its user holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from openhcs_jupyter.engine.executor import Executor, Session
    from openhcs_jupyter.engine.forkserver import fork_server
    from openhcs_jupyter.engine.listing import RunSummary, list_runs
    from openhcs_jupyter.engine.local import LocalExecutor
    from openhcs_jupyter.engine.running import Run
    from openhcs_jupyter.engine.start import load_run, run

__all__ = ["Executor", "LocalExecutor", "Run", "RunSummary", "Session", "fork_server", "list_runs", "load_run", "run"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "executor": ["Executor", "Session"],
        "forkserver": ["fork_server"],
        "listing": ["RunSummary", "list_runs"],
        "local": ["LocalExecutor"],
        "running": ["Run"],
        "start": ["load_run", "run"],
    },
)
