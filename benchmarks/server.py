"""The execution server: what is sent to it."""

from __future__ import annotations

import argparse

from benchmarks.payload import payload_figures
from benchmarks.report import report

GOALS: dict[str, tuple[str, float]] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shows that it runs")
    parser.parse_args()
    report("server", payload_figures(), GOALS)


if __name__ == "__main__":
    main()
