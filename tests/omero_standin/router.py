"""The front door: Glacier2's router, and a session's service factory."""

from __future__ import annotations

from typing import Any

import Glacier2
import Ice
import omero
import omero.api
import omero.grid

from tests.omero_standin import services
from tests.omero_standin.binary import RawFiles, RawPixels
from tests.omero_standin.commands import submit
from tests.omero_standin.grid import SharedResources
from tests.omero_standin.servants import Servant, World, log, register
from tests.omero_standin.sessions import USER, Session, user_groups

_STATELESS = {
    "Query": (services.Query, omero.api.IQueryPrx),
    "Update": (services.Update, omero.api.IUpdatePrx),
    "Admin": (services.Admin, omero.api.IAdminPrx),
    "Session": (services.Sessions, omero.api.ISessionPrx),
    "Config": (services.Configuration, omero.api.IConfigPrx),
    "Types": (services.Types, omero.api.ITypesPrx),
    "Roi": (services.Roi, omero.api.IRoiPrx),
    "Metadata": (services.Metadata, omero.api.IMetadataPrx),
    "Container": (services.Container, omero.api.IContainerPrx),
    "Pixels": (services.Pixels, omero.api.IPixelsPrx),
}


class Factory(Servant, omero.api.ServiceFactory):
    """A session's ServiceFactory."""

    def _stateless(self, name: str) -> Any:
        kind, proxy = _STATELESS[name]
        identity = Ice.Identity(name=f"omero.api.I{name}", category=self.session.uuid)
        if self.world.adapter.find(identity) is None:
            register(self.world, kind(self.world, self.session), identity)
        return proxy.uncheckedCast(self.world.adapter.createProxy(identity))

    def _stateful(self, kind: Any, proxy: Any) -> Any:
        identity = Ice.Identity(name=Ice.generateUUID(), category=self.session.uuid)
        return proxy.uncheckedCast(register(self.world, kind(self.world, self.session), identity))

    def do_getByName(self, name: str, *, context: dict[str, str]) -> Any:
        return self._stateless(name.rsplit(".", 1)[-1].removeprefix("I"))

    def do_createRawPixelsStore(self, *, context: dict[str, str]) -> Any:
        return self._stateful(RawPixels, omero.api.RawPixelsStorePrx)

    def do_createRawFileStore(self, *, context: dict[str, str]) -> Any:
        return self._stateful(RawFiles, omero.api.RawFileStorePrx)

    def do_createByName(self, name: str, *, context: dict[str, str]) -> Any:
        short = name.rsplit(".", 1)[-1]
        if short == "RawPixelsStore":
            return self.do_createRawPixelsStore(context=context)
        if short == "RawFileStore":
            return self.do_createRawFileStore(context=context)
        raise omero.InternalException(None, None, f"{name} is not offered by the stand-in")

    def do_sharedResources(self, *, context: dict[str, str]) -> Any:
        identity = Ice.Identity(name="omero.grid.SharedResources", category=self.session.uuid)
        if self.world.adapter.find(identity) is None:
            register(self.world, SharedResources(self.world, self.session), identity)
        return omero.grid.SharedResourcesPrx.uncheckedCast(self.world.adapter.createProxy(identity))

    def do_submit(self, request: Any, *, context: dict[str, str]) -> Any:
        return submit(self.world, self.session, request, context)

    def do_keepAlive(self, service: Any, *, context: dict[str, str]) -> bool:
        return service is None or self.world.adapter.find(service.ice_getIdentity()) is not None

    def do_keepAllAlive(self, proxies: list[Any], *, context: dict[str, str]) -> int:
        return 0

    def do_activeServices(self, *, context: dict[str, str]) -> list[str]:
        return []

    def do_setCallback(self, callback: Any, *, context: dict[str, str]) -> None:
        return None

    def do_detachOnDestroy(self, *, context: dict[str, str]) -> None:
        self._keep = True

    def do_closeOnDestroy(self, *, context: dict[str, str]) -> None:
        self._keep = False

    def do_setSecurityContext(self, group: Any, *, context: dict[str, str]) -> Any:
        number = group.id.val
        if number not in user_groups(self.world.store, self.session.user) and not self.session.is_admin:
            raise omero.SecurityViolation(None, None, f"User {self.session.user} is not a member of group {number}")
        old = omero.model.ExperimenterGroupI(self.session.group, False)
        self.session.record.group = number
        self.world.store.put(self.session.record)
        self.world.store.commit()
        return old

    def do_getSecurityContexts(self, *, context: dict[str, str]) -> list[Any]:
        groups = user_groups(self.world.store, self.session.user)
        return [omero.model.ExperimenterGroupI(number, False) for number in groups]

    def do_destroy(self, *, context: dict[str, str]) -> None:
        self.session.close()


