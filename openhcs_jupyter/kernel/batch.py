"""``openhcs-jupyter batch``: a notebook is executed here or beside the data, and comes back executed, with a page."""

from __future__ import annotations

import codecs
import io
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from openhcs_jupyter.errors import RemoteError, UsageError
from openhcs_jupyter.kernel.executing import Executed, execute, read_notebook
from openhcs_jupyter.kernel.jobs import MARK, Order, Result
from openhcs_jupyter.kernel.remote import quoted, remote_kernel
from openhcs_jupyter.kernel.ssh import Host

_AGAIN_S = (0.5, 1.0, 2.0, 5.0, 10.0)
_UNREACHED, _UNKNOWN = 255, 2
_FETCH_S = 600.0

Write = Callable[[str], None]


def batch_here(notebook: str, output: Path, parameters: dict[str, object], write: Write) -> int:
    """Execute a notebook on this machine, in its own folder.

    Parameters
    ----------
    notebook
        Path of the notebook.
    output
        Folder of what comes back.
    parameters
        By name.
    write
        Takes what the cells print.

    Returns
    -------
    int
        Exit code.

    Raises
    ------
    UsageError
        If it is no notebook, or what executes it is not installed.
    """
    path = Path(notebook).expanduser()
    executed = execute(read_notebook(path), path.resolve().parent, parameters, write)
    _keep(executed, output, path.stem, write)
    return executed.code


class RemoteBatch:
    """A notebook that is executed on the machine of a remote kernel.

    Parameters
    ----------
    kernel
        Name of the remote kernel.
    write
        Takes what the cells print.

    Raises
    ------
    UsageError
        If there is no such kernel.
    """

    def __init__(self, kernel: str, write: Write) -> None:
        found = remote_kernel(kernel)
        self._host = Host(found.host, "batch")
        self._python = quoted(found.python)
        self._write = write

    def start(self, notebook: str, parameters: dict[str, object]) -> str:
        """Begin, and return the batch's id.

        Raises
        ------
        UsageError
            If it is no notebook.
        RemoteError
            If the machine is not reached, or lacks an installation.
        """
        order = {"name": Path(notebook).stem, "notebook": read_notebook(notebook), "parameters": parameters}
        given = msgspec.json.encode(msgspec.convert(order, Order)) + b"\n"
        said = self._host.run(self._script("start"), given=given, timeout=_FETCH_S)
        return _marked(said, self._host.name)

    def follow(self, job: str) -> int:
        """Show what the cells print until the batch ends, however often the connection is cut; returns its exit code.

        Raises
        ------
        RemoteError
            If there is no such batch.
        """
        got, tries = 0, 0
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        while True:
            before = got
            command = self._host.command(self._script("follow", job, str(got)))
            with subprocess.Popen(  # noqa: S603 - our own words, and no shell
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                start_new_session=True,
            ) as process:  # fmt: skip
                try:
                    assert isinstance(process.stdout, io.BufferedReader)
                    while (line := process.stdout.readline()) and line.rstrip() != MARK.strip().encode():
                        pass  # what a login prints
                    while piece := process.stdout.read1(1 << 16):
                        got += len(piece)
                        self._write(decoder.decode(piece))
                except BaseException:
                    process.kill()
                    raise
            if process.returncode == _UNKNOWN:
                raise RemoteError(f"There is no batch {job} on {self._host.name}.")
            if process.returncode not in (_UNREACHED, -9, -15):
                return process.returncode
            tries = 0 if got > before else tries + 1
            if tries == 1:
                self._write(f"{self._host.name} is not reached; the batch {job} goes on there.\n")
            time.sleep(_AGAIN_S[min(tries, len(_AGAIN_S) - 1)])

    def fetch(self, job: str, output: Path) -> None:
        """Bring back what a batch that has ended made.

        Raises
        ------
        RemoteError
            If it cannot be had.
        """
        said = self._host.run(self._script("fetch", job), timeout=_FETCH_S)
        result = msgspec.json.decode(_marked(said, self._host.name), type=Result)
        _keep(result.executed, output, Path(result.name).name, self._write)
        with suppress(RemoteError):  # it is here; there it costs some room until somebody looks
            self._host.run(self._script("forget", job))
        if result.left:
            self._write(f"What the cells wrote is in {self._host.name}:{result.left}\n")

    def stop(self, job: str) -> None:
        """Interrupt a batch."""
        self._host.run(self._script("stop", job))

    def close(self) -> None:
        """End the connection."""
        self._host.leave()

    def _script(self, *words: str) -> str:
        return " ".join(["exec", self._python, "-m", "openhcs_jupyter.kernel.jobs", *map(quoted, words)])


def batch_there(
    kernel: str,
    notebook: str | None,
    job: str | None,
    output: Path,
    parameters: dict[str, object],
    write: Write,
    *,
    detach: bool,
) -> int:
    """Execute a notebook on the machine of a remote kernel, or go on with a batch there.

    An interrupt stops the batch. A batch goes on when the connection is cut, or this process is killed.

    Parameters
    ----------
    kernel
        Name of the remote kernel.
    notebook
        Path of the notebook; None for a batch that runs already.
    job
        Id of that batch.
    output
        Folder of what comes back.
    parameters
        By name.
    write
        Takes what the cells print.
    detach
        Only begin.

    Returns
    -------
    int
        Exit code.

    Raises
    ------
    UsageError
        If neither or both are named.
    RemoteError
        If the machine is not reached at first.
    """
    if (notebook is None) == (job is None):
        raise UsageError("batch takes a notebook, or --attach and the id of a batch", "Name one of them.")
    batch = RemoteBatch(kernel, write)
    try:
        if notebook is not None:
            job = batch.start(notebook, parameters)
            write(f"Batch {job} on {kernel}. Follow it: openhcs-jupyter batch --remote {kernel} --attach {job}\n")
        assert job is not None
        if detach:
            return 0
        try:
            code = batch.follow(job)
        except KeyboardInterrupt:
            batch.stop(job)
            code = batch.follow(job)
        batch.fetch(job, output)
        return code
    finally:
        batch.close()


def _keep(executed: Executed, output: Path, stem: str, write: Write) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for path, text in ((f"{stem}.executed.ipynb", executed.notebook), (f"{stem}.executed.html", executed.html)):
        partial = output / f".{path}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(output / path)
        write(f"{output / path}\n")


def _marked(said: bytes, host: str) -> str:
    for line in said.decode(errors="replace").splitlines():
        if line.startswith(MARK):
            return line.removeprefix(MARK)
    raise RemoteError(f"{host} does not do batches.", "openhcs-jupyter doctor --remote looks there.")
