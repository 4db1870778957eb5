"""What is run of a plate, and how: the options that cells, the command line and the execution server share."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.model import ImageKind

DEFAULT_NAME = "run"


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked for on the first line of a cell, or on a command line."""

    name: str = DEFAULT_NAME
    plate: str | None = None
    """Id or name."""
    wells: str | None = None
    fields: str | None = None
    channels: str | None = None
    source: ImageKind = "stack"
    skip_missing: bool = False
    preview: str | None = None
    """A well whose first field is run without saving."""
    dry_run: bool = False
    save: bool | None = None
    """None: as the settings say."""
    on_error: Literal["continue", "stop"] = "continue"
    workers: int | None = None
    device: str = "auto"
    """``auto``, ``cpu``, ``gpu``, or one of them: ``gpu:1``."""
    scheduler: str | None = None
    """Of Dask; None: as the settings say."""
    server: str | None = None
    """Profile of the execution server that runs it as a job; None runs it here."""
    priority: int = 0
    """Of a job, among its owner's."""
    resume: str | None = None
    """``last`` or a run's id."""
    force: bool = False
    background: bool = False
    view: bool = False
    """Show the results in a viewer as they arrive."""
    quiet: bool = False
    help: bool = False

    def given(self) -> dict[str, str | int | float | bool | list[str] | None]:
        """Return what differs from the defaults, for the record of the run."""
        default = RunOptions()
        return {
            name: value
            for name in self.__struct_fields__
            if (value := getattr(self, name)) != getattr(default, name) or name == "name"
        }


def checked(options: RunOptions) -> RunOptions:
    """Return options whose values fit, alone and together.

    Raises
    ------
    UsageError
        If they do not; names the option.
    """
    if not re.fullmatch(r"auto|cpu|gpu(:\d+)?", options.device):
        raise UsageError(
            f"--device {options.device}: there is no such device", "Devices are auto, cpu, gpu, gpu:0, gpu:1, ..."
        )
    if options.workers is not None and options.workers < 1:
        raise UsageError(
            f"--workers {options.workers}: a run needs at least one worker", "Leave --workers out to use all cores."
        )
    if options.preview and options.save:
        raise UsageError("--preview and --save exclude each other", "A preview is one field; nothing of it is saved.")
    if options.preview and (options.wells or options.fields):
        raise UsageError("--preview chooses the well and field itself", "Leave out --wells and --fields.")
    if options.resume and options.force:
        raise UsageError("--resume and --force exclude each other", "--resume keeps what is there, --force does not.")
    if not -100 <= options.priority <= 100:
        raise UsageError(f"--priority {options.priority} does not fit", "Priorities are from -100 to 100.")
    return options
