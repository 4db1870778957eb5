"""Folders of TIFF files whose names a pattern describes, such as ``{well}_s{field}_w{channel}_z{z}.tif``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from openhcs_jupyter.errors import RepositoryError, UsageError
from openhcs_jupyter.model import Channel, parse_well
from openhcs_jupyter.repository.embedded.formats.base import FoundFile, FoundPlane, FoundPlate, Progress, Reader
from openhcs_jupyter.repository.embedded.formats.folders import is_tiff, some
from openhcs_jupyter.repository.embedded.formats.headers import read_headers
from openhcs_jupyter.repository.embedded.formats.indexed import LARGEST_PLATE
from openhcs_jupyter.repository.embedded.formats.metadata import ranks
from openhcs_jupyter.repository.embedded.formats.tiff import TiffHeader

_PARTS = {
    "well": r"[A-Za-z]{1,2}[0-9]{1,2}",
    "row": r"[A-Za-z]{1,2}|[0-9]{1,2}",
    "column": r"[0-9]{1,2}",
    "field": r"[0-9]{1,6}",
    "channel": r"[^/]+?",
    "z": r"[0-9]{1,6}",
    "t": r"[0-9]{1,6}",
    "any": r"[^/]*?",
}
_TOKEN = re.compile(r"\{([^{}]*)\}|([{}])")
_DIGITS = re.compile(r"([0-9]+)")


class NamedPlane(msgspec.Struct, frozen=True, kw_only=True):
    """What a file's name says, numbers as written."""

    row: int
    column: int
    """Of the well, from 0."""
    field: int
    channel: str
    z: int
    t: int


class NamePattern:
    """A pattern of file names.

    Parameters
    ----------
    text
        Such as ``{well}/{channel}_z{z}.tif``: a path below the plate's folder with ``/`` between folders. The parts are
        ``{well}`` (``A01``) or ``{row}`` and ``{column}``, and where the names have them ``{field}``, ``{channel}``,
        ``{z}``, ``{t}``; ``{any}`` stands for text that tells nothing. Capitals and small letters are the same.

    Raises
    ------
    UsageError
        If a part is unknown or there twice, or if no part says which well.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.levels = text.count("/")
        self._regex = re.compile(_expression(text), re.IGNORECASE)

    def match(self, path: str) -> NamedPlane | None:
        """Read a path below the plate's folder; None where it does not fit the pattern."""
        match = self._regex.fullmatch(path)
        if match is None:
            return None
        parts = match.groupdict()
        try:
            row, column = parse_well(parts.get("well") or f"{_letters(parts['row'])}{int(parts['column'])}")
        except ValueError:
            return None
        if row >= LARGEST_PLATE[0] or column >= LARGEST_PLATE[1]:
            return None
        return NamedPlane(
            row=row,
            column=column,
            field=int(parts.get("field") or 1),
            channel=parts.get("channel") or "1",
            z=int(parts.get("z") or 0),
            t=int(parts.get("t") or 0),
        )


class Patterned(Reader):
    """Reads a folder of TIFF files by a pattern of their names; chosen by giving one, never by itself.

    Parameters
    ----------
    pattern
        Of the names.
    """

    name = "TIFF files"
    looks_for = "a pattern of file names (--pattern)"

    def __init__(self, pattern: NamePattern) -> None:
        self._pattern = pattern

    def recognise(self, folder: Path) -> float:  # noqa: ARG002
        """Return 0: names alone do not tell what their parts mean."""
        return 0.0

    def read(self, folder: Path, progress: Progress | None = None) -> FoundPlate:
        """Read the plate in `folder`."""
        named: dict[FoundFile, NamedPlane] = {}
        others: list[str] = []
        for file in _walk(folder, self._pattern.levels):
            plane = self._pattern.match(file.path)
            if plane is not None:
                named[file] = plane
            else:
                others.append(file.path)
        if not named:
            seen = f"it has {some(others)}" if others else "it has no TIFF files"
            raise RepositoryError(
                f"No file in {folder} fits the pattern {self._pattern.text}: {seen}.",
                "A pattern is the path of each file below that folder, such as {well}_s{field}_w{channel}_z{z}.tif.",
            )
        problems = []
        if others:
            problems.append(f"{len(others)} TIFF file(s) do not fit the pattern and were left out: {some(others)}")
        chosen, repeated = _without_repeats(named)
        if repeated:
            problems.append(
                f"{len(repeated)} file(s) were left out, the names of others say the same plane: {some(repeated)}"
            )
        headers = read_headers([(str(folder / file.path), file.size) for file in chosen.values()], progress)
        deep = [
            file.path
            for file, header in zip(chosen.values(), headers, strict=True)
            if isinstance(header, TiffHeader) and header.pages > 1
        ]
        if deep:
            problems.append(f"{len(deep)} file(s) have several pages, of which the first alone is read: {some(deep)}")
        channels = sorted({plane.channel for plane in chosen}, key=_natural)
        return FoundPlate(
            name=folder.name,
            format=self.name,
            root=folder,
            channels=tuple(Channel(name=name) for name in channels),
            planes=list(_planes(chosen, headers, channels)),
            problems=tuple(problems),
        )


