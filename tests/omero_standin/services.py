"""The stateless services: query, update, administration, configuration, containers, ROIs, metadata, types, pixels."""

from __future__ import annotations

import time
from typing import Any

import omero
import omero.api
import omero.sys
from omero.rtypes import robject, rtype, unwrap, wrap

from tests.omero_standin import hql, schema
from tests.omero_standin.evaluate import Evaluator
from tests.omero_standin.graphs import Fetched, Loader, Saver
from tests.omero_standin.servants import Servant
from tests.omero_standin.sessions import GUEST, SYSTEM, USER, user_groups
from tests.omero_standin.store import Record, Ref

VERSION = "5.6.14"
_PEOPLE = ("Experimenter", "ExperimenterGroup", "GroupExperimenterMap")


class _Database(Servant):
    """What services do with the store."""

    def evaluator(self, parameters: Any, context: dict[str, str]) -> Evaluator:
        values = {name: unwrap(value) for name, value in (parameters.map or {}).items()} if parameters else {}
        group = self.session.group_of(context)
        known: dict[tuple[bool, int, int], bool] = {}

        def sees(record: Record) -> bool:
            # A query meets thousands of records of the same few owners and groups.
            key = (record.kind in _PEOPLE, record.group, record.owner)
            if key not in known:
                known[key] = self.session.sees(record, group)
            return known[key]

        return Evaluator(self.world.store, values, sees)

    def objects(self, query: str, parameters: Any, context: dict[str, str]) -> list[Any]:
        self.world.ask(query)
        limit, offset = _page(parameters)
        with self.world.store.lock:
            records, fetched = self.evaluator(parameters, context).objects(hql.parse(query), limit, offset)
            loader = Loader(self.world.store, self.session)
            return [loader.load(record, fetched) for record in records]

    def record(self, kind: str, number: int, context: dict[str, str]) -> Record:
        found = self.world.store.get(kind, number)
        if found is None or not self.session.sees(found, self.session.group_of(context)):
            raise omero.ValidationException(None, None, f"Cannot find {kind} with id {number}")
        return found

    def load(self, record: Record, fetched: Fetched | None = None) -> Any:
        return Loader(self.world.store, self.session).load(record, fetched)

    def save(self, objects: list[Any], context: dict[str, str]) -> list[Any]:
        group = self.session.group_of(context)
        if group < 0:
            raise omero.SecurityViolation(None, None, "Cannot write with all groups as context; name one")
        groups = user_groups(self.world.store, self.session.user)
        if not self.session.is_admin and group not in groups:
            raise omero.SecurityViolation(None, None, f"User {self.session.user} is not a member of group {group}")
        with self.world.store.lock:
            self._check_links(objects)
            saver = Saver(self.world.store, self.session.user, group, self.session.check_edit)
            for one in objects:
                saver.save(one)
            self.world.store.commit()
        return objects

    def _check_links(self, objects: list[Any]) -> None:
        """Refuse links to what may not be annotated or changed, and links of objects in two groups."""
        for one in objects:
            kind = schema.kind_of(one)
            if not kind.endswith("Link") or not one._loaded or one._parent is None or one._parent._id is None:
                continue
            parent = self.world.store.get(schema.kind_of(one._parent), unwrap(one._parent._id))
            if parent is None:
                raise omero.ValidationException(None, None, f"There is no {schema.kind_of(one._parent)} of the link")
            may = self.session.may_annotate if kind.endswith("AnnotationLink") else self.session.may_edit
            if not may(parent):
                raise omero.SecurityViolation(None, None, f"Cannot link to {parent.kind}:{parent.id}")


def _page(parameters: Any) -> tuple[int | None, int]:
    the = getattr(parameters, "theFilter", None)
    limit = unwrap(the.limit) if the is not None else None
    offset = unwrap(the.offset) if the is not None else None
    return limit, offset or 0


def _kind(name: str) -> str:
    short = name.rsplit(".", 1)[-1]
    return short[:-1] if short.endswith("I") and schema.exists(short[:-1]) else short


