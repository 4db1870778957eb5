"""How a service of the stand-in answers: operations of Ice, each a method with the caller's context."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import Ice
import omero

from tests.omero_standin.hql import HqlError
from tests.omero_standin.sessions import Session

log = logging.getLogger("omero_standin")


class World:
    """What all servants share; its store is None while no folder is served."""

    def __init__(self) -> None:
        self.store: Any = None
        self.repository: Any = None
        self.passwords: dict[str, str] = {}
        self.insecure_router = ""
        self.idle_s = 600.0
        self.sessions: dict[str, Session] = {}
        self.used: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self.queries: list[str] = []
        self.slow_s = 0.0
        self.no_pyramids = False
        self.zarr = ""
        self.adapter: Any = None

    def count(self, what: str) -> None:
        self.calls[what] = self.calls.get(what, 0) + 1

    def ask(self, query: str) -> None:
        """Note a query."""
        self.queries.append(query)
        log.info("query %s", " ".join(query.split()))

    def touch(self, session: Session) -> None:
        """Note that a session is used.

        Raises
        ------
        omero.RemovedSessionException
            If it was closed, or idle for too long.
        """
        now = time.monotonic()
        last = self.used.get(session.uuid, now)
        idle_s = session.record.values["timeToIdle"] / 1000
        if session.is_open and idle_s and now - last > idle_s:
            with self.store.lock:
                session.close()
        if not session.is_open:
            raise omero.RemovedSessionException(None, None, f"Session {session.uuid} is gone")
        self.used[session.uuid] = now


class Servant:
    """Base of the services: an operation NAME of the generated class calls the method ``do_NAME(…, context)``."""

    world: World
    session: Session

    def __init__(self, world: World, session: Session) -> None:
        self.world = world
        self.session = session

    def __init_subclass__(cls) -> None:
        for name in dir(cls):
            operation = name.removeprefix("_op_")
            if operation != name and not operation.startswith("ice_"):
                if hasattr(cls, f"{operation}_async"):
                    setattr(cls, f"{operation}_async", _later(operation))
                else:
                    setattr(cls, operation, _at_once(operation))

    def call(self, operation: str, values: list[Any], context: dict[str, str]) -> Any:
        """Do one operation, with the session checked and errors told as OMERO tells them."""
        name = f"{type(self).__name__}.{operation}"
        self.world.count(name)
        self.world.touch(self.session)
        method: Callable[..., Any] | None = getattr(type(self), f"do_{operation}", None)
        if method is None:
            log.warning("%s is not offered", name)
            raise omero.InternalException(None, None, f"{name} is not offered by the stand-in")
        try:
            return method(self, *values, context=context)
        except (omero.ServerError, Ice.Exception):
            raise
        except HqlError as error:
            raise omero.ValidationException(None, "ome.conditions.ValidationException", str(error)) from error
        except Exception as error:
            log.exception("%s failed", name)
            raise omero.InternalException(None, None, f"{type(error).__name__}: {error}") from error


def _later(operation: str) -> Any:
    """Answer an operation that Ice dispatches with a callback."""

    def answer(self: Servant, callback: Any, *arguments: Any) -> None:
        *values, current = arguments
        try:
            result = self.call(operation, values, dict(current.ctx or {}))
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets it
            callback.ice_exception(error)
            return
        if operation in _RETURN_NOTHING:
            callback.ice_response()
        else:
            callback.ice_response(result)

    return answer


def _at_once(operation: str) -> Any:
    def answer(self: Servant, *arguments: Any) -> Any:
        *values, current = arguments
        return self.call(operation, values, dict(current.ctx or {}))

    return answer


_RETURN_NOTHING = {
    "saveObject", "saveCollection", "saveArray", "deleteObject", "setChannelGlobalMinMax", "setPixelsId", "prepare",
    "setPlane", "setTile", "setFileId", "write", "close", "setRegion", "setRow", "setStack", "setTimepoint",
}  # fmt: skip

_lock = threading.Lock()


def register(world: World, servant: Any, identity: Any) -> Any:
    """Add a servant, or take the place of one, and return its proxy."""
    with _lock:
        if world.adapter.find(identity) is not None:
            world.adapter.remove(identity)
        return world.adapter.add(servant, identity)
