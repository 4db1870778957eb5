"""Asks OMERO, with a user's own session, whether that user may read an image's pixels, and where they are."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any, TypeVar

import msgspec

from openhcs_jupyter.repository.omero.address import Address
from openhcs_jupyter.repository.omero.broker.protocol import Code
from openhcs_jupyter.repository.omero.queries import ask, ask_objects
from openhcs_jupyter.repository.omero.romio import path_of

T = TypeVar("T")
# Whole objects: they carry what OMERO restricts.
IMAGES = "select i from Image i join fetch i.pixels p left outer join fetch i.fileset fs where i.id in (:ids)"
IN_PLATES = "select ws.image.id, ws.id from WellSample ws where ws.image.id in (:ids)"
FILESETS_IN_PLATES = "select distinct ws.image.fileset.id from WellSample ws where ws.image.fileset.id in (:ids)"
FILES = "select f.path, f.name, f.repo from Fileset fs join fs.usedFiles e join e.originalFile f where fs.id = :id"
MANAGED = "select f.hash, f.id from OriginalFile f where f.mimetype = 'Repository' and f.name = 'ManagedRepository'"

_ALL_GROUPS = {"omero.group": "-1"}
_TRUSTED_S = 60.0
"""How long an answer of OMERO's holds."""
_MOST_SESSIONS = 64
_MOST_ANSWERS = 100_000
_MOST_NAMES = 500_000
"""Of files, of all sessions together."""


class RefusedError(Exception):
    """Something is not handed out; `code` says why to programs, the text to people."""

    def __init__(self, code: Code, why: str, retry_after_s: float = 0.0) -> None:
        super().__init__(why)
        self.code = code
        self.why = why
        self.retry_after_s = retry_after_s


class Verdict(msgspec.Struct, frozen=True):
    """What OMERO says of an image."""

    pixels: int
    fileset: int | None = None
    """From whose files the image was imported; None where it has a file in OMERO's own layout."""
    code: Code | None = None
    """Why it is refused; None where it is granted."""
    why: str = ""
    """The same for people; names no image, so that it can be told of many at once."""


