"""What stands between a unit's steps: kept behind the run where it cost clearly more to compute than it costs to keep.

A waypoint is the state of a unit after one of its steps: its images as far as steps changed them, and what the steps
have put out. A later run whose pipeline is the same up to that step goes on from there.
"""

from __future__ import annotations

import os
import queue
import shutil
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from openhcs_jupyter.compiler.plan import PlannedStep
from openhcs_jupyter.engine.devices.base import OnDevice
from openhcs_jupyter.engine.images import Images, Key, Pixels, Stack
from openhcs_jupyter.engine.store import File, RunFolder, link, write_array, write_file
from openhcs_jupyter.events import StoredFile

DISK_BYTES_PER_S = 250e6
"""What all workers together may give to a disk that others use, too; reading back is as fast or faster."""
_LEAST_S = 0.002
"""What the files of a waypoint cost beside their bytes."""
_WORTH = 1.3
"""So many times what keeping costs must be saved by it: little of what is kept is ever asked for."""
_TELLING_BYTES = 1_000_000
_WAITING = 2
_LATEST = 15
_MANIFEST = "waypoints.json"


class KeptStack(msgspec.Struct, frozen=True, array_like=True):
    """One stack along z that steps have changed."""

    field: int
    t: int
    channel: str
    slices: tuple[int, ...]
    file: StoredFile


