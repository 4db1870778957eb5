"""The embedded repository: plates registered in place in one folder's catalogue, results beside it."""

from __future__ import annotations

from openhcs_jupyter.repository.embedded.repository import EmbeddedRepository

__all__ = ["EmbeddedRepository"]
