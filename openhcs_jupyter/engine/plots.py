"""Plots of a run's tables with matplotlib: distributions, dose response, plate heat map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import lazy_loader

from openhcs_jupyter.compiler.problems import known
from openhcs_jupyter.errors import RunError, UsageError
from openhcs_jupyter.model import parse_well, well_name

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
else:
    np = lazy_loader.load("numpy")
    pd = lazy_loader.load("pandas")

Kind = Literal["distribution", "dose", "heatmap"]
Axes: TypeAlias = Any
"""``matplotlib.axes.Axes``; matplotlib is not needed for anything else here."""
_BLUE, _ORANGE, _GREY = "#0a7bc2", "#d55e00", "#8a8a8a"
_MOST_BOXES = 26


def plot(
    run: str,
    tables: Mapping[str, Callable[[], pd.DataFrame]],
    column: str,
    *,
    by: str | None,
    kind: Kind | None,
    layout: pd.DataFrame | None,
    ax: Axes | None,
) -> Axes:
    """Draw a plot; see `Run.plot`.

    Parameters
    ----------
    run
        The run's name, for the title.
    tables
        Reads a table, by its name; the first one that has the column is taken.
    column, by, kind, layout, ax
        As in `Run.plot`.
    """
    frame = _frame(tables, column)
    if layout is not None:
        frame = frame.merge(layout, on="well", suffixes=("", "_layout"))
    if kind is None:
        kind = "heatmap" if by == "plate" else "distribution"
        if by not in (None, "plate", "well", "field") and _is_dose(frame, by):
            kind = "dose"
    ax = _axes(ax)
    if kind == "heatmap":
        _heatmap(frame, column, ax)
    elif kind == "dose":
        if by is None:
            raise UsageError("A dose response needs the column of the doses", 'Name it: by="dose_um".')
        _dose(frame, column, _column(frame, by), ax)
    elif kind == "distribution":
        _distribution(frame, column, by, ax)
    else:
        raise UsageError(f"There is no plot {kind!r}", "There are: distribution, dose, heatmap.")
    ax.set_title(f"{run}: {column}" + (f" by {by}" if by else ""), fontsize="medium")
    return ax


def _frame(tables: Mapping[str, Callable[[], pd.DataFrame]], column: str) -> pd.DataFrame:
    there: list[str] = []
    for read in tables.values():
        frame = read()
        if column in frame.columns:
            return frame
        there += map(str, frame.columns)
    where = f"Table {next(iter(tables))!r} has no" if len(tables) == 1 else "No table of the run has a"
    raise RunError(f"{where} column {column!r}.", known(column, sorted(set(there))))


def _column(frame: pd.DataFrame, name: str) -> str:
    if name not in frame.columns:
        hint = known(name, [str(label) for label in frame.columns])
        raise UsageError(f"There is no column {name!r} to plot by", f"{hint} layout= adds a table with one row a well.")
    return name


def _is_dose(frame: pd.DataFrame, by: str | None) -> bool:
    values = frame.get(by)
    return values is not None and values.dtype.kind in "fiu" and bool((values > 0).any())


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise RunError("Plots need matplotlib.", "pip install matplotlib") from error
    return plt.subplots(figsize=(7, 3.6), layout="constrained")[1]


def _distribution(frame: pd.DataFrame, column: str, by: str | None, ax: Axes) -> None:
    values = frame[column].dropna()
    if by is None or by == "plate":
        ax.hist(values, bins=min(80, max(10, int(np.sqrt(len(values))))), color=_BLUE)
        ax.set_xlabel(column)
        ax.set_ylabel("objects")
        return
    groups = {name: group[column].dropna().to_numpy() for name, group in frame.groupby(_column(frame, by), sort=True)}
    names, positions = [str(name) for name in groups], np.arange(len(groups))
    if len(groups) <= _MOST_BOXES:
        line = {"color": _BLUE}
        ax.boxplot(
            list(groups.values()), positions=positions, widths=0.6, showfliers=False,
            medianprops={"color": _ORANGE, "linewidth": 1.5}, boxprops=line, whiskerprops=line, capprops=line,
        )  # fmt: skip
        ax.set_xticks(positions, names, rotation=90 if len(names) > 12 else 0)
    else:
        quartiles = np.array([np.percentile(group, (25, 50, 75)) if len(group) else [np.nan] * 3
                              for group in groups.values()])  # fmt: skip
        ax.fill_between(positions, quartiles[:, 0], quartiles[:, 2], color=_BLUE, alpha=0.25, lw=0, label="quartiles")
        ax.plot(positions, quartiles[:, 1], ".", color=_BLUE, markersize=4, label="median")
        step = -(-len(names) // 16)
        ax.set_xticks(positions[::step], names[::step], rotation=90)
        ax.legend(frameon=False, fontsize="small")
    ax.set_xlabel(by)
    ax.set_ylabel(column)


def _heatmap(frame: pd.DataFrame, column: str, ax: Axes) -> None:
    medians = frame.groupby("well")[column].median()
    places = [parse_well(str(well)) for well in medians.index]
    first, last = (np.array([f(axis) for axis in zip(*places, strict=True)]) for f in (min, max))
    values = np.full(tuple(last - first + 1), np.nan)
    for (row, at), value in zip(places, medians, strict=True):
        values[row - first[0], at - first[1]] = value
    shown = ax.imshow(np.ma.masked_invalid(values), cmap="viridis", aspect="equal")
    for row, at in zip(*np.nonzero(np.isnan(values)), strict=True):
        ax.plot(at, row, "x", color=_GREY, markersize=4)
    rows, columns = values.shape
    step = 1 if columns <= 24 else 2
    ax.set_xticks(range(0, columns, step), [str(first[1] + at + 1) for at in range(0, columns, step)], fontsize="small")
    ax.set_yticks(range(rows), [well_name(first[0] + row, 0)[:-2] for row in range(rows)], fontsize="small")
    ax.tick_params(length=0)
    ax.figure.colorbar(shown, ax=ax, label=f"median {column}", shrink=0.8)


def _dose(frame: pd.DataFrame, column: str, dose: str, ax: Axes) -> None:
    """Plot the median of each well over its dose, with a four-parameter curve where one fits."""
    wells = frame.groupby("well").agg(dose=(dose, "first"), value=(column, "median")).dropna()
    wells = wells[wells["dose"] > 0]
    if wells.empty:
        raise UsageError(f"No well has a {dose} above zero", "A dose response is drawn over the logarithm of doses.")
    ax.semilogx(wells["dose"], wells["value"], "o", color=_BLUE, markersize=4, label="wells")
    fitted = _fitted(wells["dose"].to_numpy(float), wells["value"].to_numpy(float))
    if fitted is not None:
        doses = np.geomspace(wells["dose"].min(), wells["dose"].max(), 200)
        ax.semilogx(doses, _response(doses, *fitted), color=_ORANGE, label=f"EC50 = {fitted[2]:.3g}")
    ax.set_xlabel(dose)
    ax.set_ylabel(f"median {column}")
    ax.legend(frameon=False, fontsize="small")


def _response(dose: Any, bottom: float, top: float, ec50: float, slope: float) -> Any:
    return bottom + (top - bottom) / (1 + (ec50 / dose) ** slope)


def _fitted(dose: Any, value: Any) -> Any:
    """Return bottom, top, EC50 and slope; None where there are too few doses, or no curve fits."""
    if len(np.unique(dose)) < 5:
        return None
    from scipy.optimize import curve_fit

    ends = [value[dose == end].mean() for end in (dose.min(), dose.max())]
    start = [*ends, float(np.exp(np.log(dose).mean())), 1.0]
    span = float(value.max() - value.min()) or 1.0
    low = [value.min() - span, value.min() - span, dose.min() / 10, 0.1]
    high = [value.max() + span, value.max() + span, dose.max() * 10, 10]
    try:
        found, _ = curve_fit(_response, dose, value, p0=start, bounds=(low, high))
    except RuntimeError:  # it did not converge
        return None
    return found
