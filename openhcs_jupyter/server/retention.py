"""How long jobs that have ended are remembered: so many days, and within what their owner may fill."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.server.accounts import Account
from openhcs_jupyter.server.folders import Folders
from openhcs_jupyter.server.queue import Queue, Record
from openhcs_jupyter.server.settings import ServerSettings

_EVERY_S = 60.0
_AT_A_TIME = 50
_DAY_S = 24 * 3600.0
_GB = 1e9


class Retention:
    """Forgets jobs that have ended, with their events, their code and their folders; runs and results stay."""

    def __init__(
        self,
        settings: ServerSettings,
        queue: Queue,
        folders: Folders,
        account_of: Callable[[str], Account],
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._folders = folders
        self._account_of = account_of
        self._folders_left: SimpleQueue[tuple[str, Account]] = SimpleQueue()
        self._remover: threading.Thread | None = None
        self._swept = -_EVERY_S

    def sweep(self) -> None:
        """Forget jobs that ended long ago, some at a time."""
        now = time.monotonic()
        if not self._settings.keep_days or now - self._swept < _EVERY_S:
            return
        self._swept = now
        for record in self._queue.ended_before(time.time() - self._settings.keep_days * _DAY_S, _AT_A_TIME):
            self._forget(record)

    def has_room(self, owner: str) -> bool:
        """Tell whether an owner may have one more job; those that ended make room, the first ones first."""
        most = self._settings.quota_of(owner).code_gb * _GB
        while most and self._queue.held(owner) >= most:
            ended = self._queue.first_ended(owner, _AT_A_TIME)
            if not ended:
                return False
            for record in ended:
                if self._queue.held(owner) >= most:
                    self._forget(record)
        return True

    def _forget(self, record: Record) -> None:
        self._queue.forget(record)
        with suppress(UsageError):  # the folder of an owner who is not served any more stays
            self._folders_left.put((record.id, self._account_of(record.owner)))
            if self._remover is None:
                # By itself: an owner may have put a million files there.
                self._remover = threading.Thread(target=self._remove, name="openhcs-forget", daemon=True)
                self._remover.start()

    def _remove(self) -> None:
        while True:
            job, account = self._folders_left.get()
            with suppress(OSError):  # what its owner has locked up there stays
                self._folders.remove_job(job, account)
