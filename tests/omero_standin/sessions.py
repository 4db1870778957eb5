"""Users' sessions: who asks, in which group, what they may see and change, and until when."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any

import omero
import omero.model

from tests.omero_standin.graphs import Permissions
from tests.omero_standin.store import Record, Ref, Store

SYSTEM, USER, GUEST = 0, 1, 2
"""Ids of the groups that every server has."""
ROOT = 0


def user_groups(store: Store, user: int) -> dict[int, bool]:
    """Return a user's groups in their order, and whether they lead them."""
    return {
        record.values["parent"].id: bool(record.values.get("owner"))
        for record in store.all("GroupExperimenterMap")
        if record.values["child"].id == user
    }


class Session(Permissions):
    """One session. It lives in the database, so that a server that starts again knows it."""

    def __init__(self, store: Store, record: Record) -> None:
        self._store = store
        self.record = record
        self.servants: dict[str, Any] = {}

    @classmethod
    def start(cls, store: Store, user: int, group: int, idle_s: float) -> Session:
        """Make a new session."""
        now = int(time.time() * 1000)
        values = {
            "uuid": str(uuid.uuid4()),
            "owner": Ref("Experimenter", user),
            "started": now,
            "timeToIdle": int(idle_s * 1000),
            "timeToLive": 0,
        }
        record = store.add("Session", values, user, group)
        store.commit()
        return cls(store, record)

    @property
    def uuid(self) -> str:
        value: str = self.record.values["uuid"]
        return value

    @property
    def user(self) -> int:
        return self.record.owner

    @property
    def group(self) -> int:
        return self.record.group

    @property
    def is_open(self) -> bool:
        return self.record.values.get("closed") is None

    @property
    def is_admin(self) -> bool:
        return SYSTEM in user_groups(self._store, self.user)

    def group_of(self, context: Mapping[str, str]) -> int:
        """Return the group that a call names, else the session's; -1 for all groups."""
        return int(context.get("omero.group", "") or self.group)

    def sees(self, record: Record, group: int) -> bool:
        """Tell whether this session may read a record in a group's context."""
        if record.group == 0 or record.kind in ("Experimenter", "ExperimenterGroup", "GroupExperimenterMap"):
            return True
        if group not in (-1, record.group):
            return False
        if self.is_admin or record.owner == self.user:
            return True
        if record.group not in user_groups(self._store, self.user):
            return False
        return self.mode(record.group)[2] == "r" or self.leads(record.group)

    def leads(self, group: int) -> bool:
        return user_groups(self._store, self.user).get(group, False)

    def mode(self, group: int) -> str:
        """Return a group's permissions, such as ``rwr---``."""
        found = self._store.get("ExperimenterGroup", group)
        return str(found.values.get("permissions", "rw----")) if found else "rw----"

    def may_edit(self, record: Record) -> bool:
        if self.is_admin or record.owner == self.user:
            return True
        return record.group in user_groups(self._store, self.user) and (
            self.leads(record.group) or self.mode(record.group)[3] == "w"
        )

    def may_annotate(self, record: Record) -> bool:
        if record.group == 0 or self.may_edit(record):
            return True
        return record.group in user_groups(self._store, self.user) and self.mode(record.group)[3] in "aw"

    def may_read_binary(self, record: Record) -> bool:
        """Tell whether the original files may be downloaded."""
        return "RESTRICT-BINARY-ACCESS" not in self._restrictions(record)

    def _restrictions(self, record: Record) -> list[str]:
        policy = self.policy
        of_plate = record.kind in ("Plate", "Well", "WellSample") or (
            record.kind == "Image" and self._is_in_well(record)
        )
        return ["RESTRICT-BINARY-ACCESS"] if of_plate and "-plate" in policy else []

    policy = "+read,+write,+image,-plate"
    """As ``omero.policy.binary_access``; a plate's originals are not handed out unless the administrator says so."""

    def _is_in_well(self, image: Record) -> bool:
        from tests.omero_standin import schema

        return bool(self._store.children(image.key, schema.Collection("WellSample", "image")))

    def on(self, record: Record) -> omero.model.PermissionsI:
        """Return an object's permissions as the user gets them."""
        found = omero.model.PermissionsI(self.mode(record.group) if record.group else "rwr-r-")
        edits = record.group != 0 and self.may_edit(record)
        annotates = self.may_annotate(record)
        # Link, edit, delete, annotate, change group, change owner: True is a restriction.
        found._restrictions = [not edits, not edits, not edits, not annotates, not edits, not self.is_admin]
        found._extendedRestrictions = self._restrictions(record)
        return found

    def check_edit(self, record: Record) -> None:
        """Refuse a change that is not allowed.

        Raises
        ------
        omero.SecurityViolation
            If the user may not change the record.
        """
        if record.group != 0 and not self.may_edit(record):
            raise omero.SecurityViolation(None, None, f"Cannot modify {record.kind}:{record.id} of another user")
        if record.group == 0 and not self.is_admin and record.kind != "OriginalFile":
            raise omero.SecurityViolation(None, None, f"Cannot modify {record.kind}:{record.id} of the system")

    def close(self) -> None:
        self.record.values["closed"] = int(time.time() * 1000)
        self._store.put(self.record)
        self._store.commit()