class Query(_Database, omero.api.IQuery):
    def do_findAllByQuery(self, query: str, parameters: Any, *, context: dict[str, str]) -> list[Any]:
        return self.objects(query, parameters, context)

    def do_findByQuery(self, query: str, parameters: Any, *, context: dict[str, str]) -> Any:
        found = self.objects(query, parameters, context)
        if len(found) > 1:
            raise omero.ApiUsageException(None, None, f"query did not return a unique result: {len(found)}")
        return found[0] if found else None

    def do_projection(self, query: str, parameters: Any, *, context: dict[str, str]) -> list[list[Any]]:
        self.world.ask(query)
        limit, offset = _page(parameters)
        with self.world.store.lock:
            tree = hql.parse(query)
            rows = self.evaluator(parameters, context).rows(tree)
            rows = rows[offset : None if limit is None else offset + limit]
            if tree.as_map:
                names = [str(name) for _, name in tree.items]
                return [[wrap({n: self._wrap(v) for n, v in zip(names, row, strict=True)})] for row in rows]
            return [[self._wrap(value) for value in row] for row in rows]

    def _wrap(self, value: Any) -> Any:
        if isinstance(value, Record):
            return robject(self.load(value))
        if isinstance(value, int) and not isinstance(value, bool):
            return omero.rtypes.rlong(value) if abs(value) > 2**31 - 1 else rtype(value)
        if isinstance(value, tuple):
            return wrap([list(one) for one in value])
        return rtype(value)

    def do_get(self, kind: str, number: int, *, context: dict[str, str]) -> Any:
        with self.world.store.lock:
            return self.load(self.record(_kind(kind), number, context))

    def do_find(self, kind: str, number: int, *, context: dict[str, str]) -> Any:
        with self.world.store.lock:
            found = self.world.store.get(_kind(kind), number)
            sees = found is not None and self.session.sees(found, self.session.group_of(context))
            return self.load(found) if sees else None

    def do_findAll(self, kind: str, parameters: Any, *, context: dict[str, str]) -> list[Any]:
        return self.objects(f"select o from {_kind(kind)} o order by o.id", parameters, context)

    def do_findByString(self, kind: str, name: str, value: str, *, context: dict[str, str]) -> Any:
        found = self._by_string(kind, name, value, context)
        return found[0] if found else None

    def do_findAllByString(
        self, kind: str, name: str, value: str, sensitive: bool, parameters: Any, *, context: dict[str, str]
    ) -> list[Any]:
        return self._by_string(kind, name, value, context)

    def _by_string(self, kind: str, name: str, value: str, context: dict[str, str]) -> list[Any]:
        parameters = omero.sys.ParametersI().addString("value", value)
        return self.objects(f"select o from {_kind(kind)} o where o.{name} = :value", parameters, context)


class Update(_Database, omero.api.IUpdate):
    def do_saveObject(self, one: Any, *, context: dict[str, str]) -> None:
        self.save([one], context)

    def do_saveAndReturnObject(self, one: Any, *, context: dict[str, str]) -> Any:
        return self._returned(self.save([one], context)[0])

    def do_saveCollection(self, objects: list[Any], *, context: dict[str, str]) -> None:
        self.save(objects, context)

    do_saveArray = do_saveCollection

    def do_saveAndReturnArray(self, objects: list[Any], *, context: dict[str, str]) -> list[Any]:
        return [self._returned(one) for one in self.save(objects, context)]

    def do_saveAndReturnIds(self, objects: list[Any], *, context: dict[str, str]) -> list[int]:
        return [unwrap(one._id) for one in self.save(objects, context)]

    def do_deleteObject(self, one: Any, *, context: dict[str, str]) -> None:
        from tests.omero_standin.commands import delete

        with self.world.store.lock:
            record = self.record(schema.kind_of(one), unwrap(one._id), context)
            delete(self.world.store, [record], self.session)
            self.world.store.commit()

    def _returned(self, one: Any) -> Any:
        """Say of a saved object whose it is; what hangs on it stays as it was sent."""
        record = self.world.store.get(schema.kind_of(one), unwrap(one._id))
        if record is not None and getattr(one, "_details", None) is not None:
            one._details = self.load(record)._details
        return one


