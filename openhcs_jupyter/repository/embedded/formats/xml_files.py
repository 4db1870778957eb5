"""Reading XML files that microscopes wrote: large ones piece by piece, hostile ones not at all."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from xml.etree.ElementTree import Element, ParseError, iterparse
from xml.parsers import expat

from openhcs_jupyter.errors import RepositoryError

_CHUNK = 1 << 16


def elements(path: Path, *names: str, content: bytes | None = None) -> Iterator[Element]:
    """Iterate over the elements of these names, whatever their namespace, in the order in which they end.

    `content` is read instead of the file where it is given; `path` names it in errors.
    An element is emptied when the next one is asked for, so that a file's size is not that of its tree.

    Raises
    ------
    RepositoryError
        If the file is no XML, ends too early, or declares a document type. Entities can only be declared there: no
        microscope does, and they are how a small file becomes a large one or reads other files.
    """
    wanted: dict[str, bool] = {}
    try:
        with _opened(path, content) as stream:
            _refuse_document_type(path, stream)
            stream.seek(0)
            for _, element in iterparse(stream):  # noqa: S314 - entities are refused above
                tag = element.tag
                if tag not in wanted:
                    wanted[tag] = local(tag) in names
                if wanted[tag]:
                    yield element
                    element.clear()
    except (ParseError, expat.ExpatError, ValueError, LookupError) as error:
        raise RepositoryError(f"{path} is damaged: {error}.", "Copy it again from the microscope.") from error


@lru_cache(maxsize=4096)
def local(name: str) -> str:
    """Return the name of an element or attribute without its namespace."""
    return name.rpartition("}")[2]


def attributes(element: Element) -> dict[str, str]:
    """Return an element's attributes without their namespaces."""
    return {local(key): value for key, value in element.items()}


class _RootReachedError(Exception):
    """The file's first element: what stands before it is known."""


def _opened(path: Path, content: bytes | None) -> BinaryIO:
    return path.open("rb") if content is None else BytesIO(content)


def _refuse_document_type(path: Path, stream: BinaryIO) -> None:
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise RepositoryError(f"{path} declares a document type, which no microscope writes.", "It was not read.")

    def stop(*_: object) -> None:
        raise _RootReachedError

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = stop
    try:
        while chunk := stream.read(_CHUNK):
            parser.Parse(chunk, False)
        parser.Parse(b"", True)
    except _RootReachedError:
        return
