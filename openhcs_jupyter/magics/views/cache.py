"""How the store of runs looks: what it holds, and its limit."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from openhcs_jupyter.config import load_settings
from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.magics.views import render
from openhcs_jupyter.magics.views.render import Rendered, count_text, grid, size_text

if TYPE_CHECKING:
    from openhcs_jupyter.engine.cache import Usage
    from openhcs_jupyter.repository import Repository


def cleared_or_shown(repository: Repository, arguments: argparse.Namespace) -> Rendered:
    """Clear what the arguments of ``cache`` say, and show what there is.

    Raises
    ------
    UsageError
        If they do not fit together.
    """
    from openhcs_jupyter.engine.cache import ResultCache

    if arguments.results and arguments.action is None:
        raise UsageError("--results says what is cleared", "Write: cache clear --results")
    cache = ResultCache(repository.runs_folder)
    removed = None if arguments.action is None else cache.clear(results=arguments.results)
    return cache_view(cache.usage(), removed)


def cache_view(usage: Usage, removed: int | None = None) -> Rendered:
    """Show what a store of runs holds.

    Parameters
    ----------
    usage
        What is there.
    removed
        Bytes that were removed just now.
    """
    used = usage.result_bytes + usage.waypoint_bytes
    by = "cache_gb" if load_settings().cache_gb else "half of the disk that is free without it"
    rows = [
        ("results", count_text(usage.results, "unit"), size_text(usage.result_bytes), "each counted once"),
        (
            "between steps",
            count_text(usage.waypoints, "unit"),
            size_text(usage.waypoint_bytes),
            "to save time",
        ),
        ("limit", "", size_text(usage.limit_bytes), by),
        ("free", "", size_text(usage.free_bytes), "on this disk"),
    ]
    table = grid(["", "", "", ""], rows)
    title = f"{size_text(used)} of {count_text(usage.runs, 'run')} in {usage.folder}"
    if removed is not None:
        title = f"Removed {size_text(removed)}. Now {title}"
    body = [table.markup]
    text = f"{title}\n{table.text}"
    notes = []
    if used > usage.limit_bytes:
        notes.append(
            "The limit is exceeded by what the latest runs show, which is never removed by itself. "
            "Remove folders of runs, or raise it: %openhcs config cache_gb N."
        )
    if usage.free_bytes <= usage.spare_bytes:
        notes.append(
            f"Nothing more is kept between steps, so that {size_text(usage.spare_bytes)} of the disk stay free. "
            "Make room there, or let less stay free: %openhcs config spare_gb N."
        )
    for told in notes:
        text += f"\n{told}"
        body.append(render.faint(told))
    return Rendered(text, render.card(render.escape(title), body), usage)
