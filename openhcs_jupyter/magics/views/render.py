"""What a notebook keeps: the same facts as text, as HTML that needs no script and suits light and dark, and as data."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

VENDOR_TYPE = "application/vnd.openhcs+json"

# Blue and vermillion of Okabe and Ito's palette: told apart with every kind of colour vision; a sign says the same.
BLUE, ORANGE, GREY = "#0a7bc2", "#d55e00", "#8a8a8a"
_WRAPPED = 36
_LINE = "rgba(128,128,128,.28)"
_CELL = "padding:1px 14px 1px 0;text-align:left;vertical-align:top;border:none;background:none"


class Rendered:
    """One value for a notebook's output, in several forms.

    Parameters
    ----------
    text
        Plain text; always there.
    markup
        HTML.
    data
        What serialises to JSON, for programs; None leaves it out.
    """

    def __init__(self, text: str, markup: str, data: object | None = None) -> None:
        self.text = text
        self.markup = markup
        self.data = data

    def __repr__(self) -> str:
        return self.text

    def bundle(self) -> dict[str, Any]:
        """Return the forms by MIME type."""
        forms: dict[str, Any] = {"text/plain": self.text, "text/html": self.markup}
        if self.data is not None:
            forms[VENDOR_TYPE] = msgspec.to_builtins(self.data, str_keys=True)
        return forms

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:  # noqa: ARG002 - the interface has it
        return self.bundle()


def show(rendered: Rendered) -> None:
    """Put a value into the cell's output."""
    from IPython.display import display

    display(rendered.bundle(), raw=True)


class Grid(NamedTuple):
    """A table as text and as HTML."""

    text: str
    markup: str


def grid(headers: Sequence[str], rows: Iterable[Sequence[object]], *, limit: int = 60) -> Grid:
    """Lay rows out under headers.

    Parameters
    ----------
    headers
        One for each column; empty strings show none.
    rows
        Values, shown as `str` shows them.
    limit
        Rows that are shown; how many more there are is told.
    """
    cells = [[str(value) for value in row] for row in rows]
    rest = len(cells) - limit
    cells = cells[:limit]
    table = ([list(headers)] if any(headers) else []) + cells
    widths = [max((len(row[column]) for row in table), default=0) for column in range(len(headers))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in table]
    head = "".join(
        f'<th style="{_CELL};font-weight:600;opacity:.65;white-space:nowrap">{escape(name)}</th>' for name in headers
    )
    body = "".join(
        "<tr style='background:none'>"
        + "".join(f'<td style="{_CELL}{_wrap(text)}">{escape(text)}</td>' for text in row)
        + "</tr>"
        for row in cells
    )
    more = ""
    if rest > 0:
        lines.append(f"and {rest} more")
        more = faint(f"and {rest} more")
    shown_head = f"<tr style='background:none'>{head}</tr>" if any(headers) else ""
    style = "border-collapse:collapse;border:none;margin:2px 0;font-size:12px"
    return Grid("\n".join(lines), f'<table style="{style}">{shown_head}{body}</table>{more}')


def _wrap(text: str) -> str:
    return "" if len(text) > _WRAPPED else ";white-space:nowrap"


def card(title: str, body: Iterable[str], *, color: str = BLUE) -> str:
    """Frame parts of HTML under a title, with a coloured edge."""
    style = (
        f"border-left:3px solid {color};padding:3px 0 3px 12px;margin:2px 0;font-size:13px;line-height:1.5;"
        "max-width:860px"
    )
    return f'<div style="{style}"><div>{title}</div>{"".join(body)}</div>'


def row(label: str, markup: str) -> str:
    """Put a short label before a piece of HTML."""
    side = '<span style="display:inline-block;flex:0 0 74px;opacity:.65">'
    line = '<div style="display:flex;align-items:baseline;margin-top:2px">'
    return f"{line}{side}{escape(label)}</span><span>{markup}</span></div>"


def beside(*parts: str) -> str:
    """Put pieces of HTML beside each other, or below where the page is narrow."""
    pieces = "".join(f'<div style="margin-right:24px">{part}</div>' for part in parts)
    return f'<div style="display:flex;flex-wrap:wrap;align-items:flex-start">{pieces}</div>'


def bar(name: str, total: int, done: int, failed: int, running: int, width: int) -> str:
    """Draw how far one stage is, as HTML.

    Parameters
    ----------
    name
        Of the stage.
    total, done, failed, running
        Units.
    width
        Characters that the names beside the bars need.
    """
    share = [100 * count / total if total else 0 for count in (done, failed, running)]
    pieces = "".join(
        f'<span style="width:{part:.2f}%;background:{color}"></span>'
        for part, color in zip(share, (BLUE, ORANGE, "rgba(10,123,194,.3)"), strict=True)
        if part
    )
    failures = f' <span style="color:{ORANGE};font-weight:600">\u2717 {failed}</span>' if failed else ""
    return (
        '<div style="display:flex;align-items:center;margin-top:3px">'
        f'<span style="flex:0 0 {min(max(width, 8), 34)}ch;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;'
        f'padding-right:12px" title="{escape(name)}">{escape(name)}</span>'
        f'<span style="flex:0 0 200px;display:flex;height:8px;border-radius:4px;overflow:hidden;background:{_LINE}">'
        f'{pieces}</span><span style="padding-left:12px;white-space:nowrap;font-variant-numeric:tabular-nums">'
        f"{done:,} / {total:,}{failures}</span></div>"
    )


def details(summary: str, markup: str) -> str:
    """Fold a piece of HTML under its summary."""
    return (
        f'<details style="margin-top:3px"><summary style="cursor:pointer">{escape(summary)}</summary>{markup}</details>'
    )


def strong(text: str, color: str | None = None) -> str:
    """Emphasise text, as HTML."""
    shade = f";color:{color}" if color else ""
    return f'<span style="font-weight:600{shade}">{escape(text)}</span>'


def faint(text: str) -> str:
    """Show text with less weight, as HTML."""
    return f'<span style="opacity:.65">{escape(text)}</span>'


def code(text: str) -> str:
    """Show text as code, as HTML."""
    return f'<code style="font-size:12px;background:none;padding:0">{escape(text)}</code>'


def escape(text: str) -> str:
    """Make text safe within HTML."""
    return html.escape(text)


def size_text(count: float) -> str:
    """Say a number of bytes in three digits: ``2.1 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def time_text(seconds: float) -> str:
    """Say a duration: ``0.4 s``, ``2 min 05 s``, ``3 h 20 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count_text(count: int, noun: str) -> str:
    """Say a number of things: ``1 well``, ``4 wells``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def some(names: Sequence[str], limit: int = 8) -> str:
    """List names with commas, the first few of many."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def indented(text: str, by: int = 2) -> list[str]:
    """Return the lines of a text, moved to the right."""
    return [" " * by + line for line in text.splitlines()]
