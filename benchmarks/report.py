"""How benchmarks measure, and how they tell what they found: a table for people, one JSON line for programs."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Goal(NamedTuple):
    """What a figure should be: at least, at most or exactly `value`."""

    relation: str
    """``>=``, ``<=`` or ``==``."""
    value: float

    def met(self, figure: float) -> bool:
        """Tell whether a figure meets the goal."""
        if self.relation == ">=":
            return figure >= self.value
        if self.relation == "<=":
            return figure <= self.value
        return figure == self.value


def report(name: str, figures: Mapping[str, float], goals: Mapping[str, tuple[str, float]]) -> None:
    """Print the figures with their goals, then the JSON line that ends every benchmark.

    Parameters
    ----------
    name
        The benchmark's name, as in ``python -m benchmarks.NAME``.
    figures
        What was measured. A figure without a goal is printed as well.
    goals
        For each figure its relation (``>=``, ``<=``, ``==``) and value.
    """
    width = max((len(figure) for figure in figures), default=0)
    print(f"\n{name}, {len(os.sched_getaffinity(0))} cores")
    for figure, value in figures.items():
        line = f"  {figure:<{width}}  {value:>10.4g}"
        if figure in goals:
            goal = Goal(*goals[figure])
            line += f"   goal {goal.relation} {goal.value:g}   {'met' if goal.met(value) else 'MISSED'}"
        print(line)
    # Four digits are more than a shared machine can hold.
    rounded = {figure: float(f"{value:.4g}") for figure, value in figures.items()}
    print(json.dumps({"benchmark": name, "figures": rounded}), flush=True)


def interleaved(
    works: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time several works in turn, so that what else the machine does meets all of them alike.

    Parameters
    ----------
    works
        By name.
    repeats
        Rounds that are timed, after one that is not.
    clock
        ``time.perf_counter`` for wall time, ``time.process_time`` for CPU time.

    Returns
    -------
    dict
        For each name the seconds of every round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            start = clock()
            work()
            if repeat:
                seconds[name].append(clock() - start)
    return seconds


def median_ratio(above: list[float], below: list[float]) -> float:
    """Return the median over the rounds of one work's time divided by another's in the same round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))
