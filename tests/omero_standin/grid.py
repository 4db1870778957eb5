"""Shared resources: OMERO.tables as omero-py itself implements them, and the list of repositories."""

from __future__ import annotations

import threading
from typing import Any

import Ice
import omero
import omero.columns
import omero.grid

from tests.omero_standin.binary import RawFiles
from tests.omero_standin.graphs import Loader
from tests.omero_standin.servants import Servant, World, register
from tests.omero_standin.services import Admin, Query, Sessions
from tests.omero_standin.sessions import Session


class _Local:
    """A servant, called by code in this process that takes it for a proxy."""

    def __init__(self, servant: Servant) -> None:
        self._servant = servant

    def __getattr__(self, operation: str) -> Any:
        def call(*values: Any) -> Any:
            *arguments, last = values
            if not isinstance(last, dict):
                arguments, last = list(values), {}
            return self._servant.call(operation, arguments, last)

        return call


class _Factory:
    """What omero-py's tables ask of a session."""

    def __init__(self, world: World, session: Session) -> None:
        self._world = world
        self._session = session

    def ice_getIdentity(self) -> Any:
        return Ice.Identity(name=self._session.uuid, category="session-tables")

    def getAdminService(self) -> Any:
        return _Local(Admin(self._world, self._session))

    def getQueryService(self) -> Any:
        return _Local(Query(self._world, self._session))

    def getSessionService(self) -> Any:
        return _Local(Sessions(self._world, self._session))

    def createRawFileStore(self, context: dict[str, str]) -> Any:
        return _Local(_TableFile(self._world, self._session))


class _TableFile(RawFiles):
    """The file below a table: HDF5 wrote it already, only size and hash are brought up to date."""

    def do_write(self, data: Any, position: int, length: int, *, context: dict[str, str]) -> None:
        return None


class _Context:
    def __init__(self, factory: _Factory, communicator: Any) -> None:
        self._factory = factory
        self.communicator = communicator
        self.stop_event = threading.Event()

    def getSession(self) -> _Factory:
        return self._factory


class SharedResources(Servant, omero.grid.SharedResources):
    """Makes and opens tables."""

    def do_areTablesEnabled(self, *, context: dict[str, str]) -> bool:
        return True

    def do_repositories(self, *, context: dict[str, str]) -> Any:
        store = self.world.store
        found = omero.grid.RepositoryMap()
        loader = Loader(store, self.session)
        roots = [one for one in store.all("OriginalFile") if one.values.get("mimetype") == "Repository"]
        found.descriptions = [loader.load(one) for one in roots]
        found.proxies = [None for _ in roots]
        return found

    def do_newTable(self, repository: int, path: str, *, context: dict[str, str]) -> Any:
        group = self.session.group_of(context)
        if group < 0:
            raise omero.SecurityViolation(None, None, "Cannot write with all groups as context; name one")
        folder, _, name = path.rpartition("/")
        values = {"path": f"{folder}/", "name": name, "mimetype": "OMERO.tables", "size": 0, "hash": ""}
        store = self.world.store
        with store.lock:
            record = store.add("OriginalFile", values, self.session.user, group)
            store.commit()
        return self._open(record, context)

    def do_openTable(self, file: Any, *, context: dict[str, str]) -> Any:
        record = self.world.store.get("OriginalFile", file.id.val)
        if record is None or not self.session.sees(record, self.session.group_of(context)):
            raise omero.ValidationException(None, None, f"Cannot read file id={file.id.val}")
        return self._open(record, context)

    def _open(self, record: Any, context: dict[str, str]) -> Any:
        from omero.hdfstorageV2 import HDFLIST
        from omero.tables import TableI

        path = self.world.repository.of_file(record)
        path.parent.mkdir(parents=True, exist_ok=True)
        factory = _Factory(self.world, self.session)
        adapter = self.world.adapter
        table = TableI(
            _Context(factory, adapter.getCommunicator()),
            Loader(self.world.store, self.session).load(record),
            str(path),
            factory,
            HDFLIST,
            uuid=Ice.generateUUID(),
            call_context=context,
            adapter=adapter,
        )
        table.id.category = self.session.uuid
        return omero.grid.TablePrx.uncheckedCast(register(self.world, table, table.id))


def column_factories(communicator: Any) -> None:
    """Have the columns of tables made as omero-py's own classes when they come in."""
    for factory in omero.columns.ObjectFactories.values():
        factory.register(communicator)


def repository_root(name: str) -> dict[str, Any]:
    """Return what the server keeps of its own repository."""
    return {"path": name.rpartition("/")[0] + "/", "name": name.rpartition("/")[2], "mimetype": "Repository",
            "hash": "5f2e8c1a-0000-4000-8000-000000000001", "size": 0}  # fmt: skip
