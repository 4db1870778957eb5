"""A worker process: reads the next unit, computes this one and writes the last, each in a thread of its own."""

from __future__ import annotations

import errno
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress

import cloudpickle
import msgspec

from openhcs_jupyter.engine.calls import StepError, describe, trace_of
from openhcs_jupyter.engine.compute import compute
from openhcs_jupyter.engine.devices.base import DeviceBrokenError, DeviceLostError
from openhcs_jupyter.engine.devices.opening import open_device
from openhcs_jupyter.engine.kernels import Kernels
from openhcs_jupyter.engine.pipes import Pipe
from openhcs_jupyter.engine.program import Failure, Outcome, Program, Work
from openhcs_jupyter.engine.reading import UnitInputs
from openhcs_jupyter.engine.saving import save_pixels
from openhcs_jupyter.engine.status import Status
from openhcs_jupyter.engine.store import File, RunFolder, removed_message
from openhcs_jupyter.engine.waypoints import Keeper, Recorder
from openhcs_jupyter.events import StoredFile
from openhcs_jupyter.repository import Repository, connect

_SWITCH_S = 0.0005
"""After which reading and writing let computing go on; Python's usual 5 ms are a quarter of a short unit."""
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG}


class _Computed:
    """A unit between computing and writing."""

    def __init__(self, inputs: UnitInputs) -> None:
        self.inputs = inputs
        self.files: Mapping[str, File] = {}
        self.made_by: Mapping[str, int] = {}
        self.recorder: Recorder | None = None
        self.failure: Failure | None = None
        self.compute_s = 0.0
        self.is_last = False
        """Whether the process can do no more after it: a kernel broke its device's context."""


def work(connection: int, status: int) -> None:
    """Work until the conductor closes the connection."""
    conductor = Pipe(socket.socket(fileno=connection))
    search_path, working_folder, device, packed = conductor.recv()
    # First of all: the program refers to modules of the user, which are found there.
    sys.path[:] = [*search_path, *(path for path in sys.path if path not in search_path)]
    os.chdir(working_folder)
    try:
        program: Program = cloudpickle.loads(packed)
    except Exception as error:  # noqa: BLE001 - such as a module of the user's that raises when it is imported
        message = f"the steps' functions cannot be loaded in a worker process: {describe(error)}"
        _refuse(conductor, Failure(message=message, traceback=trace_of(error), whole_run=True))
        return
    limit_threads()
    sys.setswitchinterval(_SWITCH_S)
    kernels: Kernels | None = None
    if device is not None:
        try:
            kernels = Kernels(open_device(device))
        except DeviceLostError as error:
            _refuse(conductor, Failure(message=str(error), device_lost=True))
            return
    with connect(program.repository) as repository:
        _Worker(conductor, Status(status), program, repository, kernels).run()


def _refuse(conductor: Pipe, failure: Failure) -> None:
    """Say of the first unit why no unit can be done."""
    work: Work = conductor.recv()
    conductor.send(Outcome(unit=work.unit.id, failure=failure))