class _Joined:
    """A session that was joined, and what OMERO answered in it."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.user: str = client.getSession().getAdminService().getEventContext().userName
        self.lock = threading.Lock()
        self.verdicts: dict[int, tuple[float, Verdict]] = {}
        self.names: dict[int, tuple[float, frozenset[str]]] = {}
        """Of the files of filesets."""

    def close(self) -> None:
        with suppress(Exception):
            self.client.__del__()


class Gate:
    """What OMERO lets users read; safe to use from several threads.

    Parameters
    ----------
    server
        Of OMERO. Users cannot choose it: another server might answer anything.
    plates
        Images of plates are granted though OMERO restricts their originals.
    trusted_s
        How long an answer of OMERO's holds.
    """

    def __init__(self, server: Address, *, plates: bool, trusted_s: float = _TRUSTED_S) -> None:
        self._server = server
        self._plates = plates
        self._trusted_s = trusted_s
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, _Joined] = OrderedDict()

    def user(self, session: str) -> str:
        """Return the name of a session's user; empty where the session was not joined."""
        with self._lock:
            joined = self._sessions.get(session)
        return joined.user if joined else ""

    def check(self, session: str, images: Iterable[int]) -> dict[int, Verdict]:
        """Ask about images.

        Raises
        ------
        RefusedError
            If the session has ended, or OMERO does not answer.
        """
        wanted = list(dict.fromkeys(images))

        def look(joined: _Joined) -> dict[int, Verdict]:
            with joined.lock:
                now = time.monotonic()
                known = {
                    image: verdict
                    for image in wanted
                    if (found := joined.verdicts.get(image)) and now - found[0] < self._trusted_s
                    for verdict in (found[1],)
                }
                missing = [image for image in wanted if image not in known]
                if missing:
                    asked = self._asked(joined.client.getSession(), missing)
                    if len(joined.verdicts) > _MOST_ANSWERS:
                        joined.verdicts.clear()
                    joined.verdicts |= {image: (now, verdict) for image, verdict in asked.items()}
                    known |= asked
                return known

        return self._with(session, look)

    def paths(self, session: str, image: int, verdict: Verdict, files: Sequence[str]) -> list[str]:
        """Return where files of an image are below OMERO's data directory.

        Parameters
        ----------
        verdict
            What `check` said of the image.
        files
            Some of those that it was imported from, as OMERO names them; none is the file in OMERO's own layout.

        Raises
        ------
        RefusedError
            If the image has no such file.
        """
        fileset = verdict.fileset
        if not files:
            if fileset is not None:
                raise RefusedError("missing", f"Image {image} was imported: name its files.")
            return [str(path_of("Pixels", verdict.pixels))]
        known = self._with(session, lambda joined: self._names(joined, fileset)) if fileset is not None else frozenset()
        for file in files:
            if file not in known:
                raise RefusedError("missing", f"Image {image} was not imported from a file of that name.")
            if ".." in PurePosixPath(file).parts:
                # Below the managed repository is where OMERO keeps users apart; beside it lie the pixels of all.
                raise RefusedError("outside", f"A file of image {image} is not in OMERO's managed repository.")
        return [f"ManagedRepository/{file}" for file in files]

    def close(self) -> None:
        """Leave all sessions; they live on."""
        with self._lock:
            for joined in self._sessions.values():
                joined.close()
            self._sessions.clear()

    def _names(self, joined: _Joined, fileset: int) -> frozenset[str]:
        """Return the names of all files of a fileset that lie in the managed repository."""
        with joined.lock:
            now = time.monotonic()
            then, names = joined.names.get(fileset, (now, frozenset()))
            if names and now - then < self._trusted_s:
                return names
            service = joined.client.getSession()
            managed = {row[0] for row in ask(service, MANAGED, _ALL_GROUPS)}
            rows = ask(service, FILES, _ALL_GROUPS, id=fileset)
            names = frozenset(f"{path}{name}" for path, name, repository in rows if repository in managed)
            joined.names[fileset] = (now, names)
        with self._lock:
            if sum(len(one) for other in self._sessions.values() for _, one in other.names.values()) > _MOST_NAMES:
                for other in self._sessions.values():
                    other.names = {}
        return names

    def _asked(self, service: Any, images: list[int]) -> dict[int, Verdict]:
        found = {one.id.val: one for one in ask_objects(service, IMAGES, _ALL_GROUPS, ids=images)}
        in_plates = {row[0] for row in ask(service, IN_PLATES, _ALL_GROUPS, ids=images)} if found else set()
        filesets = {one.fileset.id.val for one in found.values() if one.fileset is not None}
        shared = {row[0] for row in ask(service, FILESETS_IN_PLATES, _ALL_GROUPS, ids=filesets)} if filesets else set()
        return {image: self._verdict(found.get(image), image in in_plates, shared) for image in images}

    def _verdict(self, image: Any, in_plate: bool, shared: Collection[int]) -> Verdict:
        """Judge an image; `shared` are filesets that images of plates have."""
        if image is None:
            return Verdict(0, code="permission", why="there is none that you may see")
        pixels = image.copyPixels()[0].id.val
        fileset = image.fileset.id.val if image.fileset is not None else None
        restricted = image.details.permissions.isRestricted("RESTRICT-BINARY-ACCESS")
        if restricted and not (in_plate and self._plates):
            hint = ", and the broker's policy does not allow plates" if in_plate else ""
            return Verdict(pixels, fileset, "restricted", f"OMERO restricts binary access to it{hint}")
        if fileset in shared and not in_plate and not self._plates:
            return Verdict(pixels, fileset, "restricted", "images of plates were imported from the same files")
        return Verdict(pixels, fileset)

    def _with(self, session: str, work: Callable[[_Joined], T]) -> T:
        """Do something in a session; one that broke is joined again, once."""
        import Ice
        import omero

        for last in (False, True):
            joined = self._join(session)
            try:
                return work(joined)
            except (Ice.LocalException, omero.SessionException) as error:
                self._forget(session, joined)
                if last:
                    raise RefusedError("server", f"OMERO does not answer: {type(error).__name__}.") from error
            except omero.ServerError as error:
                raise RefusedError("server", f"OMERO answers with an error: {type(error).__name__}.") from error
        raise AssertionError("the second time returns or raises")

    def _join(self, session: str) -> _Joined:
        import Glacier2
        import omero.clients

        with self._lock:
            if (there := self._sessions.get(session)) is not None:
                self._sessions.move_to_end(session)
                return there
        client = omero.client(self._server.host, self._server.port)
        client.setAgent("openhcs-jupyter broker")
        client.enableKeepAlive(0)  # a session that its owner left must be able to end
        try:
            client.joinSession(session).detachOnDestroy()
            joined = _Joined(client)
        except (Glacier2.CannotCreateSessionException, Glacier2.PermissionDeniedException):
            client.__del__()
            raise RefusedError("session", "OMERO knows no such session: it has ended.") from None
        except Exception as error:
            client.__del__()
            raise RefusedError("server", f"OMERO does not answer: {type(error).__name__}.") from error
        with self._lock:
            if (there := self._sessions.get(session)) is not None:  # another thread was faster
                joined.close()
                return there
            self._sessions[session] = joined
            if len(self._sessions) > _MOST_SESSIONS:
                self._sessions.popitem(last=False)[1].close()
        return joined

    def _forget(self, session: str, joined: _Joined) -> None:
        with self._lock:
            if self._sessions.get(session) is joined:
                del self._sessions[session]
        joined.close()
