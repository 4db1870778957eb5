"""Segmentation by networks that the user has: adapters to cellpose and StarDist, which are extras."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._checks import Stack, check_range, check_stack
from openhcs_jupyter.pipeline.contracts import image


@image(depth="same", dtype="same", need=60.0)
def segment_cellpose(
    stack: Stack, model: Any, diameter: float | None = None, options: Mapping[str, Any] | None = None
) -> tuple[Stack, NDArray[np.int32]]:
    """Find objects with a cellpose model that you have.

    Nothing is downloaded: `model` is a file. It needs the extra ``openhcs-jupyter[cellpose]`` where the run computes.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Any integer or floating-point type.
    model
        Path of the model's file there, or a model that has cellpose's ``eval``.
    diameter
        Of the objects in pixels; None leaves it to the model.
    options
        Further arguments of cellpose's ``eval``, such as ``{"flow_threshold": 0.4}``.

    Returns
    -------
    stack : ndarray of shape (N, Y, X)
        The stack as it came.
    labels : ndarray of shape (N, Y, X), int32
        As the model numbers them, plane by plane; 0 is background.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, cellpose or the model is not there, or what it returns are no labels.

    Notes
    -----
    A model is loaded once in each worker. Results are addressed by the model's path: give a changed model a new name.
    """
    check_stack(stack, "segment_cellpose")
    if diameter is not None:
        check_range("segment_cellpose", "diameter", diameter, 1, 10000)
    found = _cellpose(_existing(model, "segment_cellpose")) if isinstance(model, str | Path) else model
    _check_method(found, "eval", "segment_cellpose")
    labels = np.empty(stack.shape, dtype=np.int32)
    for plane, out in zip(stack, labels, strict=True):
        out[...] = _labels(found.eval(plane, diameter=diameter, **dict(options or {}))[0], plane, "segment_cellpose")
    return stack, labels


@image(depth="same", dtype="same", need=60.0)
def segment_stardist(
    stack: Stack, model: Any, low: float = 1.0, high: float = 99.8, options: Mapping[str, Any] | None = None
) -> tuple[Stack, NDArray[np.int32]]:
    """Find star-convex objects, such as nuclei, with a StarDist model that you have.

    Nothing is downloaded: `model` is a folder. It needs the extra ``openhcs-jupyter[stardist]`` where the run computes.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Any integer or floating-point type.
    model
        Path of the model's folder there, with ``config.json`` and weights, or a model that has StarDist's
        ``predict_instances``.
    low, high
        Percentiles of each plane that the model is shown as 0 and 1.
    options
        Further arguments of ``predict_instances``, such as ``{"prob_thresh": 0.5}``.

    Returns
    -------
    stack : ndarray of shape (N, Y, X)
        The stack as it came.
    labels : ndarray of shape (N, Y, X), int32
        As the model numbers them, plane by plane; 0 is background.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, StarDist or the model is not there, or what it returns are no labels.

    Notes
    -----
    As for `segment_cellpose`.
    """
    check_stack(stack, "segment_stardist")
    check_range("segment_stardist", "low", low, 0, 100)
    check_range("segment_stardist", "high", high, low, 100)
    found = _stardist(_existing(model, "segment_stardist")) if isinstance(model, str | Path) else model
    _check_method(found, "predict_instances", "segment_stardist")
    labels = np.empty(stack.shape, dtype=np.int32)
    for plane, out in zip(stack, labels, strict=True):
        bottom, top = np.percentile(plane, (low, high))
        shown = ((plane - bottom) / max(float(top - bottom), 1e-20)).astype(np.float32)
        out[...] = _labels(found.predict_instances(shown, **dict(options or {}))[0], plane, "segment_stardist")
    return stack, labels


def _existing(model: str | Path, function: str) -> str:
    path = Path(model).expanduser()
    if not path.exists():
        raise UsageError(
            f"{function}: there is no model {path}",
            "Name the file or folder of a model on the machine that computes; none is downloaded.",
        )
    return str(path.resolve())


def _check_method(model: Any, method: str, function: str) -> None:
    if not callable(getattr(model, method, None)):
        raise UsageError(
            f"{function}: {type(model).__name__} is no model: it has no {method}", "Give a path, or a model."
        )


@lru_cache(maxsize=2)
def _cellpose(path: str) -> Any:
    try:
        from cellpose import models
    except ModuleNotFoundError:
        raise _missing("segment_cellpose", "cellpose") from None
    return models.CellposeModel(pretrained_model=path)


@lru_cache(maxsize=2)
def _stardist(path: str) -> Any:
    try:
        from stardist.models import StarDist2D
    except ModuleNotFoundError:
        raise _missing("segment_stardist", "stardist") from None
    return StarDist2D(None, name=Path(path).name, basedir=str(Path(path).parent))


def _missing(function: str, package: str) -> UsageError:
    return UsageError(
        f"{function}: {package} is not installed where the run computes",
        f"Install it there: pip install 'openhcs-jupyter[{package}]'.",
    )


def _labels(found: Any, plane: Stack, function: str) -> NDArray[np.int32]:
    labels = np.asarray(found)
    if labels.shape != plane.shape or labels.dtype.kind not in "iu":
        raise UsageError(
            f"{function}: the model returned {labels.dtype} of shape {labels.shape} for a plane of shape {plane.shape}",
            "It must return one label for each pixel.",
        )
    return labels.astype(np.int32)
