"""What was found on a machine, also as another machine reads it."""

from __future__ import annotations

from typing import Literal

import msgspec

MARK = "OPENHCS-PROBE "
"""Begins the line of a probe, whatever else a login prints."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    state: Literal["ok", "optional", "missing"]
    """``missing`` is what hinders the work; ``optional`` is what some of it would need."""
    what: str
    found: str
    advice: str | None = None


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What was found on another machine."""

    version: str
    python: str
    findings: tuple[Finding, ...]
