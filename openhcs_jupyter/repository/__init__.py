"""Where plates live: one contract, and the repositories that meet it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from openhcs_jupyter.repository.base import FieldResults, Group, PixelSource, Place, Repository, ResultWriter, Trace
    from openhcs_jupyter.repository.connection import connect

__all__ = ["FieldResults", "Group", "PixelSource", "Place", "Repository", "ResultWriter", "Trace", "connect"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "base": ["FieldResults", "Group", "PixelSource", "Place", "Repository", "ResultWriter", "Trace"],
        "connection": ["connect"],
    },
)
