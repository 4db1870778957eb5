"""The standard functions against scikit-image, SciPy and NumPy: the same results, and the CPU time of both."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.processes import SCRATCH, pin_threads

pin_threads()

from benchmarks.report import report  # noqa: E402 - threads are pinned first

if TYPE_CHECKING:
    from benchmarks.counterparts import Case

GOALS = {"vs_skimage": (">=", 5.0), "slowest_vs_skimage": (">=", 0.9)}


class Timed(NamedTuple):
    """What a case came to."""

    case: Case
    ours_s: float
    theirs_s: float
    ratio: float
    difference: float


def measure(case: Case, least_s: float, rounds: int) -> Timed:
    """Compare results, then time both sides in turn.

    Raises
    ------
    AssertionError
        If the results differ by more than the tolerance.
    """
    difference = float(case.difference(case.ours(), case.theirs()))
    assert difference <= case.tolerance, f"{case.name}: differs by {difference:.3g}, more than {case.tolerance:g}"
    seconds: tuple[list[float], list[float]] = ([], [])
    calls = [max(1, int(least_s / max(_cpu(work, 1), 1e-6))) for work in (case.ours, case.theirs)]
    sides = list(zip(seconds, (case.ours, case.theirs), calls, strict=True))
    for _ in range(rounds):
        for side, work, count in sides:
            side.append(_cpu(work, count))
        # The other first in the next round, so that neither gains by its place.
        sides.reverse()
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    return Timed(case, statistics.median(seconds[0]), statistics.median(seconds[1]), ratio, difference)


def _cpu(work: Callable[[], Any], count: int) -> float:
    start = time.process_time()
    for _ in range(count):
        work()
    return (time.process_time() - start) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round; the figures mean nothing")
    parser.add_argument("--only", metavar="NAME", help="one function")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    from benchmarks.counterparts import Material, cases, pipeline_case
    from openhcs_jupyter import functions

    material = Material.of(SCRATCH / "plates" / "functions")
    chosen = [pipeline_case(material), *cases(material)]
    lacking = set(functions.__all__) - {case.name for case in chosen}
    # Adapters of other packages have nothing to be compared with.
    lacking -= {"segment_cellpose", "segment_stardist"}
    assert not lacking, f"not compared: {', '.join(sorted(lacking))}"
    if arguments.only:
        chosen = [case for case in chosen if case.name == arguments.only]
    print(f"{'':28} {'ours':>9} {'theirs':>9} {'ratio':>7}  {'differ by':>9}  {'at most':>9}  counterpart")
    found = []
    for case in chosen:
        timed = measure(case, 0.0 if arguments.quick else 0.1, 1 if arguments.quick else arguments.rounds)
        found.append(timed)
        print(
            f"{case.name:28} {1000 * timed.ours_s:6.2f} ms {1000 * timed.theirs_s:6.1f} ms {timed.ratio:7.2f}"
            f"  {timed.difference:9.3g}  {case.tolerance:9.3g}  {case.by}",
            flush=True,
        )
    singles = [timed for timed in found if timed.case.name != "pipeline"]
    figures = {timed.case.name: timed.ratio for timed in found if timed.case.name == "pipeline"}
    if figures:
        figures = {"vs_skimage": figures["pipeline"]}
    if singles:
        slowest = min(singles, key=lambda timed: timed.ratio)
        print(f"\nslowest: {slowest.case.name}")
        figures["slowest_vs_skimage"] = slowest.ratio
    report("functions", figures, GOALS)


if __name__ == "__main__":
    main()