class Admin(_Database, omero.api.IAdmin):
    def do_getEventContext(self, *, context: dict[str, str]) -> Any:
        store, session = self.world.store, self.session
        user, group = store.get("Experimenter", session.user), store.get("ExperimenterGroup", session.group)
        groups = user_groups(store, session.user)
        event = omero.sys.EventContext()
        event.sessionId, event.sessionUuid = session.record.id, session.uuid
        event.userId, event.userName = session.user, user.values["omeName"]
        event.groupId, event.groupName = session.group, group.values["name"]
        event.isAdmin, event.isReadOnly = session.is_admin, False
        event.eventId, event.eventType = 1, "User"
        event.memberOfGroups = list(groups)
        event.leaderOfGroups = [number for number, leads in groups.items() if leads]
        event.groupPermissions = omero.model.PermissionsI(session.mode(session.group))
        event.adminPrivileges = []
        return event

    def do_getSecurityRoles(self, *, context: dict[str, str]) -> Any:
        roles = omero.sys.Roles()
        roles.rootId, roles.rootName, roles.guestId, roles.guestName = 0, "root", 1, "guest"
        roles.systemGroupId, roles.systemGroupName = SYSTEM, "system"
        roles.userGroupId, roles.userGroupName = USER, "user"
        roles.guestGroupId, roles.guestGroupName = GUEST, "guest"
        return roles

    def do_getExperimenter(self, number: int, *, context: dict[str, str]) -> Any:
        return self._experimenter(self.record("Experimenter", number, context))

    def do_lookupExperimenter(self, name: str, *, context: dict[str, str]) -> Any:
        return self._experimenter(self._named("Experimenter", "omeName", name))

    def do_lookupExperimenters(self, *, context: dict[str, str]) -> list[Any]:
        return [self._experimenter(record) for record in self.world.store.all("Experimenter")]

    def do_getGroup(self, number: int, *, context: dict[str, str]) -> Any:
        return self._group(self.record("ExperimenterGroup", number, context))

    def do_lookupGroup(self, name: str, *, context: dict[str, str]) -> Any:
        return self._group(self._named("ExperimenterGroup", "name", name))

    def do_lookupGroups(self, *, context: dict[str, str]) -> list[Any]:
        return [self._group(record) for record in self.world.store.all("ExperimenterGroup")]

    def do_containedGroups(self, number: int, *, context: dict[str, str]) -> list[Any]:
        groups = user_groups(self.world.store, number)
        return [self._group(self.record("ExperimenterGroup", group, context)) for group in groups]

    def do_getDefaultGroup(self, number: int, *, context: dict[str, str]) -> Any:
        groups = [group for group in user_groups(self.world.store, number) if group != USER]
        return self._group(self.record("ExperimenterGroup", groups[0], context))

    def do_getMemberOfGroupIds(self, who: Any, *, context: dict[str, str]) -> list[int]:
        return list(user_groups(self.world.store, unwrap(who.id)))

    def do_getLeaderOfGroupIds(self, who: Any, *, context: dict[str, str]) -> list[int]:
        return [group for group, leads in user_groups(self.world.store, unwrap(who.id)).items() if leads]

    def do_getCurrentAdminPrivileges(self, *, context: dict[str, str]) -> list[Any]:
        return []

    def do_canUpdate(self, one: Any, *, context: dict[str, str]) -> bool:
        record = self.world.store.get(schema.kind_of(one), unwrap(one._id))
        return record is not None and self.session.may_edit(record)

    def _named(self, kind: str, attribute: str, name: str) -> Record:
        for record in self.world.store.all(kind):
            if record.values.get(attribute) == name:
                return record
        raise omero.ApiUsageException(None, None, f"No such {kind}: {name}")

    def _experimenter(self, user: Record) -> Any:
        maps = self.world.store.children(user.key, schema.Collection("GroupExperimenterMap", "child"))
        fetched: Fetched = {user.key: {"groupExperimenterMap": maps}}
        for one in maps:
            fetched[one.key] = {"parent": [], "child": []}
        return self.load(user, fetched)

    def _group(self, group: Record) -> Any:
        maps = self.world.store.children(group.key, schema.Collection("GroupExperimenterMap", "parent"))
        fetched: Fetched = {group.key: {"groupExperimenterMap": maps}}
        for one in maps:
            fetched[one.key] = {"parent": [], "child": []}
        loaded = self.load(group, fetched)
        loaded._details._permissions = omero.model.PermissionsI(self.session.mode(group.id))
        return loaded


