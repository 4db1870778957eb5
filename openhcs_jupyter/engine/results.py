"""Reads a run's results from its store: images, labels, points and tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openhcs_jupyter.engine.images import Pixels
from openhcs_jupyter.engine.store import read_array
from openhcs_jupyter.model import ResultSpec


def read_pixels(place: Path, spec: ResultSpec, field: int | None) -> Pixels | None:
    """Read the pixels of one result from a unit's folder.

    Parameters
    ----------
    place
        The unit's folder.
    spec
        An image or labels.
    field
        Number of the field, where the unit reaches over several of them.

    Returns
    -------
    ndarray of shape (T, C, Z, Y, X) or None
        A map of the file where there is one channel. Channels of fewer slices than others are filled up with zeros.
        None if the unit has no such result.
    """
    name = f"{spec.kind}.{spec.name}"
    if field is not None and not _has(place, name) and _has(place, f"{name}.f{field}"):
        name = f"{name}.f{field}"
    single = place / f"{name}.npy"
    if single.exists():
        whole: Pixels = read_array(single)[:, None]
        return whole
    parts = [read_array(place / f"{name}.{index}.npy") for index in range(len(spec.channels)) if _has(place, name)]
    if not parts:
        return None
    if len(parts) == 1:
        part: Pixels = parts[0][:, None]
        return part
    return _joined(parts)


def _has(place: Path, name: str) -> bool:
    return (place / f"{name}.npy").exists() or (place / f"{name}.0.npy").exists()


def _joined(parts: Sequence[Any]) -> Pixels:
    depth = max(part.shape[1] for part in parts)
    first = parts[0]
    shape = (first.shape[0], len(parts), depth, *first.shape[2:])
    joined: Pixels = np.zeros(shape, np.result_type(*(part.dtype for part in parts)))
    for index, part in enumerate(parts):
        joined[:, index, : part.shape[1]] = part
    return joined
