"""Where plates live: one contract, and the repositories that meet it."""

from __future__ import annotations

from openhcs_jupyter.repository.base import FieldResults, Group, PixelSource, Place, Repository, ResultWriter, Trace
from openhcs_jupyter.repository.connection import connect

__all__ = ["FieldResults", "Group", "PixelSource", "Place", "Repository", "ResultWriter", "Trace", "connect"]