class Sessions(_Database, omero.api.ISession):
    def do_getSession(self, identifier: str, *, context: dict[str, str]) -> Any:
        for record in self.world.store.all("Session"):
            if record.values["uuid"] == identifier and record.values.get("closed") is None:
                return self.load(record)
        raise omero.RemovedSessionException(None, None, f"No session with uuid {identifier}")

    def do_closeSession(self, session: Any, *, context: dict[str, str]) -> int:
        found = self.world.sessions.get(unwrap(session.uuid))
        if found is not None and (found.user == self.session.user or self.session.is_admin):
            found.close()
        return -2

    def do_createUserSession(self, live: int, idle: int, group: str, *, context: dict[str, str]) -> Any:
        number = next((r.id for r in self.world.store.all("ExperimenterGroup") if r.values["name"] == group), None)
        made = type(self.session).start(
            self.world.store, self.session.user, self.session.group if number is None else number, idle / 1000
        )
        self.world.sessions[made.uuid] = made
        return self.load(made.record)


class Configuration(Servant, omero.api.IConfig):
    values = {  # noqa: RUF012 - nobody changes it
        "omero.version": VERSION,
        "omero.router.insecure": "",
        "omero.client.ui.menu.dropdown": "",
        "omero.pixeldata.max_plane_width": "3192",
        "omero.pixeldata.max_plane_height": "3192",
        "omero.policy.binary_access": "+read,+write,+image,-plate",
        "omero.db.authority": "export.openmicroscopy.org",
    }

    def do_getVersion(self, *, context: dict[str, str]) -> str:
        return VERSION

    def do_getConfigValue(self, key: str, *, context: dict[str, str]) -> str:
        if key == "omero.router.insecure":
            return str(self.world.insecure_router)
        if key == "omero.policy.binary_access":
            return str(self.session.policy)
        return self.values.get(key, "")

    def do_getConfigValues(self, pattern: str, *, context: dict[str, str]) -> dict[str, str]:
        return {key: self.do_getConfigValue(key, context=context) for key in self.values if pattern in key}

    def do_getClientConfigDefaults(self, *, context: dict[str, str]) -> dict[str, str]:
        return {}

    do_getClientConfigValues = do_getClientConfigDefaults

    def do_getDatabaseUuid(self, *, context: dict[str, str]) -> str:
        return "5d0ab5a0-0000-4000-8000-000000000000"

    def do_getServerTime(self, *, context: dict[str, str]) -> Any:
        return omero.rtypes.rtime(int(time.time() * 1000))

    do_getDatabaseTime = do_getServerTime


class Types(_Database, omero.api.ITypes):
    def do_allEnumerations(self, kind: str, *, context: dict[str, str]) -> list[Any]:
        return self.objects(f"select o from {_kind(kind)} o", None, context)

    def do_getEnumeration(self, kind: str, value: str, *, context: dict[str, str]) -> Any:
        parameters = omero.sys.ParametersI().addString("value", value)
        found = self.objects(f"select o from {_kind(kind)} o where o.value = :value", parameters, context)
        if not found:
            raise omero.ApiUsageException(None, None, f"No {kind} has the value {value}")
        return found[0]


class Roi(_Database, omero.api.IRoi):
    _BY_IMAGE = "select r from Roi r left outer join fetch r.shapes s where r.image.id = :id order by r.id"

    def do_findByImage(self, image: int, options: Any, *, context: dict[str, str]) -> Any:
        return self._result(self.objects(self._BY_IMAGE, omero.sys.ParametersI().addId(image), context))

    def do_findByRoi(self, roi: int, options: Any, *, context: dict[str, str]) -> Any:
        query = "select r from Roi r left outer join fetch r.shapes where r.id = :id"
        return self._result(self.objects(query, omero.sys.ParametersI().addId(roi), context))

    def do_findByPlane(self, image: int, z: int, t: int, options: Any, *, context: dict[str, str]) -> Any:
        query = f"{self._BY_IMAGE[: self._BY_IMAGE.index(' order')]} and s.theZ = :z and s.theT = :t order by r.id"
        parameters = omero.sys.ParametersI().addId(image).addLong("z", z).addLong("t", t)
        return self._result(self.objects(query, parameters, context))

    @staticmethod
    def _result(rois: list[Any]) -> Any:
        found = omero.api.RoiResult()
        found.rois = rois
        return found


