"""Names of things in OMERO: ``omero://user@host:port`` for a server; an id, a name or a web link for a plate."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import parse_well

DEFAULT_PORT = 4064
_SHOW = re.compile(r"(?P<kind>image|well|plate|screen|dataset|project|run)[-:](?P<id>\d+)", re.IGNORECASE)
_NAMED = re.compile(r"(?P<kind>image|plate|screen|dataset):(?P<name>.+)", re.IGNORECASE | re.DOTALL)
_KINDS = {"image": "Image", "well": "Well", "plate": "Plate", "screen": "Screen", "dataset": "Dataset"}

Kind = Literal["Image", "Well", "Plate", "Screen", "Dataset"]


class Source(msgspec.Struct, frozen=True):
    """What a run reads: a plate, or a dataset or single image that is taken for one.

    Other rooms know it by one number: a plate by its id, the others by negative numbers, so that none is two things.
    """

    kind: Literal["Plate", "Dataset", "Image"]
    id: int

    @property
    def number(self) -> int:
        """The id of the `Plate` that is made of it."""
        return {"Plate": self.id, "Dataset": -2 * self.id, "Image": -2 * self.id - 1}[self.kind]

    @property
    def name(self) -> str:
        """What a cell calls it."""
        return str(self.id) if self.kind == "Plate" else f"{self.kind}:{self.id}"

    @classmethod
    def of(cls, number: int) -> Source:
        """Return what has this number."""
        if number > 0:
            return cls("Plate", number)
        return cls("Image", (-number - 1) // 2) if number % 2 else cls("Dataset", -number // 2)


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server is, and who the user is there."""

    host: str
    port: int = DEFAULT_PORT
    user: str = ""
    """Empty where a session is joined, which says it."""

    @property
    def uri(self) -> str:
        """What `parse_address` reads; holds no secret."""
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port != DEFAULT_PORT else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"omero://{user}{host}{port}"


def parse_address(uri: str) -> Address:
    """Read the URI of a server.

    Raises
    ------
    RepositoryError
        If it is not one, or holds a password.
    """
    parts = urlsplit(uri)
    hint = "Write omero://USER@HOST or omero://USER@HOST:PORT."
    if parts.password is not None:
        raise RepositoryError("A password does not belong into an address: others may read it.", hint)
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise RepositoryError(f"{uri}: {error}.", hint) from error
    if parts.scheme.lower() != "omero" or not host or parts.path.strip("/") or parts.query or parts.fragment:
        raise RepositoryError(f"{uri!r} is not the address of an OMERO server.", hint)
    return Address(host=host, port=port or DEFAULT_PORT, user=unquote(parts.username or ""))


def parse_reference(text: str) -> tuple[Kind | None, int] | None:
    """Read an id, such as ``51``, ``Plate:51`` or a web client's link; None where it can only be a name.

    Returns
    -------
    tuple or None
        Kind and id; the kind is None where only a number stands there.
    """
    stripped = text.strip()
    if stripped.isdecimal():
        return None, int(stripped)
    if re.match(r"https?://", stripped, re.IGNORECASE):
        return _link(stripped)
    match = _SHOW.fullmatch(stripped)
    return _named(match) if match else None


def parse_well_of(text: str) -> tuple[str, tuple[int, int]] | None:
    """Read a well by its name, such as ``drawn/B03``, ``51/B03`` or ``Well:drawn/B03``; None where it is none.

    Returns
    -------
    tuple or None
        What names the plate, and the well's row and column.
    """
    plate, slash, well = re.sub(r"^\s*well:", "", text, flags=re.IGNORECASE).rpartition("/")
    if not slash or not plate.strip() or "://" in text:
        return None
    try:
        return plate.strip(), parse_well(well)
    except ValueError:
        return None


def parse_name(text: str) -> tuple[Kind | None, str]:
    """Read a name, such as ``drawn`` or ``Dataset:controls``; the kind is None where it is not told."""
    match = _NAMED.fullmatch(text.strip())
    return (_KINDS[match["kind"].lower()], match["name"]) if match else (None, text)  # type: ignore[return-value]  # the pattern allows these only


def _link(text: str) -> tuple[Kind | None, int]:
    parts = urlsplit(text)
    shown = parse_qs(parts.query).get("show", [""])[0].split("|")[0]
    match = _SHOW.fullmatch(shown) or re.search(r"/(?P<kind>img|well|plate)_?(?:detail|map)?/(?P<id>\d+)", parts.path)
    found = _named(match) if match else None
    if found is None:
        raise RepositoryError(
            f"The link {text} names no image, well, plate, screen or dataset.",
            "Select the plate in OMERO.web and copy its link with the chain button.",
        )
    return found


def _named(match: re.Match[str]) -> tuple[Kind | None, int] | None:
    kind = {"img": "Image"}.get(match["kind"].lower()) or _KINDS.get(match["kind"].lower())
    return (kind, int(match["id"])) if kind else None  # type: ignore[return-value]  # the pattern allows these only
