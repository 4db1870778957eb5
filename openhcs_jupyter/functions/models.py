"""Segmentation by networks that the user has: adapters to cellpose and StarDist, which are extras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

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
    network, given = _CELLPOSE.ready(model), dict(options or {})
    return stack, _CELLPOSE.labels(stack, lambda plane: network.eval(plane, diameter=diameter, **given)[0])


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
    network, given = _STARDIST.ready(model), dict(options or {})

    def predict(plane: Stack) -> Any:
        bottom, top = np.percentile(plane, (low, high))
        shown = ((plane - bottom) / max(float(top - bottom), 1e-20)).astype(np.float32)
        return network.predict_instances(shown, **given)[0]

    return stack, _STARDIST.labels(stack, predict)


@lru_cache(maxsize=2)
def _load_cellpose(path: str) -> Any:
    from cellpose import models

    return models.CellposeModel(pretrained_model=path)


@lru_cache(maxsize=2)
def _load_stardist(path: str) -> Any:
    from stardist.models import StarDist2D

    return StarDist2D(None, name=Path(path).name, basedir=str(Path(path).parent))


class _Network(NamedTuple):
    """What the adapter of a package needs to know of it."""

    function: str
    package: str
    method: str
    """That a model of it has."""
    load: Callable[[str], Any]

    def ready(self, model: Any) -> Any:
        """Return a model, loaded if a path is given."""
        if isinstance(model, str | Path):
            model = self._loaded(Path(model).expanduser())
        if not callable(getattr(model, self.method, None)):
            raise UsageError(
                f"{self.function}: {type(model).__name__} is no model: it has no {self.method}",
                "Give a path, or a model.",
            )
        return model

    def _loaded(self, path: Path) -> Any:
        if not path.exists():
            raise UsageError(
                f"{self.function}: there is no model {path}",
                "Name the file or folder of a model on the machine that computes; none is downloaded.",
            )
        try:
            return self.load(str(path.resolve()))
        except ModuleNotFoundError as error:
            raise UsageError(
                f"{self.function}: {error.name or self.package} is not installed where the run computes",
                f"Install it there: pip install 'openhcs-jupyter[{self.package}]'.",
            ) from None

    def labels(self, stack: Stack, predict: Callable[[Stack], Any]) -> NDArray[np.int32]:
        """Return what a model finds in each plane, checked."""
        labels = np.empty(stack.shape, dtype=np.int32)
        for plane, out in zip(stack, labels, strict=True):
            found = np.asarray(predict(plane))
            if found.shape != plane.shape or found.dtype.kind not in "iu":
                raise UsageError(
                    f"{self.function}: the model returned {found.dtype} of shape {found.shape} "
                    f"for a plane of shape {plane.shape}",
                    "It must return one label for each pixel.",
                )
            out[...] = found
        return labels


_CELLPOSE = _Network("segment_cellpose", "cellpose", "eval", _load_cellpose)
_STARDIST = _Network("segment_stardist", "stardist", "predict_instances", _load_stardist)
