"""Small pictures of one field's results, for previews."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.magics.views import render
from openhcs_jupyter.widgets import pictures
from openhcs_jupyter.widgets.results import picture_of

if TYPE_CHECKING:
    from openhcs_jupyter.engine import Run

_SIDE = 300
_SHOWN = 8


def thumbnails(run: Run, well: str, field: int) -> str:
    """Draw the images and labels of one field side by side, as HTML; empty if the run makes none.

    Parameters
    ----------
    run
        That has ended.
    well
        Name of the well.
    field
        Number of the field, counted from 1.
    """
    figures: list[str] = []
    for spec in run.plan.results:
        if spec.kind not in ("image", "labels") or spec.scope == "plate" or len(figures) == _SHOWN:
            continue
        try:
            picture = picture_of(run, spec, well, field, 2 * _SIDE)
        except OpenHCSError:
            # The field failed; the card says why.
            continue
        figures.append(_figure(pictures.encoded(picture, "png"), f"{spec.name}, {spec.kind}"))
    if not figures:
        return ""
    caption = render.faint(f"{well} field {field}")
    return (
        f'<div style="margin-top:6px">{caption}</div><div style="display:flex;flex-wrap:wrap">{"".join(figures)}</div>'
    )


def _figure(png: bytes, caption: str) -> str:
    source = base64.b64encode(png).decode()
    name = render.escape(caption)
    style = f"max-width:{_SIDE}px;display:block"
    image = f'<img src="data:image/png;base64,{source}" alt="{name}" style="{style}">'
    return f'<figure style="margin:2px 10px 6px 0">{image}<figcaption>{name}</figcaption></figure>'