def _getter(name: str) -> Any:
    def get(self: Factory, *, context: dict[str, str]) -> Any:
        return self._stateless(name)

    return get


for _name in _STATELESS:
    setattr(Factory, f"do_get{_name}Service", _getter(_name))


class Router(Glacier2.Router):
    """Takes passwords and gives sessions."""

    def __init__(self, world: World) -> None:
        self._world = world

    def getClientProxy(self, current: Any = None) -> Any:
        return None

    def getServerProxy(self, current: Any = None) -> Any:
        identity = Ice.Identity(name="server", category="OMERO")
        return self._world.adapter.createProxy(identity)

    def addProxies(self, proxies: Any, current: Any = None) -> list[Any]:
        return []

    def getCategoryForClient(self, current: Any = None) -> str:
        return Ice.generateUUID()

    def createSession_async(self, callback: Any, user: str, password: str, current: Any = None) -> None:
        try:
            callback.ice_response(self._session(user, password, current))
        except Exception as error:  # noqa: BLE001 - the client gets it
            callback.ice_exception(error)

    def _session(self, user: str, password: str, current: Any) -> Any:
        self._world.count("Router.createSession")
        if self._world.store is None:
            raise Glacier2.PermissionDeniedException("nothing is served")
        context = dict(current.ctx or {}) if current else {}
        session = self._joined(user, password) or self._new(user, password, context)
        identity = Ice.Identity(name=session.uuid, category=f"session-{Ice.generateUUID()}")
        proxy = register(self._world, Factory(self._world, session), identity)
        self._world.used.pop(session.uuid, None)
        return Glacier2.SessionPrx.uncheckedCast(proxy)

    def _joined(self, user: str, password: str) -> Session | None:
        if user != password:
            return None
        session = self._world.sessions.get(user)
        if session is None:
            records = (one for one in self._world.store.all("Session") if one.values["uuid"] == user)
            session = next((Session(self._world.store, one) for one in records), None)
        if session is None or not session.is_open:
            return None
        try:
            self._world.touch(session)
        except omero.RemovedSessionException:
            return None
        self._world.sessions[session.uuid] = session
        return session

    def _new(self, user: str, password: str, context: dict[str, str]) -> Session:
        store = self._world.store
        with store.lock:
            found = next((one for one in store.all("Experimenter") if one.values["omeName"] == user), None)
            if found is None or self._world.passwords.get(user) != password:
                log.info("no session for %s", user)
                raise Glacier2.PermissionDeniedException("Password check failed")
            groups = user_groups(store, found.id)
            wanted = context.get("omero.group", "")
            group = next((number for number in groups if number != USER), USER)
            if wanted:
                named = [one.id for one in store.all("ExperimenterGroup") if one.values["name"] == wanted]
                group = named[0] if named else int(wanted)
                if group not in groups:
                    raise omero.SecurityViolation(None, None, f"User {found.id} is not a member of group {group}")
            session = Session.start(store, found.id, group, self._world.idle_s)
        self._world.sessions[session.uuid] = session
        return session

    def createSessionFromSecureConnection_async(self, callback: Any, current: Any = None) -> None:
        callback.ice_exception(Glacier2.PermissionDeniedException("a name and a password are needed"))

    def refreshSession_async(self, callback: Any, current: Any = None) -> None:
        callback.ice_response()

    def destroySession(self, current: Any = None) -> None:
        return None

    def getSessionTimeout(self, current: Any = None) -> int:
        return int(self._world.idle_s)

    def getACMTimeout(self, current: Any = None) -> int:
        return int(self._world.idle_s)
