"""Functions as the cells of a notebook define them."""

from __future__ import annotations

import itertools
import textwrap
from typing import Any

from openhcs_jupyter.pipeline.fingerprint import fingerprint

_COUNTER = itertools.count(1)


def cell(*sources: str) -> dict[str, Any]:
    """Run sources as cells of one notebook, each under a file name of its own, and return the namespace."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for source in sources:
        name = f"/tmp/ipykernel_1/{next(_COUNTER)}.py"
        exec(compile(textwrap.dedent(source), name, "exec"), namespace)
    return namespace


def identity(*sources: str, params: dict[str, Any] | None = None) -> str:
    return fingerprint(cell(*sources)["f"], params)