class Waypoint(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a unit after one of its steps."""

    step: int
    """Position of the step in its stage."""
    fields: tuple[int, ...]
    size_t: int
    stacks: tuple[KeptStack, ...]
    outputs: tuple[StoredFile, ...]
    """What the steps up to here have put out, under the names of a unit's results."""


class Start(msgspec.Struct, frozen=True):
    """Where a unit finds the waypoint from which it can go on."""

    place: Path
    way: str
    """Identity of the work up to it, as the plan's stages tell it."""

    def read(self) -> Waypoint | None:
        """Read it; None if it is gone or not whole, so that the unit starts from its images."""
        try:
            known = msgspec.json.decode((self.place / _MANIFEST).read_bytes(), type=dict[str, Waypoint])
            waypoint = known[self.way]
            for file in (*waypoint.outputs, *(stack.file for stack in waypoint.stacks)):
                if (self.place / file.name).stat().st_size != file.size:
                    return None
        except (OSError, KeyError, msgspec.MsgspecError):
            return None
        return waypoint


class KeptWaypoints(msgspec.Struct, frozen=True, kw_only=True):
    """What a unit has kept on its way."""

    ways: tuple[str, ...]
    """Identities of the work up to each waypoint."""
    bytes: int
    """Of its own files; what it shares with the unit's results is not counted."""
    seconds: float
    """What it cost to compute."""


class Keeper:
    """Writes waypoints in a thread of its own; one for each worker process.

    Parameters
    ----------
    folder
        The run's folder.
    s_per_byte
        What it costs to keep a byte.
    """

    def __init__(self, folder: RunFolder, s_per_byte: float) -> None:
        self.folder = folder
        self.s_per_byte = s_per_byte
        self._least = s_per_byte
        self.calls: dict[int, deque[float]] = {}
        """By step: seconds of its latest calls."""
        self._queue: queue.Queue[tuple[Path, Pixels, Recorder] | threading.Event] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None

    def write(self, path: Path, array: Pixels, recorder: Recorder) -> None:
        """Have an array written; waits while the disk is behind, so that memory stays bounded."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="keep", daemon=True)
            self._thread.start()
        self._queue.put((path, array, recorder))

    def wait(self) -> None:
        """Wait until all that was handed over is written."""
        if self._thread is not None:
            done = threading.Event()
            self._queue.put(done)
            done.wait()

    def _work(self) -> None:
        while True:
            item = self._queue.get()
            if isinstance(item, threading.Event):
                item.set()
                continue
            path, array, recorder = item
            begin = time.perf_counter()
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_file(path, write_array([array]))
            except OSError:
                # A full disk costs the waypoint; the unit's own results tell of it if they do not fit either.
                recorder.broken = True
            # A disk that is slower than was thought makes keeping dearer; small files tell nothing of it.
            if array.nbytes >= _TELLING_BYTES:
                took = (time.perf_counter() - begin) / array.nbytes
                self.s_per_byte = max(self._least, 0.9 * self.s_per_byte + 0.1 * took)
            del item, array


class _Written(NamedTuple):
    array: weakref.ref[Pixels]
    file: str


class _Passed(NamedTuple):
    key: Key
    slices: tuple[int, ...]
    file: str


class Recorder:
    """Decides for one unit what is kept on its way, and gathers it.

    A step's state is kept if the steps since the last one that was kept took clearly longer than writing it takes.

    Parameters
    ----------
    keeper
        Of the worker.
    unit
        The unit.
    key
        Name of its folder.
    ways, steps
        Of its stage.
    sites
        Fields times time points of the unit.
    """

    def __init__(self, keeper: Keeper, key: str, ways: Sequence[str], steps: Sequence[PlannedStep], sites: int) -> None:
        self.broken = False
        self._keeper = keeper
        self._key = key
        self._sites = sites
        self._ways = ways
        self._steps = steps
        self._partial = keeper.folder.waypoints / f".{key}.{os.getpid()}"
        self._seconds: dict[int, float] = {}
        self._calls: dict[int, int] = {}
        self._decided: dict[int, bool] = {}
        self._stacks: dict[int, list[_Passed]] = {}
        self._shapes: dict[int, tuple[tuple[int, ...], int]] = {}
        self._written: dict[Key, _Written] = {}
        self._links: dict[str, Path] = {}
        self._count = 0

    def timed(self, step: int, seconds: float) -> None:
        """Take the time of one call of a step's function."""
        self._seconds[step] = self._seconds.get(step, 0.0) + seconds
        self._calls[step] = self._calls.get(step, 0) + 1
        self._keeper.calls.setdefault(step, deque(maxlen=_LATEST)).append(seconds)

    def found(self, key: Key, stack: Stack, path: Path) -> None:
        """Take a stack of the waypoint from which the unit goes on: it is linked rather than written again."""
        assert not isinstance(stack.array, OnDevice)  # it is a map of the file
        file = f"stack.{self._count}.npy"
        self._count += 1
        self._links[file] = path
        self._written[key] = _Written(weakref.ref(stack.array), file)

    def passed(self, position: int, key: Key, stack: Stack) -> None:
        """Take a stack, changed by some step, as it is after the step at a position."""
        if self.broken or self._decided.get(position) is False:
            return
        array = stack.array
        if isinstance(array, OnDevice):
            self._decided[position] = False  # to fetch it would cost the run
            return
        written = self._written.get(key)
        file = written.file if written is not None and written.array() is array else None
        if not self._decide(position, 0 if file else array.nbytes * self._stacks_up_to(position)):
            return
        if file is None:
            if not array.flags.c_contiguous:
                # Read back it would lie in memory otherwise, and sums might differ in their last digit.
                self.broken = True
                return
            file = f"stack.{self._count}.npy"
            self._count += 1
            self._keeper.write(self._partial / file, array, self)
            self._written[key] = _Written(weakref.ref(array), file)
        self._stacks.setdefault(position, []).append(_Passed(key, stack.slices, file))

    def ended(self, positions: Sequence[int], images: Images | None) -> None:
        """Note that all stacks have passed some positions."""
        for position in positions:
            if not self.broken and self._decide(position, 0):
                self._shapes[position] = (images.fields, len(images.times)) if images is not None else ((), 1)

    def finish(
        self, results: Path | None, files: Mapping[str, File], made_by: Mapping[str, int]
    ) -> KeptWaypoints | None:
        """Make the waypoints visible, all at once.

        Parameters
        ----------
        results
            Folder of the unit's results, whose files are shared; None if the unit failed.
        files
            Its results by name, which are written where it failed.
        made_by
            Position of the step that made each.
        """
        positions = sorted(self._shapes)
        if not positions:
            if self._count:
                self._remove()
            return None
        self._keeper.wait()
        if self.broken:
            self._remove()
            return None
        try:
            self._partial.mkdir(parents=True, exist_ok=True)
            outputs: dict[str, StoredFile] = {}
            own = 0
            for name, file in files.items():
                if made_by[name] <= positions[-1]:
                    target = self._partial / name
                    if results is not None:
                        link(results / name, target)
                    else:
                        own += write_file(target, file)
                    outputs[name] = StoredFile(name, target.stat().st_size)
            names = {passed.file for position in positions for passed in self._stacks.get(position, ())}
            for name in names & self._links.keys():
                link(self._links[name], self._partial / name)
            stacks = {name: StoredFile(name, (self._partial / name).stat().st_size) for name in names}
            own += sum(file.size for file in stacks.values())
            manifest = {
                self._ways[position]: self._waypoint(position, stacks, outputs, made_by) for position in positions
            }
            (self._partial / _MANIFEST).write_bytes(msgspec.json.encode(manifest))
            place = self._keeper.folder.waypoints / self._key
            shutil.rmtree(place, ignore_errors=True)
            self._partial.rename(place)
        except OSError:
            self._remove()
            return None
        last = {step.index for step in self._steps[: positions[-1] + 1]}
        seconds = sum(seconds for step, seconds in self._seconds.items() if step in last)
        return KeptWaypoints(ways=tuple(manifest), bytes=own, seconds=seconds)

    def _waypoint(
        self,
        position: int,
        stacks: Mapping[str, StoredFile],
        outputs: Mapping[str, StoredFile],
        made_by: Mapping[str, int],
    ) -> Waypoint:
        fields, size_t = self._shapes[position]
        return Waypoint(
            step=position,
            fields=fields,
            size_t=size_t,
            stacks=tuple(
                KeptStack(*passed.key, passed.slices, stacks[passed.file]) for passed in self._stacks.get(position, ())
            ),
            outputs=tuple(file for name, file in outputs.items() if made_by[name] <= position),
        )

    def _decide(self, position: int, size: int) -> bool:
        known = self._decided.get(position)
        if known is None:
            before = max((at for at, kept in self._decided.items() if kept and at < position), default=-1)
            spent = sum(self._expected(step) for step in self._steps[before + 1 : position + 1])
            known = self._decided[position] = spent >= _WORTH * size * self._keeper.s_per_byte + _LEAST_S
        return known

    def _expected(self, step: PlannedStep) -> float:
        """Expect what a step takes in this unit: a step along z may have seen few of its stacks yet."""
        calls = self._keeper.calls.get(step.index)
        if not calls:
            return 0.0
        if step.kind == "table" or step.stack != "z":
            return self._seconds.get(step.index, 0.0)
        # A call that sets something up, or that others kept from the core, says little of the next one.
        return sorted(calls)[(len(calls) - 1) // 2] * self._sites * len(step.channels)

    def _stacks_up_to(self, position: int) -> int:
        """Tell how many stacks may have been changed up to a position."""
        steps = self._steps[: position + 1]
        return self._sites * len({channel for step in steps if step.kind != "table" for channel in step.channels})

    def _remove(self) -> None:
        if self._count:
            self._keeper.wait()
        shutil.rmtree(self._partial, ignore_errors=True)
