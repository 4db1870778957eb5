"""The words that a pipeline may use without importing them."""

from __future__ import annotations

from typing import Any


def standard_names() -> dict[str, Any]:
    """Return what every pipeline may use without importing it: steps, outputs, decorators, standard functions."""
    from openhcs_jupyter import functions, pipeline, widgets

    words = (
        "Step",
        "FunctionStep",
        "Pipeline",
        "Labels",
        "Table",
        "Points",
        "ImageOutput",
        "image",
        "measure",
        "table",
    )
    names = {word: getattr(pipeline, word) for word in words}
    names |= {name: getattr(functions, name) for name in functions.__all__}
    return names | {name: getattr(widgets, name) for name in ("plate_view",)}
