"""The cells of a synthetic plate: where they are, what they look like, and the tables and labels that tell."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.model import parse_well, well_name
from openhcs_jupyter.repository.embedded.synthetic.plate import CHANNELS, CYTOPLASM, GAP, STRETCH, SyntheticPlate

if TYPE_CHECKING:
    import pandas as pd

_SHARP = 1.5
"""Half the width of an outline in focus, in pixels."""


class Cells(NamedTuple):
    """The cells of a well; y and x in pixels of its mosaic."""

    y: NDArray[np.float64]
    x: NDArray[np.float64]
    major: NDArray[np.float64]
    """Half of the nucleus's long axis in pixels."""
    minor: NDArray[np.float64]
    angle: NDArray[np.float64]
    """Of the long axis to the x axis, in radians, turning towards y."""
    z_um: NDArray[np.float64]
    """Where the cell is in focus, from the middle of the stack."""
    dapi: NDArray[np.float64]
    gfp: NDArray[np.float64]
    touching: NDArray[np.bool_]


def true_cells(spec: SyntheticPlate, well: str) -> pd.DataFrame:
    """List the cells that a well's fields show.

    Returns
    -------
    DataFrame
        One row for each field in which any of a cell's nucleus lies: ``well``, ``field``, ``cell`` (from 1 in each
        well); ``y``, ``x`` in pixels of the field; ``well_y``, ``well_x`` in pixels of the mosaic; half axes ``major``,
        ``minor`` of the nucleus in pixels; ``angle`` of the long axis to the x axis in radians, turning towards y;
        ``z_um`` where it is in focus, from the middle of the stack; ``dapi``, ``gfp``: intensities in focus, before
        shading and without background; ``touching`` another nucleus; ``whole``: the nucleus lies inside the field.

    Raises
    ------
    UsageError
        If the plate has no such well.
    """
    import pandas as pd

    cells = cells_of(spec, well)
    reach_y, reach_x = _reach(cells, 1.0)
    frames = []
    for field in range(1, spec.fields + 1):
        top, left = spec.origin(field)
        y, x = cells.y - top, cells.x - left
        last = spec.size - 1
        seen = (y + reach_y >= 0) & (y - reach_y <= last) & (x + reach_x >= 0) & (x - reach_x <= last)
        whole = (y - reach_y >= 0) & (y + reach_y <= last) & (x - reach_x >= 0) & (x + reach_x <= last)
        at = np.flatnonzero(seen)
        columns = {
            "well": np.repeat(well_name(*parse_well(well)), len(at)),
            "field": np.full(len(at), field),
            "cell": at + 1,
            "y": y[at],
            "x": x[at],
            "well_y": cells.y[at],
            "well_x": cells.x[at],
            **{name: getattr(cells, name)[at] for name in Cells._fields[2:]},
            "whole": whole[at],
        }
        frames.append(pd.DataFrame(columns).astype({"well": "str"}))
    return pd.concat(frames, ignore_index=True)


def true_wells(spec: SyntheticPlate) -> pd.DataFrame:
    """List the wells: ``well``, ``row`` and ``column`` from 1, ``dose_um``, ``response`` (the expected mean of GFP),
    ``cells`` (in the mosaic), ``ec50_um``, ``hill``.
    """  # noqa: D205 - the formula stands first
    import pandas as pd

    places = [(row, column) for row in range(spec.rows) for column in range(spec.columns)]
    doses = [spec.dose_um(column) for _, column in places]
    return pd.DataFrame(
        {
            "well": [well_name(*place) for place in places],
            "row": [row + 1 for row, _ in places],
            "column": [column + 1 for _, column in places],
            "dose_um": doses,
            "response": [spec.response(dose) for dose in doses],
            "cells": spec.counts[1],
            "ec50_um": spec.ec50_um,
            "hill": spec.hill,
        }
    )


def true_labels(spec: SyntheticPlate, well: str, field: int) -> NDArray[np.int32]:
    """Return the nuclei of a field as a label image.

    Returns
    -------
    ndarray of shape (Y, X), int32
        The number of the cell, as in `true_cells`, at each pixel whose centre lies in its nucleus; 0 elsewhere.

    Raises
    ------
    UsageError
        If the plate has no such well or field.
    """
    from openhcs_jupyter.repository.embedded.synthetic import _kernels as kernels

    cells = cells_of(spec, well)
    at = _in_field(spec, cells, field, 1.0)
    columns = [
        cells.y,
        cells.x,
        cells.major,
        cells.minor,
        np.sin(cells.angle),
        np.cos(cells.angle),
        np.arange(len(cells.y)) + 1,
    ]
    labels = np.zeros((spec.size, spec.size), dtype=np.int32)
    kernels.outline(labels, np.stack(columns, axis=1)[at], *spec.origin(field))
    return labels


def true_signal(spec: SyntheticPlate, well: str, field: int, channel: str, z: int) -> NDArray[np.float32]:
    """Return the light that a field's cells give in one slice, before background, shading and noise.

    Parameters
    ----------
    spec, well, field
        The plate, the well's name, and the field from 1.
    channel
        ``DAPI`` or ``GFP``.
    z
        The slice, from 0.

    Returns
    -------
    ndarray of shape (Y, X), float32
        Camera counts. Neighbouring fields agree exactly where they overlap.

    Raises
    ------
    UsageError
        If the plate has no such well, field, channel or slice.
    """
    if channel not in CHANNELS or not 0 <= z < spec.slices:
        raise UsageError(f"synthetic plate: there is no slice {z} of a channel {channel!r}")
    signal = np.zeros((spec.size, spec.size), dtype=np.float32)
    draw(signal, spec, cells_of(spec, well), field, CHANNELS.index(channel), z)
    return signal


