"""Commands that a client submits: deleting what hangs together."""

from __future__ import annotations

from typing import Any

import Ice
import omero
import omero.cmd

from tests.omero_standin import schema
from tests.omero_standin.servants import World, log, register
from tests.omero_standin.sessions import Session
from tests.omero_standin.store import Key, Record, Store

_OWNED = {
    "Image": ("Pixels", "Roi", "WellSample"), "Pixels": ("Channel", "PlaneInfo", "Thumbnail", "RenderingDef"),
    "Plate": ("Well", "PlateAcquisition"), "Well": ("WellSample",), "Roi": ("Shape",), "Fileset": ("FilesetEntry",),
}  # fmt: skip
_DOWN = {"WellSample": ("image",), "FileAnnotation": ("file",), "Channel": ("logicalChannel",), "Image": ("fileset",)}
_IN_CONTAINERS = {"Screen": "ScreenPlateLink", "Dataset": "DatasetImageLink", "Project": "ProjectDatasetLink"}


def delete(store: Store, records: list[Record], session: Session, repository: Any = None) -> dict[str, list[int]]:
    """Delete records with what belongs to them.

    Raises
    ------
    omero.SecurityViolation
        If something of it may not be deleted; then nothing is.
    """
    found: dict[Key, Record] = {}
    for record in records:
        _gather(store, record, found)
    for record in found.values():
        if not record.kind.endswith("Link"):
            session.check_edit(record)
    for record in found.values():
        store.drop(record.key)
        if repository is not None and record.kind in ("Pixels", "OriginalFile") and not record.values.get("repo"):
            repository.of_id("Pixels" if record.kind == "Pixels" else "Files", record.id).unlink(missing_ok=True)
    deleted: dict[str, list[int]] = {}
    for record in found.values():
        deleted.setdefault(f"ome.model.{record.kind}", []).append(record.id)
    return deleted


def _gather(store: Store, record: Record, found: dict[Key, Record]) -> None:
    if record.key in found:
        return
    found[record.key] = record
    for other, name in list(store.referring(record.key)):
        if other.kind.endswith("Link") and name in ("parent", "child"):
            found[other.key] = other
            if other.kind.endswith("AnnotationLink") and name == "parent":
                _gather_annotation(store, other, found)
            if other.kind == _IN_CONTAINERS.get(record.kind) and name == "parent":
                child = store.find(other.values["child"])
                if child is not None and _is_last(store, child, other):
                    _gather(store, child, found)
        elif other.kind in _OWNED.get(record.kind, ()) or schema.root_of(other.kind) in _OWNED.get(record.kind, ()):
            _gather(store, other, found)
    for name in _DOWN.get(record.kind, ()):
        below = store.find(record.values.get(name))
        if below is not None and all(other.key in found for other, _ in store.referring(below.key)):
            _gather(store, below, found)


def _gather_annotation(store: Store, link: Record, found: dict[Key, Record]) -> None:
    """Take along an annotation that only this links to; tags stay."""
    annotation = store.find(link.values["child"])
    if annotation is not None and annotation.kind != "TagAnnotation" and _is_last(store, annotation, link):
        _gather(store, annotation, found)


def _is_last(store: Store, child: Record, link: Record) -> bool:
    return all(other.key == link.key for other, name in store.referring(child.key) if name == "child")


class Handle(omero.cmd.Handle):
    """A command that was submitted. It is done at once, so that its answer is there when it is asked for."""

    def __init__(self, world: World, session: Session, request: Any, context: dict[str, str]) -> None:
        self._world = world
        self._request = request
        self._callbacks: dict[Any, Any] = {}
        try:
            with world.store.lock:
                self._response = self._do(session, request, context)
                world.store.commit()
        except omero.ServerError as error:
            self._response = omero.cmd.GraphException()
            self._response.category, self._response.name = "::omero::cmd::Delete2", "security-violation"
            self._response.parameters, self._response.message = {"message": error.message}, error.message

    def _do(self, session: Session, request: Any, context: dict[str, str]) -> Any:
        if isinstance(request, omero.cmd.DoAll):
            answer = omero.cmd.DoAllRsp()
            answer.responses = [self._do(session, one, context) for one in request.requests]
            answer.status = []
            return answer
        if not isinstance(request, omero.cmd.Delete2):
            unknown = omero.cmd.ERR()
            unknown.category, unknown.name = "unknown", "unknown-request"
            unknown.parameters = {"type": request.ice_id()}
            return unknown
        store = self._world.store
        records = []
        for name, ids in (request.targetObjects or {}).items():
            kind = name.rsplit(".", 1)[-1]
            for number in ids:
                record = store.get(kind, number)
                if record is None or not session.sees(record, session.group_of(context)):
                    raise omero.ValidationException(None, None, f"cannot read {kind}[{number}]")
                records.append(record)
        answer = omero.cmd.Delete2Response()
        answer.deletedObjects = {} if request.dryRun else delete(store, records, session, self._world.repository)
        return answer

    def getRequest(self, current: Any = None) -> Any:
        return self._request

    def getResponse(self, current: Any = None) -> Any:
        return self._response

    def getStatus(self, current: Any = None) -> Any:
        status = omero.cmd.Status()
        status.id, status.flags, status.currentStep, status.steps = None, [], 1, 1
        if isinstance(self._response, omero.cmd.ERR):
            status.flags = [omero.cmd.State.FAILURE]
        return status

    def addCallback(self, callback: Any, current: Any = None) -> None:
        return None  # clients also ask by themselves

    def removeCallback(self, callback: Any, current: Any = None) -> None:
        return None

    def cancel(self, current: Any = None) -> bool:
        return False

    def close(self, current: Any = None) -> None:
        if current is not None:
            self._world.adapter.remove(current.id)


def submit(world: World, session: Session, request: Any, context: dict[str, str]) -> Any:
    """Do a command and return the proxy of its handle."""
    world.count(f"submit.{request.ice_id().rsplit('::', 1)[-1]}")
    log.info("command %s", request.ice_id())
    identity = Ice.Identity(name=Ice.generateUUID(), category=session.uuid)
    proxy = register(world, Handle(world, session, request, context), identity)
    return omero.cmd.HandlePrx.uncheckedCast(proxy)
