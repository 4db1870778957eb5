"""High-content screening pipelines in notebooks, run where the plates lie."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from openhcs_jupyter.client import RemoteOrchestrator
    from openhcs_jupyter.compiler import compile
    from openhcs_jupyter.engine.start import run
    from openhcs_jupyter.pipeline import (
        ImageOutput,
        Labels,
        Pipeline,
        PixelGrid,
        Points,
        Step,
        Table,
        image,
        kernel_for,
        measure,
        table,
    )
    from openhcs_jupyter.repository import connect
    from openhcs_jupyter.topology import discover

__version__ = "0.1.0"

_HOMES = {
    "compile": "compiler",
    "connect": "repository",
    "discover": "topology",
    "image": "pipeline",
    "ImageOutput": "pipeline",
    "kernel_for": "pipeline",
    "Labels": "pipeline",
    "measure": "pipeline",
    "Pipeline": "pipeline",
    "PixelGrid": "pipeline",
    "Points": "pipeline",
    "RemoteOrchestrator": "client",
    "run": "engine",
    "Step": "pipeline",
    "Table": "pipeline",
    "table": "pipeline",
}
__all__ = [
    "ImageOutput",
    "Labels",
    "Pipeline",
    "PixelGrid",
    "Points",
    "RemoteOrchestrator",
    "Step",
    "Table",
    "compile",
    "connect",
    "discover",
    "image",
    "kernel_for",
    "load_ipython_extension",
    "measure",
    "run",
    "table",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Add ``%openhcs`` and ``%%openhcs`` to a kernel: ``%load_ext openhcs_jupyter``."""
    from openhcs_jupyter.magics import load

    load(shell)
