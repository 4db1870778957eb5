"""Fixtures of the tests of streaming."""

from __future__ import annotations

from tests.engine.conftest import bench, make_bench

__all__ = ["bench", "make_bench"]
