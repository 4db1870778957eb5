"""Adapters of networks, with a stand-in for the model: the packages themselves and their models are not tested here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.measure import label

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import segment_cellpose, segment_stardist
from tests.functions.images import disks


class StandIn:
    """What is above a threshold, answered as both packages answer."""

    def eval(self, plane: NDArray[Any], diameter: float | None, above: float = 1000) -> Any:
        return label(plane > above), [], None

    def predict_instances(self, plane: NDArray[Any], prob_thresh: float = 0.5) -> Any:
        assert plane.dtype == np.float32
        return label(plane > prob_thresh).astype(np.uint16), {}


@pytest.mark.parametrize("function", [segment_cellpose, segment_stardist])
def test_labels_of_a_model_are_those_of_each_plane(function: Any) -> None:
    stack = np.concatenate([disks([(30, 30)]), disks([(30, 30), (90, 90)])])
    out, labels = function(stack, StandIn())
    assert out is stack
    assert labels.dtype == np.int32
    assert labels.max(axis=(1, 2)).tolist() == [1, 2]


def test_options_reach_the_model() -> None:
    stack = disks([(30, 30)])
    assert segment_cellpose(stack, StandIn(), 20, {"above": 5000})[1].max() == 0
    assert segment_stardist(stack, StandIn(), options={"prob_thresh": 9})[1].max() == 0


@pytest.mark.parametrize(("function", "package"), [(segment_cellpose, "cellpose"), (segment_stardist, "stardist")])
def test_a_missing_package_and_a_missing_model_are_named(function: Any, package: str, tmp_path: Path) -> None:
    stack = disks([(30, 30)])
    with pytest.raises(UsageError, match=f"no model {tmp_path}/none"):
        function(stack, tmp_path / "none")
    with pytest.raises(UsageError, match=f"{package} is not installed") as caught:
        function(stack, tmp_path)
    assert f"openhcs-jupyter[{package}]" in str(caught.value.hint)


def test_what_is_no_model_or_returns_no_labels_is_refused() -> None:
    class Wrong(StandIn):
        def eval(self, plane: NDArray[Any], diameter: float | None, above: float = 0) -> Any:
            return np.zeros((2, 2)), None

    with pytest.raises(UsageError, match="int is no model"):
        segment_cellpose(disks([]), 3)
    with pytest.raises(UsageError, match="the model returned float64 of shape"):
        segment_cellpose(disks([]), Wrong())
