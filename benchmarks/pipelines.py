"""The pipeline that is compared with OpenHCS: normalise, blur or top-hat by channel, project, compose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openhcs_jupyter.pipeline import Pipeline, Step, image

if TYPE_CHECKING:
    from openhcs_jupyter.model import Plate


def with_peer_functions(plate: Plate) -> Pipeline:
    """Write it with OpenHCS's own functions, undecorated; only in the peer's environment."""
    from benchmarks.peer import peer_functions

    f = peer_functions()
    first, second = (channel.name for channel in plate.channels)
    normalize = (f.normalize, {"low_percentile": 1.0, "high_percentile": 99.0})

    # Undecorated they return a plane where a stack is wanted.
    @image(depth="one")
    def projection(stack: Any) -> Any:
        return f.project(stack)[None]

    @image(stack="channel", depth="one")
    def composite(stack: Any) -> Any:
        return f.composite(stack)[None]

    preprocess: dict[str, Any] = {
        first: [normalize, (f.blur, {"sigma": 1.0})],
        second: [normalize, (f.tophat, {"selem_radius": 20, "downsample_factor": 4})],
    }
    return Pipeline([Step(preprocess), Step(projection), Step(composite, save=True)], name="peer-functions")


def with_standard_functions(plate: Plate) -> Pipeline:
    """Write it with this project's functions of the same meaning and parameters."""
    from openhcs_jupyter.functions import composite, gaussian_blur, max_projection, percentile_normalize, top_hat

    first, second = (channel.name for channel in plate.channels)
    normalize = (percentile_normalize, {"low": 1.0, "high": 99.0})
    preprocess: dict[str, Any] = {
        first: [normalize, (gaussian_blur, {"sigma": 1.0})],
        second: [normalize, (top_hat, {"radius": 20, "downsample": 4})],
    }
    steps = [Step(preprocess), Step(max_projection), Step(composite, stack="channel", save=True)]
    return Pipeline(steps, name="standard-functions")


PIPELINES = {"peer": with_peer_functions, "standard": with_standard_functions}
