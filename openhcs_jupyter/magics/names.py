"""The words that cells may use without importing them."""

from __future__ import annotations

from typing import Any


def standard_names() -> dict[str, Any]:
    """Return what every cell may use without importing it: the words of a pipeline, and what shows things."""
    from openhcs_jupyter import widgets
    from openhcs_jupyter.functions.words import pipeline_words

    return pipeline_words() | {name: getattr(widgets, name) for name in ("build", "plate_view", "tune")}