class Metadata(_Database, omero.api.IMetadata):
    def do_loadAnnotations(
        self, root: str, ids: list[int], kinds: list[str], annotators: list[int], parameters: Any,
        *, context: dict[str, str],
    ) -> dict[int, list[Any]]:  # fmt: skip
        kind = _kind(root)
        query = f"select l from {kind}AnnotationLink l join fetch l.child c where l.parent.id in (:ids)"
        links = self.objects(query, omero.sys.ParametersI().addIds(ids), context)
        wanted = {_kind(one) for one in kinds or ()}
        found: dict[int, list[Any]] = {number: [] for number in ids}
        for link in links:
            if not wanted or schema.kind_of(link._child) in wanted:
                found[unwrap(link._parent._id)].append(link._child)
        return found

    def do_loadAnnotation(self, ids: list[int], *, context: dict[str, str]) -> list[Any]:
        query = "select a from Annotation a left outer join fetch a.file where a.id in (:ids)"
        return self.objects(query, omero.sys.ParametersI().addIds(ids), context)


class Container(_Database, omero.api.IContainer):
    def do_getImages(self, kind: str, ids: list[int], parameters: Any, *, context: dict[str, str]) -> list[Any]:
        where = {"Image": "i.id in (:ids)", "Dataset": "d.parent.id in (:ids)"}[_kind(kind)]
        join = "" if _kind(kind) == "Image" else "join i.datasetLinks d "
        query = (
            "select i from Image i left outer join fetch i.pixels p left outer join fetch p.pixelsType "
            f"{join}where {where}"
        )
        return self.objects(query, omero.sys.ParametersI().addIds(ids), context)

    def do_getCollectionCount(
        self, kind: str, name: str, ids: list[int], parameters: Any, *, context: dict[str, str]
    ) -> dict[int, int]:
        child = schema.collections(_kind(kind))[name]
        return {n: len(self.world.store.children((schema.root_of(_kind(kind)), n), child)) for n in ids}


class Pixels(_Database, omero.api.IPixels):
    def do_retrievePixDescription(self, number: int, *, context: dict[str, str]) -> Any:
        query = (
            "select p from Pixels p join fetch p.pixelsType join fetch p.image left outer join fetch p.channels c "
            "left outer join fetch c.logicalChannel l left outer join fetch l.photometricInterpretation "
            "where p.id = :id"
        )
        found = self.objects(query, omero.sys.ParametersI().addId(number), context)
        if not found:
            raise omero.ValidationException(None, None, f"Cannot find Pixels with id {number}")
        return found[0]

    def do_getAllEnumerations(self, kind: str, *, context: dict[str, str]) -> list[Any]:
        return self.objects(f"select o from {_kind(kind)} o", None, context)

    def do_getEnumeration(self, kind: str, value: str, *, context: dict[str, str]) -> Any:
        parameters = omero.sys.ParametersI().addString("value", value)
        found = self.objects(f"select o from {_kind(kind)} o where o.value = :value", parameters, context)
        return found[0] if found else None

    def do_createImage(
        self, x: int, y: int, z: int, t: int, channels: list[int], pixels_type: Any, name: str, description: str,
        *, context: dict[str, str],
    ) -> Any:  # fmt: skip
        group = self.session.group_of(context)
        if group < 0:
            raise omero.SecurityViolation(None, None, "Cannot write with all groups as context; name one")
        store, user = self.world.store, self.session.user
        with store.lock:
            image = store.add("Image", {"name": name, "description": description, "partial": None}, user, group)
            order = next(r for r in store.all("DimensionOrder") if r.values["value"] == "XYZCT")
            values = {
                "sizeX": x, "sizeY": y, "sizeZ": z, "sizeC": len(channels), "sizeT": t, "image": image.ref,
                "pixelsType": Ref("PixelsType", unwrap(pixels_type._id)), "dimensionOrder": order.ref,
                "sha1": "pending",
            }  # fmt: skip
            pixels = store.add("Pixels", values, user, group)
            for wave in channels:
                logical = store.add("LogicalChannel", {"name": str(wave) if wave else None}, user, group)
                channel = {"pixels": pixels.ref, "logicalChannel": logical.ref}
                store.add("Channel", channel | dict.fromkeys(("red", "green", "blue", "alpha"), 255), user, group)
            store.commit()
        return omero.rtypes.rlong(image.id)

    def do_setChannelGlobalMinMax(
        self, pixels: int, channel: int, low: float, high: float, *, context: dict[str, str]
    ) -> None:
        store = self.world.store
        with store.lock:
            record = self.record("Pixels", pixels, context)
            one = store.children(record.key, schema.Collection("Channel", "pixels"))[channel]
            stats = store.add("StatsInfo", {"globalMin": low, "globalMax": high}, record.owner, record.group)
            one.values["statsInfo"] = stats.ref
            store.put(one)
            store.commit()
