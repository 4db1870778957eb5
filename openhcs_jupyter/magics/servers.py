"""The execution servers that one kernel or command is connected to, and the profiles behind them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from openhcs_jupyter.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from openhcs_jupyter.client import Profile, RemoteOrchestrator, RemoteRun


class Servers:
    """Connections to execution servers, made when they are first needed and kept.

    Parameters
    ----------
    password
        Returns what asks a user of OMERO for the password; None where nobody can be asked.
    """

    def __init__(self, password: Callable[[], Callable[[str], str] | None] = lambda: None) -> None:
        self._password = password
        self._known: dict[str, RemoteOrchestrator] = {}

    def get(self, name: str | None) -> RemoteOrchestrator:
        """Return the connection to a server: of a profile's name, else of the setting ``server``, else the only one.

        Raises
        ------
        UsageError
            If there is no such profile.
        RepositoryError
            If OMERO, with whose session the user proves who it is, cannot be reached.
        """
        from openhcs_jupyter.client import RemoteOrchestrator
        from openhcs_jupyter.client.profiles import find_profile
        from openhcs_jupyter.config import load_settings

        profile = find_profile(name or load_settings().server)
        known = self._known.get(profile.name)
        if known is None or known.profile != profile:
            if known is not None:
                known.close()
            known = self._known[profile.name] = RemoteOrchestrator(profile=profile, password=self._password())
        return known

    def job(self, name: str | None, job: str | None) -> RemoteRun:
        """Return a job of a server, or the latest one.

        Raises
        ------
        UsageError
            If there are none, or there is no such profile.
        ServerError
            If there is no such job, or the server cannot be reached.
        """
        server = self.get(name)
        if job:
            return server.attach(job)
        jobs = server.jobs(limit=1)
        if not jobs:
            raise UsageError(f"You have no jobs on {server.name}", "%%openhcs --server makes one.")
        return server.run_of(jobs[0])

    def close(self) -> None:
        """End all connections; jobs go on."""
        for one in self._known.values():
            one.close()


def as_job(run: object) -> RemoteRun | None:
    """Return a run as the job that it is, or None; imports nothing where there are no jobs."""
    module = sys.modules.get("openhcs_jupyter.client.run")
    job: RemoteRun | None = run if module is not None and isinstance(run, module.RemoteRun) else None
    return job


def add_profile(arguments: argparse.Namespace) -> Profile:
    """Keep the profile that ``server add`` describes.

    Raises
    ------
    UsageError
        If something is missing, or does not fit.
    """
    from openhcs_jupyter.client import save_profile
    from openhcs_jupyter.client.profiles import profile_of, profile_of_folder
    from openhcs_jupyter.errors import StreamError
    from openhcs_jupyter.server.identity import read_token
    from openhcs_jupyter.streaming.keys import read_invitation

    how = "server add NAME LINE --token FILE, or --omero URI; on the server's machine: server add NAME --folder FOLDER"
    if not arguments.name or bool(arguments.line) == bool(arguments.folder):
        raise UsageError("A server's name and its line, or its folder, are needed", how)
    omero = arguments.omero or ""
    if arguments.folder:
        profile = profile_of_folder(arguments.name, Path(arguments.folder).expanduser(), omero=omero)
    else:
        try:
            invitation = read_invitation(arguments.line)
        except StreamError as error:
            raise UsageError(error.message, f"openhcs-jupyter serve prints the line. {how}") from None
        token = read_token(Path(arguments.token).expanduser()) if arguments.token else ""
        profile = profile_of(arguments.name, invitation, token=token, omero=omero)
    save_profile(profile)
    return profile