def _expression(text: str) -> str:
    expression, seen, end = "", set[str](), 0
    for token in _TOKEN.finditer(text):
        expression += re.escape(text[end : token.start()])
        end = token.end()
        part = token[1]
        if part not in _PARTS:
            shown = token[0] if token[2] is None else f"the lone {token[2]}"
            raise UsageError(f"The pattern {text} has no use for {shown}", f"Its parts are {_known_parts()}.")
        if part == "any":
            expression += _PARTS[part]
            continue
        if part in seen:
            raise UsageError(f"The pattern {text} has {token[0]} twice", "Put {any} in the place of one of them.")
        seen.add(part)
        expression += f"(?P<{part}>{_PARTS[part]})"
    if ("well" in seen) == ({"row", "column"} <= seen) or (("row" in seen) != ("column" in seen)):
        raise UsageError(
            f"The pattern {text} must say which well: {{well}}, or {{row}} and {{column}}",
            "In a notebook, double the braces where a variable has the name of a part: {{well}}.",
        )
    return expression + re.escape(text[end:])


def _known_parts() -> str:
    return ", ".join(f"{{{part}}}" for part in _PARTS)


def _letters(row: str) -> str:
    """Name a row by its letters, where it may be a number from 1."""
    if not row.isdigit():
        return row
    number = int(row) - 1
    if number < 0:
        raise ValueError(row)
    return chr(65 + number) if number < 26 else chr(64 + number // 26) + chr(65 + number % 26)


def _walk(folder: Path, levels: int, below: str = "") -> Iterator[FoundFile]:
    with os.scandir(folder / below) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        path = f"{below}/{entry.name}" if below else entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if levels:
                yield from _walk(folder, levels - 1, path)
        elif is_tiff(entry.name):
            stat = entry.stat()
            yield FoundFile(path, stat.st_size, stat.st_mtime_ns)


def _without_repeats(named: dict[FoundFile, NamedPlane]) -> tuple[dict[NamedPlane, FoundFile], list[str]]:
    """Keep the newest of files that claim the same plane."""
    chosen: dict[NamedPlane, FoundFile] = {}
    left = []
    for file, plane in sorted(named.items(), key=lambda item: (-item[0].mtime_ns, item[0].path)):
        if chosen.setdefault(plane, file) is not file:
            left.append(file.path)
    return dict(sorted(chosen.items(), key=lambda item: item[1].path)), left


def _planes(
    chosen: dict[NamedPlane, FoundFile], headers: Sequence[TiffHeader | str], channels: Sequence[str]
) -> Iterator[FoundPlane]:
    c_of = {channel: c for c, channel in enumerate(channels)}
    t_of, z_of = ranks(plane.t for plane in chosen), ranks(plane.z for plane in chosen)
    # Fields count from 1; some programs count them from 0.
    shift = 1 if any(plane.field == 0 for plane in chosen) else 0
    for (plane, file), header in zip(chosen.items(), headers, strict=True):
        yield FoundPlane(
            row=plane.row,
            column=plane.column,
            field=plane.field + shift,
            kind="stack",
            t=t_of[plane.t],
            c=c_of[plane.channel],
            z=z_of[plane.z],
            file=file,
            data=header.data if isinstance(header, TiffHeader) else None,
            fault=None if isinstance(header, TiffHeader) else header,
        )


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort numbers in names as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in _DIGITS.split(name)]
