"""The words that a pipeline may use without importing them."""

from __future__ import annotations

from typing import Any

_WORDS = (
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


def pipeline_words() -> dict[str, Any]:
    """Return what every pipeline may use without importing it: steps, outputs, decorators, standard functions."""
    from openhcs_jupyter import functions, pipeline

    words = {word: getattr(pipeline, word) for word in _WORDS}
    return words | {name: getattr(functions, name) for name in functions.__all__}