def shade(spec: SyntheticPlate, channel: str) -> NDArray[np.float32]:
    """Return what part of its light reaches each pixel of a field in this channel: ``(Y, X)``, at most 1.

    It falls with the square of the distance from a brightest point, which lies elsewhere in each channel.
    """
    centre_y, centre_x = shade_centre(spec, CHANNELS.index(channel))
    steps = np.arange(spec.size, dtype=np.float64)
    squares = (steps[:, None] - centre_y) ** 2 + (steps - centre_x) ** 2
    part: NDArray[np.float32] = (1 - spec.shading * squares / squares.max()).astype(np.float32)
    return part


def draw(signal: NDArray[np.float32], spec: SyntheticPlate, cells: Cells, field: int, channel: int, z: int) -> None:
    """Draw the cells of a field, in one slice of a channel, onto a plane."""
    from openhcs_jupyter.repository.embedded.synthetic import _kernels as kernels

    height_um = (z - (spec.slices - 1) / 2) * spec.z_step_um
    blur = _SHARP + spec.blur_px_per_um * np.abs(height_um - cells.z_um)
    scale = CYTOPLASM if CHANNELS[channel] == "GFP" else 1.0
    value = cells.gfp if CHANNELS[channel] == "GFP" else cells.dapi
    at = _in_field(spec, cells, field, scale * (1 + float(blur.max(initial=0)) / (spec.nucleus_px / 2)))
    sine, cosine = np.sin(cells.angle), np.cos(cells.angle)
    columns = [cells.y, cells.x, cells.major * scale, cells.minor * scale, sine, cosine, value, blur]
    kernels.draw(signal, np.stack(columns, axis=1)[at], *spec.origin(field))


def _in_field(spec: SyntheticPlate, cells: Cells, field: int, reach: float) -> NDArray[np.int64]:
    """Return the indices of the cells that may show in a field."""
    if not 1 <= field <= spec.fields:
        raise UsageError(f"synthetic plate: there is no field {field}; a well has {spec.fields}")
    top, left = spec.origin(field)
    reach_y, reach_x = _reach(cells, reach)
    seen = (cells.y + reach_y >= top) & (cells.y - reach_y <= top + spec.size)
    seen &= (cells.x + reach_x >= left) & (cells.x - reach_x <= left + spec.size)
    return np.flatnonzero(seen)


def _reach(cells: Cells, scale: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how far ellipses reach from their centres along y and x."""
    sine, cosine = np.sin(cells.angle), np.cos(cells.angle)
    reach_y = scale * np.hypot(cells.major * sine, cells.minor * cosine)
    reach_x = scale * np.hypot(cells.major * cosine, cells.minor * sine)
    return reach_y, reach_x


@lru_cache(maxsize=8)
def cells_of(spec: SyntheticPlate, well: str) -> Cells:
    """Make the cells of a well."""
    from openhcs_jupyter.repository.embedded.synthetic import _kernels as kernels

    row, column = parse_well(well)
    if row >= spec.rows or column >= spec.columns:
        raise UsageError(f"synthetic plate: there is no well {well}; it reaches to {spec.wells[-1]}")
    rng = np.random.default_rng([spec.seed, 1, row, column])
    clusters, count = spec.counts
    pairs = count - clusters
    # The first clusters are pairs; their second cells follow after all clusters.
    cluster = np.append(np.arange(clusters), np.arange(pairs))
    touching = cluster < pairs
    mean = spec.nucleus_px * rng.uniform(0.85, 1.1, count)
    stretch = rng.uniform(1.0, STRETCH, count)
    major, minor = mean * stretch, mean / stretch
    angle = rng.uniform(0, np.pi, count)
    # The nuclei of a pair lie to both sides of its middle, along one direction, and just touch.
    direction = rng.uniform(0, np.pi, clusters)[cluster]
    radius = major * minor / np.hypot(minor * np.cos(angle - direction), major * np.sin(angle - direction))
    shift = np.where(touching, 0.98 * radius, 0.0)
    reach = np.zeros(clusters)
    np.maximum.at(reach, cluster, shift + CYTOPLASM * major + GAP / 2)
    middle = np.empty((clusters, 2))
    kernels.scatter(reach, *map(float, spec.mosaic), rng.integers(0, 2**63), middle)
    side = np.where(np.arange(count) < clusters, shift, -shift)
    response = spec.response(spec.dose_um(column))
    dapi, gfp = np.exp(spec.variation * rng.standard_normal((2, count)))
    centred = np.exp(-(spec.variation**2) / 2)
    return Cells(
        y=middle[cluster, 0] + side * np.sin(direction),
        x=middle[cluster, 1] + side * np.cos(direction),
        major=major,
        minor=minor,
        angle=angle,
        z_um=rng.uniform(-0.3, 0.3, count) * spec.z_step_um,
        dapi=spec.dapi * centred * dapi,
        gfp=response * centred * gfp,
        touching=touching,
    )


def shade_centre(spec: SyntheticPlate, channel: int) -> tuple[float, float]:
    """Return the brightest point of a channel's fields in pixels."""
    y, x = ((0.45, 0.55), (0.52, 0.42))[channel]
    return y * spec.size, x * spec.size
