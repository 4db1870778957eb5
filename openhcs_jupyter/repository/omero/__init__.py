"""OMERO as a repository: its plates, read in place where that is allowed, and results written back."""

from __future__ import annotations

from openhcs_jupyter.repository.omero.address import Address, parse_address
from openhcs_jupyter.repository.omero.repository import OmeroRepository

__all__ = ["Address", "OmeroRepository", "parse_address"]