class _Worker:
    def __init__(
        self,
        conductor: Pipe,
        status: Status,
        program: Program,
        repository: Repository,
        kernels: Kernels | None,
    ) -> None:
        self._kernels = kernels
        self._counted = (0, 0)
        """Bytes to and from the device that were told."""
        self._conductor = conductor
        self._status = status
        self._program = program
        self._repository = repository
        self._folder = RunFolder(program.run_folder)
        self._keeper = Keeper(self._folder, program.keep_s_per_byte)
        # One unit waits at each door, so that memory stays bounded.
        self._to_compute: queue.Queue[UnitInputs | None] = queue.Queue(1)
        self._to_write: queue.Queue[_Computed | None] = queue.Queue(1)

    def run(self) -> None:
        reader = threading.Thread(target=self._read, name="read", daemon=True)
        writer = threading.Thread(target=self._write, name="write")
        reader.start()
        writer.start()
        while (inputs := self._to_compute.get()) is not None:
            self._to_write.put(self._compute(inputs))
        self._to_write.put(None)
        writer.join()

    def _read(self) -> None:
        while True:
            try:
                work: Work = self._conductor.recv()
            except (EOFError, OSError):
                self._to_compute.put(None)
                return
            inputs = UnitInputs(self._program, work, self._repository, self._kernels)
            inputs.read_ahead()
            self._to_compute.put(inputs)

    def _compute(self, inputs: UnitInputs) -> _Computed:
        unit = inputs.work.unit
        stage = self._program.stages[unit.stage]
        begin = time.monotonic()
        done = _Computed(inputs)
        self._status.note(unit.id, -1, begin)
        try:
            if inputs.failure is not None:
                raise inputs.failure
            if stage.kind == "save":
                save_pixels(self._program, inputs.work, self._repository)
            else:
                done.recorder = self._recorder(inputs)
                computed = compute(
                    self._program, inputs, lambda step: self._status.note(unit.id, step, begin), done.recorder
                )
                done.files, done.made_by = computed.files, computed.made_by
                if computed.error is not None:
                    raise computed.error
        except StepError as error:
            done.failure = Failure(message=error.message, step=error.step, traceback=error.trace)
        except DeviceLostError as error:
            done.failure = Failure(message=str(error), device_lost=True)
        except DeviceBrokenError as error:
            done.failure = Failure(message=f"a kernel crashed on the GPU: {error}")
            done.is_last = True
        except Exception as error:  # noqa: BLE001 - whatever it is, it costs one unit and is reported
            cause = error.__cause__
            no_space = isinstance(cause, OSError) and cause.errno in _NO_SPACE and stage.kind == "save"
            done.failure = Failure(message=_told(error), traceback=trace_of(error), whole_run=no_space)
        done.compute_s = time.monotonic() - begin
        self._status.note(-1, -1, 0.0)
        return done

    def _recorder(self, inputs: UnitInputs) -> Recorder | None:
        work = inputs.work
        stage = self._program.stages[work.unit.stage]
        if not work.keep or not stage.ways:
            return None
        steps = [self._program.steps[index] for index in stage.steps]
        return Recorder(self._keeper, work.key, stage.ways, steps, len(inputs.fields) * inputs.size_t)

    def _write(self) -> None:
        while (done := self._to_write.get()) is not None:
            begin = time.monotonic()
            inputs = done.inputs
            stored: tuple[StoredFile, ...] = ()
            failure = done.failure
            if failure is None:
                try:
                    stored = self._folder.commit(inputs.work.key, done.files, inputs.verify)
                except OSError as error:
                    failure = self._write_failure(error)
                except DeviceLostError as error:
                    failure = Failure(message=str(error), device_lost=True)
                except Exception as error:  # noqa: BLE001 - such as a table that Arrow cannot hold
                    failure = Failure(message=_told(error), traceback=trace_of(error))
            waypoints = None
            if done.recorder is not None:
                results = None if failure is not None else self._folder.units / inputs.work.key
                if results is None:
                    done.recorder.broken |= _has_changed(inputs)
                waypoints = done.recorder.finish(results, done.files, done.made_by)
            inputs.close()
            outcome = Outcome(
                unit=inputs.work.unit.id,
                failure=failure,
                files=stored,
                read_s=inputs.read_s,
                compute_s=done.compute_s,
                write_s=time.monotonic() - begin,
                bytes_read=inputs.bytes_read,
                steps_kept=inputs.steps_kept,
                waypoints=waypoints,
            )
            with suppress(OSError):  # the conductor is gone, and this process will be in a moment
                self._conductor.send(self._with_device(outcome))
            if done.is_last:
                os._exit(1)  # another process does what this one still holds

    def _with_device(self, outcome: Outcome) -> Outcome:
        """Tell with a unit what its device had to tell."""
        if self._kernels is None:
            return outcome
        device = self._kernels.device
        before, self._counted = self._counted, (device.bytes_up, device.bytes_down)
        up, down = (now - then for now, then in zip(self._counted, before, strict=True))
        return msgspec.structs.replace(outcome, bytes_up=up, bytes_down=down, notices=device.take_notices())

    def _write_failure(self, error: OSError) -> Failure:
        if not self._folder.units.is_dir():
            return Failure(message=removed_message(self._folder), whole_run=True)
        where = error.filename or error.filename2 or self._folder.path
        message = f"{where}: {error.strerror or error}"
        return Failure(message=message, traceback=trace_of(error), whole_run=error.errno in _NO_SPACE)


def _has_changed(inputs: UnitInputs) -> bool:
    """Tell whether images are no longer as they were read, so that nothing that was made of them may stay."""
    try:
        inputs.verify()
    except Exception:  # noqa: BLE001 - whatever keeps it from being told
        return True
    return False


def _told(error: BaseException) -> str:
    from openhcs_jupyter.errors import OpenHCSError

    return str(error) if isinstance(error, OpenHCSError) else describe(error)


def limit_threads() -> None:
    """Keep libraries to one thread each: there is a worker for every core."""
    cv2 = sys.modules.get("cv2")
    if cv2 is not None:
        cv2.setNumThreads(1)
