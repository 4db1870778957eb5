"""Executes a notebook to its end without anybody who looks, as ``openhcs-jupyter batch`` does here and there."""

from __future__ import annotations

import ast
import os
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.kernel.install import install

_KERNEL = "openhcs-batch"
_NEEDED = ("nbclient", "nbconvert")
_TAG, _FILLED_IN = "parameters", "injected-parameters"
FAILED, INTERRUPTED = 1, 130


class Executed(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch leaves."""

    code: int
    """0 if all cells went well, 1 if one failed, 130 if it was interrupted."""
    notebook: str
    """The executed notebook."""
    html: str
    """The same as a page."""


def read_notebook(path: str | Path) -> str:
    """Read a notebook.

    Raises
    ------
    UsageError
        If it cannot be read, or is none.
    """
    file = Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8")
        found = msgspec.json.decode(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"{path} cannot be read: {reason}", "Name a notebook, such as analysis.ipynb.") from None
    except msgspec.DecodeError:
        found = None
    if not isinstance(found, dict) or "cells" not in found:
        raise UsageError(f"{path} is no notebook", "openhcs-jupyter run FILE.py runs a pipeline in a Python file.")
    return text


def parameters_of(pairs: list[list[str]] | None) -> dict[str, object]:
    """Read ``-p NAME VALUE`` pairs: numbers, True, False, None and quoted texts are what Python takes them for.

    Raises
    ------
    UsageError
        If a name cannot be a variable.
    """
    found: dict[str, object] = {}
    for name, text in pairs or []:
        if not name.isidentifier():
            raise UsageError(f"-p {name}: cannot be the name of a variable", "Write -p NAME VALUE.")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        found[name] = value if isinstance(value, int | float | str | None) else text
    return found


def execute(text: str, folder: Path, parameters: Mapping[str, object], write: Callable[[str], None]) -> Executed:
    """Execute a notebook in a kernel of this environment.

    Parameters
    ----------
    text
        The notebook.
    folder
        In which its cells work.
    parameters
        Values for the variables of its cell that is tagged ``parameters``.
    write
        Takes what the cells print, and a line for each cell.

    Raises
    ------
    UsageError
        If what executes notebooks is not installed.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(f"A batch needs {', '.join(missing)}.", "Install: pip install 'openhcs-jupyter[notebook]'.")
    import nbformat
    from nbclient.exceptions import DeadKernelError
    from nbconvert.exporters import HTMLExporter
    from nbconvert.preprocessors import CellExecutionError
    from traitlets.config import Config

    notebook = nbformat.reads(text, as_version=4)
    if parameters:
        _fill_in(notebook, parameters)
    code = 0
    with tempfile.TemporaryDirectory() as prefix:
        install(prefix=prefix, name=_KERNEL)
        earlier = os.environ.get("JUPYTER_PATH")
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [f"{prefix}/share/jupyter", earlier]))
        # Other users of the machine could listen.
        config = Config({"KernelManager": {"transport_encryption": "auto"}})
        executor = _executor(write)(timeout=None, kernel_name=_KERNEL, config=config)
        try:
            executor.preprocess(notebook, {"metadata": {"path": str(folder)}})
        except CellExecutionError as error:
            write(f"{error.ename}: {error.evalue}\n")
            code = FAILED
        except (DeadKernelError, KeyboardInterrupt) as error:
            is_stopped = executor.is_stopped or isinstance(error, KeyboardInterrupt)
            write("Interrupted.\n" if is_stopped else "The kernel has died.\n")
            code = INTERRUPTED if is_stopped else FAILED
        finally:
            if earlier is None:
                del os.environ["JUPYTER_PATH"]
            else:
                os.environ["JUPYTER_PATH"] = earlier
    page, _ = HTMLExporter().from_notebook_node(notebook)
    return Executed(code=code, notebook=nbformat.writes(notebook), html=page)


def _fill_in(notebook: Any, parameters: Mapping[str, object]) -> None:
    """Put a cell with the values behind the one that is tagged; papermill's tags, and its way."""
    import nbformat

    def tags(cell: Any) -> Any:
        return cell.metadata.get("tags", [])

    cells = [cell for cell in notebook.cells if _FILLED_IN not in tags(cell)]
    tagged = next((at for at, cell in enumerate(cells, 1) if _TAG in tags(cell)), 0)
    source = "\n".join(["# Parameters", *(f"{name} = {value!r}" for name, value in parameters.items())])
    cells.insert(tagged, nbformat.v4.new_code_cell(source, metadata={"tags": [_FILLED_IN]}))
    notebook.cells = cells


def _executor(write: Callable[[str], None]) -> Any:
    from nbconvert.preprocessors import ExecutePreprocessor

    class Executor(ExecutePreprocessor):  # type: ignore[misc]  # the base is not typed
        """Says how far it is, and what the cells print."""

        is_stopped = False
        """An interrupt ended the kernel before the last cell."""

        async def _async_cleanup_kernel(self) -> None:
            self.is_stopped = True
            await super()._async_cleanup_kernel()

        def preprocess_cell(self, cell: Any, resources: Any, index: int) -> Any:
            if cell.cell_type == "code" and cell.source.strip():
                write(f"[{index + 1}/{len(self.nb.cells)}] {cell.source.strip().splitlines()[0]}\n")
            return super().preprocess_cell(cell, resources, index)

        def output(self, outs: Any, msg: Any, display_id: str, cell_index: int) -> Any:
            if msg["msg_type"] == "stream":
                write(msg["content"]["text"])
            return super().output(outs, msg, display_id, cell_index)

    return Executor
