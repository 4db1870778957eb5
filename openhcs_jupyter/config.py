"""Settings: defaults, then the user's file, then the environment; each later one wins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import platformdirs

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.files import write_whole

_APP = "openhcs-jupyter"
_PREFIX = "OPENHCS_"
ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"),
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
"""Variables that keep libraries to one thread, for workers, of which there is one for each core, and for processes that
fork them; read by libraries when they are loaded."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings, with their defaults. In the environment each is ``OPENHCS_`` and its name in capitals."""

    repository: str = "default"
    """What ``%openhcs connect`` joins when nothing is named: a folder, ``default`` or ``demo``."""
    workers: int = 0
    """Worker processes; 0 takes one for each core that the process may use."""
    memory_gb: float = 0.0
    """Memory that a run may use; 0 takes 80 % of what is free."""
    unit_timeout_s: float = 3600.0
    """A unit that takes longer is stopped and reported; 0 waits for ever."""
    save: bool = False
    """Write results into the repository unless ``--no-save`` is given."""
    cache_gb: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """What a repository's store of runs may hold; 0 takes half of the disk that is free without it."""
    spare_gb: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """What stays free of the disk when states between steps are kept; 0 takes a twentieth of it, 10 GB at most."""
    viewer_host: str = ""
    """Where a listening viewer runs, as OpenHCS calls it; ``--view`` shows runs there."""
    viewer_port: int = 5555
    """Its port; announcements use the next one."""
    stream_host: str = "127.0.0.1"
    """Address at which kernels wait for viewers; anything but the loopback lets other machines come, with a key."""
    stream_port: int = 0
    """Port at which they wait; announcements use the next one; 0 takes free ones."""
    omero_binary_repository: str = ""
    """OMERO's data directory, where this account may read it, so that pixels are read in place."""
    omero_broker: str = ""
    """Socket of the broker that opens files of OMERO's data directory, where another account may read it."""
    omero_labels: Literal["masks", "polygons"] = "masks"
    """As what labels are written into OMERO: ``masks`` are exact, ``polygons`` are outlines that can be edited."""
    omero_zarr_results: str = ""
    """Folder that OMERO.server sees under the same path: images of results become OME-Zarr there, if it serves that."""
    scheduler: str = ""
    """Where runs are done: empty is this machine; else Dask: ``tcp://HOST:PORT``, ``local`` or ``slurm``."""
    server: str = ""
    """Profile of the execution server that is meant where none is named; empty is the only one."""
    data_dir: str = ""
    """Where the default and demo repositories lie; empty is the user's data folder."""


def config_file() -> Path:
    """Return the path of the user's settings file."""
    return Path(platformdirs.user_config_dir(_APP)) / "config.toml"


def load_settings() -> Settings:
    """Read the settings as they hold now.

    Raises
    ------
    UsageError
        If the file or a variable has an unknown name or a value that does not fit; names it.
    """
    path = config_file()
    values = _kept(path)
    for name in Settings.__struct_fields__:
        if (text := os.environ.get(_PREFIX + name.upper())) is not None:
            values[name] = text
    return _checked(values, str(path))


def save_setting(name: str, text: str) -> Settings:
    """Write one setting into the user's file, which keeps its comments, and return all settings.

    Raises
    ------
    UsageError
        If there is no such setting, `text` does not fit it, or the file cannot be read.
    """
    import tomlkit

    path = config_file()
    value = getattr(_checked(_kept(path) | {name: text}, str(path)), name)
    document = tomlkit.parse(path.read_bytes()) if path.exists() else tomlkit.document()
    document[name] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, tomlkit.dumps(document).encode())
    return load_settings()


def data_dir(settings: Settings) -> Path:
    """Return the folder in which the default and demo repositories lie."""
    return Path(settings.data_dir).expanduser() if settings.data_dir else Path(platformdirs.user_data_dir(_APP))


def _kept(path: Path) -> dict[str, Any]:
    """Read what the user's file holds."""
    if not path.exists():
        return {}
    import tomllib

    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}", "Mend the file or remove it.") from error


def _checked(values: dict[str, Any], where: str) -> Settings:
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(Settings.__struct_fields__)
        raise UsageError(
            f"A setting does not fit: {error} (from {where} or the environment)", f"Settings: {known}."
        ) from error
