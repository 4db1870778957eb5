"""Folders of TIFF files whose names a pattern describes, such as ``{well}_s{field}_w{channel}_z{z}.tif``.

A file may hold one plane or many. What its pages are is said by its own metadata or by the pattern.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from openhcs_jupyter.errors import RepositoryError, UsageError
from openhcs_jupyter.model import Channel, parse_well
from openhcs_jupyter.repository.embedded.formats.base import (
    FieldPlace,
    FoundField,
    FoundFile,
    FoundPlane,
    FoundPlate,
    Progress,
    Reader,
)
from openhcs_jupyter.repository.embedded.formats.folders import is_tiff, some
from openhcs_jupyter.repository.embedded.formats.headers import read_all_pages
from openhcs_jupyter.repository.embedded.formats.indexed import LARGEST_PLATE
from openhcs_jupyter.repository.embedded.formats.metadata import ranks
from openhcs_jupyter.repository.embedded.formats.stacks import AXES, Axis, PagePlace, PageStack, page_stack
from openhcs_jupyter.repository.embedded.formats.tiff import TiffFaultError, TiffPages

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
_PAGES = re.compile(r"\{pages:(z|t|channel)\}")
_DIGITS = re.compile(r"([0-9]+)")


class NamedPlane(msgspec.Struct, frozen=True, kw_only=True):
    """What a file's name says, numbers as written."""

    row: int
    column: int
    """Of the well, from 0."""
    field: int
    channel: str | None
    z: int | None
    t: int | None
    """None where the name does not say."""


class NamePattern:
    """A pattern of file names.

    Parameters
    ----------
    text
        Such as ``{well}/{channel}_z{z}.tif``: a path below the plate's folder with ``/`` between folders. The parts are
        ``{well}`` (``A01``) or ``{row}`` and ``{column}``, and where the names have them ``{field}``, ``{channel}``,
        ``{z}``, ``{t}``; ``{any}`` stands for text that tells nothing. ``{pages:z}``, ``{pages:t}`` or
        ``{pages:channel}``, anywhere, says what the pages of a file are and stands for no text. Capitals and small
        letters are the same.

    Raises
    ------
    UsageError
        If a part is unknown or there twice, or if no part says which well.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.levels = text.count("/")
        pages = _PAGES.findall(text)
        if len(pages) > 1:
            raise UsageError(f"The pattern {text} says twice what pages are", "Say it once.")
        self.pages: Axis | None = pages[0] if pages else None
        """What the pages of a file are, where the pattern says it."""
        self._regex = re.compile(_expression(_PAGES.sub("", text)), re.IGNORECASE)
        named = self._regex.groupindex
        self.free = tuple(axis for axis in AXES if axis not in named)
        """What the names do not tell."""
        if self.pages is not None and self.pages not in self.free:
            raise UsageError(
                f"The pattern {text} has {{{self.pages}}} in the names and in the pages", "Leave one of them out."
            )

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
            channel=parts.get("channel"),
            z=int(parts["z"]) if "z" in parts else None,
            t=int(parts["t"]) if "t" in parts else None,
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

    def recognise(self, folder: Path) -> float:  # noqa: ARG002 - the interface has it
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
        found = read_all_pages([(str(folder / file.path), file.size) for file in chosen.values()], progress)
        stacks = [
            _stack(folder / file.path, pages, self._pattern) for file, pages in zip(chosen.values(), found, strict=True)
        ]
        problems += _guesses(stacks)
        files = [
            _File(plane, file, pages, stack)
            for (plane, file), pages, stack in zip(chosen.items(), found, stacks, strict=True)
        ]
        channels = _channels(files)
        return FoundPlate(
            name=folder.name,
            format=self.name,
            root=folder,
            channels=tuple(channels.values()),
            planes=list(_planes(folder, files, list(channels))),
            fields=_fields(files),
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


class _File(NamedTuple):
    """A file with what its name, its headers and its metadata say."""

    named: NamedPlane
    file: FoundFile
    pages: TiffPages | str
    stack: PageStack | str
    """A sentence where the file cannot be used."""

    def channel(self, c: int) -> str:
        """Name a channel: as the file's name does, as its metadata do, or by both where they hold several."""
        assert isinstance(self.stack, PageStack)
        own = self.stack.channels[c].name if c < len(self.stack.channels) else str(c + 1)
        if self.named.channel is None:
            return own
        return f"{self.named.channel} {own}" if self.stack.size_c > 1 else self.named.channel


