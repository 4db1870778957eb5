"""What starting costs: importing the package, and the extension in a kernel."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.processes import environment
from benchmarks.report import median_ratio, report

if TYPE_CHECKING:
    from collections.abc import Sequence

GOALS = {"import_ratio": ("<=", 0.25), "extension_seconds": ("<=", 0.3)}

_IMPORTS = {
    "ours": "import openhcs_jupyter",
    "public names": "from openhcs_jupyter import *",
    "usual": "import skimage.filters, pandas",
}
_KERNELS = {"plain": (), "extension": ("--IPKernelApp.extra_extensions=openhcs_jupyter",)}


def imports(repeats: int) -> dict[str, float]:
    """Time imports in fresh processes, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in _IMPORTS}
    for repeat in range(repeats + 1):
        for name, statement in _IMPORTS.items():
            code = f"import time; start = time.perf_counter()\n{statement}\nprint(time.perf_counter() - start)"
            done = subprocess.run(
                [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
            )
            if repeat:  # the first round fills the disk's cache
                seconds[name].append(float(done.stdout))
    return {
        "import_ratio": median_ratio(seconds["ours"], seconds["usual"]),
        "names_ratio": median_ratio(seconds["public names"], seconds["usual"]),
        "import_seconds": statistics.median(seconds["ours"]),
    }


def kernels(repeats: int) -> dict[str, float]:
    """Time kernels from their start to their first answer, without and with the extension, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in _KERNELS}
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in _KERNELS.items():
            _write_kernelspec(Path(folder) / "kernels" / name, arguments)
        os.environ |= environment({"JUPYTER_PATH": folder})
        for repeat in range(repeats + 1):
            for name in _KERNELS:
                taken = _first_answer(name)
                if repeat:
                    seconds[name].append(taken)
    added = (b - a for a, b in zip(seconds["plain"], seconds["extension"], strict=True))
    return {"extension_seconds": statistics.median(added), "kernel_seconds": statistics.median(seconds["plain"])}


def _write_kernelspec(folder: Path, arguments: Sequence[str]) -> None:
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", *arguments]
    (folder / "kernel.json").write_text(
        json.dumps({"argv": command, "display_name": folder.name, "language": "python"})
    )


def _first_answer(name: str) -> float:
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name=name)
    start = time.perf_counter()
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        reply = client.execute("pass", reply=True, timeout=60)
        taken = time.perf_counter() - start
        if reply["content"]["status"] != "ok":
            raise RuntimeError(f"the kernel {name} failed: {reply['content']}")
        loaded = "'openhcs' in get_ipython().magics_manager.magics['cell']"
        check = client.execute(f"assert ({loaded}) == {name == 'extension'}", reply=True, timeout=60)
        if check["content"]["status"] != "ok":
            raise RuntimeError(f"the kernel {name} does not have the magics that it should: {check['content']}")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one repeat: shows that it runs")
    options = parser.parse_args()
    figures = imports(1 if options.quick else 9)
    figures |= kernels(1 if options.quick else 11)
    report("startup", figures, GOALS)


if __name__ == "__main__":
    main()
