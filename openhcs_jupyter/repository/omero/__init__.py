"""OMERO as a repository: its plates, read in place where that is allowed, and results written back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from openhcs_jupyter.repository.omero.address import Address, parse_address
    from openhcs_jupyter.repository.omero.repository import OmeroRepository

__all__ = ["Address", "OmeroRepository", "parse_address"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "address": ["Address", "parse_address"],
        "repository": ["OmeroRepository"],
    },
)