def _stack(path: Path, pages: TiffPages | str, pattern: NamePattern) -> PageStack | str:
    if isinstance(pages, str):
        return pages
    try:
        stack = page_stack(path, pages, pattern.pages, pattern.free)
    except (TiffFaultError, RepositoryError) as fault:
        return f"{path} {fault}" if isinstance(fault, TiffFaultError) else fault.message
    for axis, size in (("z", stack.size_z), ("t", stack.size_t)):
        if size > 1 and axis not in pattern.free:
            return f"{path} holds {size} planes along {axis}, and its name says {axis} already"
    return stack


def _guesses(stacks: Sequence[PageStack | str]) -> list[str]:
    """Tell for what pages were taken where nothing says it."""
    taken = Counter(stack.taken_as for stack in stacks if isinstance(stack, PageStack) and stack.taken_as)
    return [
        f"{count} file(s) have several pages, taken for {axis}; {{pages:t}} in the pattern would say otherwise"
        for axis, count in taken.items()
    ]


def _channels(files: Sequence[_File]) -> dict[str, Channel]:
    """Gather the channels by name, in natural order where the files' names tell them, else as the files list them."""
    channels: dict[str, Channel] = {}
    for one in files:
        if isinstance(one.stack, PageStack):
            for c in range(one.stack.size_c):
                name = one.channel(c)
                told = one.stack.channels[c] if c < len(one.stack.channels) else Channel(name=name)
                channels.setdefault(name, msgspec.structs.replace(told, name=name))
    for one in files:
        if not isinstance(one.stack, PageStack) and one.named.channel is not None and one.named.channel not in channels:
            channels[one.named.channel] = Channel(name=one.named.channel)
    if any(one.named.channel is not None for one in files):
        return {name: channels[name] for name in sorted(channels, key=_natural)}
    return channels or {"1": Channel(name="1")}


def _planes(folder: Path, files: Sequence[_File], channels: Sequence[str]) -> Iterator[FoundPlane]:
    c_of = {channel: c for c, channel in enumerate(channels)}
    t_of = ranks(one.named.t for one in files if one.named.t is not None)
    z_of = ranks(one.named.z for one in files if one.named.z is not None)
    # Fields count from 1; some programs count them from 0.
    shift = 1 if any(one.named.field == 0 for one in files) else 0
    for one in files:
        named, stack = one.named, one.stack
        usable = isinstance(stack, PageStack)
        for place in stack.places if isinstance(stack, PageStack) else (PagePlace(0),):
            page = one.pages.planes[place.page] if usable and isinstance(one.pages, TiffPages) else str(stack)
            channel = one.channel(place.c) if usable else named.channel or channels[0]
            yield FoundPlane(
                row=named.row,
                column=named.column,
                field=named.field + shift,
                kind="stack",
                t=place.t if named.t is None else t_of[named.t],
                c=c_of[channel],
                z=place.z if named.z is None else z_of[named.z],
                file=one.file,
                data=None if isinstance(page, str) else page,
                fault=(page if not usable else f"{folder / one.file.path} {page}") if isinstance(page, str) else None,
            )


def _fields(files: Sequence[_File]) -> dict[FieldPlace, FoundField]:
    shift = 1 if any(one.named.field == 0 for one in files) else 0
    fields: dict[FieldPlace, FoundField] = {}
    for one in files:
        if isinstance(one.stack, PageStack):
            place = (one.named.row, one.named.column, one.named.field + shift)
            stack = one.stack
            fields.setdefault(
                place,
                FoundField(
                    position_um=stack.position_um,
                    acquired=stack.acquired.isoformat() if stack.acquired is not None else None,
                    pixel_size_um=stack.pixel_size_um,
                    z_step_um=stack.z_step_um,
                    t_step_s=stack.t_step_s,
                ),
            )
    return fields


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort numbers in names as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in _DIGITS.split(name)]
