"""The stand-in for CuPy."""

from __future__ import annotations

from tests.functions.cupy_standin import standin as standin
