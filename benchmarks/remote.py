"""What a kernel behind SSH costs beside one on this machine: a cell's round trip, start, interrupt, shutdown."""

from __future__ import annotations

import argparse
import os
import statistics
import time

from benchmarks.report import median_ratio, report
from openhcs_jupyter.kernel import install
from tests.engine.bench import until
from tests.jupyter import Kernel
from tests.kernel.lab import lab, started

GOALS = {"cell_round_trip": ("<=", 3)}
_CELLS = {"cell": "1 + 1", "print": "print('x' * 1000)", "line": "%openhcs config workers"}
_WARM = 20


def round_trip(kernel: Kernel, cell: str) -> float:
    """Time a cell, from its request until its reply and all of its output are here."""
    start = time.perf_counter()
    kernel.run(cell)
    kernel.client.get_shell_msg(timeout=10)
    return time.perf_counter() - start


def compare(here: Kernel, there: Kernel, cell: str, repeats: int) -> tuple[float, float]:
    """Return the median ratio of the round trips, and the milliseconds there."""
    for kernel in (here, there):
        for _ in range(_WARM):
            round_trip(kernel, cell)
    rounds = [(round_trip(there, cell), round_trip(here, cell)) for _ in range(repeats)]
    far, near = ([each[side] for each in rounds] for side in (0, 1))
    print(f"  {cell!r}: {1e3 * statistics.median(far):.2f} ms through ssh, {1e3 * statistics.median(near):.2f} ms here")
    return median_ratio(far, near), 1e3 * statistics.median(far)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds: shows that it runs")
    options = parser.parse_args()
    repeats = 10 if options.quick else 300
    with lab() as made:
        os.environ.update(made.environment)
        made.install()
        install(prefix=made.prefix)
        begun = time.perf_counter()
        with started("openhcs-lab") as there:
            figures = {"start_seconds": time.perf_counter() - begun}
            until(lambda: there.manager.provisioner.tunnel.is_linked, "the line to the kernel")
            begun = time.perf_counter()
            with started("openhcs") as here:
                figures["start_seconds_here"] = time.perf_counter() - begun
                for name, cell in _CELLS.items():
                    ratio, milliseconds = compare(here, there, cell, repeats)
                    figures |= {f"{name}_round_trip": ratio, f"{name}_ms": milliseconds}
            begun = time.perf_counter()
            made.cut()
            until(lambda: not there.manager.provisioner.tunnel.is_linked, "the cut to be noticed")
            until(lambda: there.manager.provisioner.tunnel.is_linked, "the connection")
            there.run("1 + 1")
            figures["back_after_a_cut_seconds"] = time.perf_counter() - begun
            begun = time.perf_counter()
            there.manager.shutdown_kernel()
            figures["shutdown_seconds"] = time.perf_counter() - begun
    report("remote", figures, GOALS)


if __name__ == "__main__":
    main()
