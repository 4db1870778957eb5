"""How an execution server is set up: its TOML file and the options of ``openhcs-jupyter serve``."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
import platformdirs

from openhcs_jupyter.errors import UsageError

_Count = Annotated[int, msgspec.Meta(ge=0)]
_Amount = Annotated[float, msgspec.Meta(ge=0)]


class Quota(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one owner may have at once; 0 means no limit."""

    queued: _Count = 10_000
    """Jobs that have not ended."""
    code_gb: _Amount = 1.0
    """Source code of all jobs that the server remembers; those that have ended are forgotten to make room."""
    active: _Count = 0
    """Jobs with a process."""
    cores: _Count = 0
    devices: _Count = 0
    """GPUs."""
    shown: _Count = 8
    """Jobs that are shown in viewers; with a further one the earliest is shown no longer."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one job may use; 0 means no limit."""

    memory_gb: _Amount = 0.0
    """Of all its processes together, and of each of them."""
    processes: _Count = 512
    """Processes and threads of the job. Where jobs run under accounts of their own, also of the account."""
    file_gb: _Amount = 0.0
    """Size of one file that it writes."""
    cpu_hours: _Amount = 0.0
    """CPU time of each of its processes."""
    hours: _Amount = 0.0
    """Time from the start of a process of the job."""


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a server, with their defaults."""

    repository: str = "default"
    """Where jobs take their plates from; ``{owner}`` stands for the job's owner."""
    bind: str = "tcp://127.0.0.1:7777"
    """Where clients are waited for; announcements use the next port; port 0 takes free ones."""
    max_workers: _Count = 0
    """Cores leased to jobs at most; 0 takes all that the server may use."""
    state: str = ""
    """Folder of queue, keys and jobs; empty is the account's data folder."""
    owner: str = ""
    """Whom the server serves where there is no account map; empty is its own account, or the user of ``omero://``."""
    accounts: dict[str, str] = {}
    """By owner: the account of this machine under which their jobs run."""
    administrators: tuple[str, ...] = ()
    """Owners that may see and cancel everybody's jobs. OMERO's administrators may, too."""
    quota: Quota = Quota()
    """Of every owner who is not named in `quotas`."""
    quotas: dict[str, Quota] = {}
    limits: Limits = Limits()
    warm: bool = True
    """Keep a process ready for the next job of owners that came lately."""
    keep_days: _Amount = 90.0
    """How long a job that has ended is remembered, with its events and its log; 0 keeps it for good."""
    show_minutes: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    """A job that has ended is shown in viewers until there was none for so long."""
    park_on_stop: bool = False
    """On SIGTERM park jobs, rather than let them finish."""
    metrics: str = ""
    """``ADDRESS:PORT`` on the loopback at which Prometheus may ask."""
    recheck_s: Annotated[float, msgspec.Meta(gt=0)] = 300.0
    """How often OMERO is asked again about a session."""

    def quota_of(self, owner: str) -> Quota:
        """Return what an owner may have at once."""
        return self.quotas.get(owner, self.quota)

    @property
    def folder(self) -> Path:
        """The server's folder."""
        if self.state:
            return Path(self.state).expanduser().absolute()
        return Path(platformdirs.user_data_dir("openhcs-jupyter")) / "server"

    @property
    def is_omero(self) -> bool:
        """Whether clients are known by their sessions with OMERO, rather than by a token."""
        return self.repository.lower().startswith("omero://")


def read_settings(path: Path | None, **given: object) -> ServerSettings:
    """Read a server's settings.

    Parameters
    ----------
    path
        TOML; None takes the defaults.
    given
        What holds instead; None leaves what the file says.

    Raises
    ------
    UsageError
        If the file cannot be read, or a setting is unknown or does not fit; names it.
    """
    values: dict[str, object] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"The server's settings in {path} cannot be read: {error}.") from error
    values |= {name: value for name, value in given.items() if value is not None}
    try:
        return msgspec.convert(values, ServerSettings)
    except msgspec.ValidationError as error:
        known = ", ".join(ServerSettings.__struct_fields__)
        raise UsageError(f"A setting of the server does not fit: {error}.", f"Settings: {known}.") from error
