"""Pipelines that several benchmarks run: the quickstart's, and the one that is compared with OpenHCS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openhcs_jupyter.pipeline import Labels, Pipeline, Step, Table, image

if TYPE_CHECKING:
    from openhcs_jupyter.model import Plate


def quickstart_steps(first: str = "DAPI", second: str = "GFP") -> list[Step]:
    """Return the steps of the README's example, for the channels of a plate."""
    from openhcs_jupyter.functions import (
        gaussian_blur,
        max_projection,
        measure_objects,
        percentile_normalize,
        segment_nuclei,
        top_hat,
        well_medians,
    )

    return [
        Step(max_projection, save=True),
        Step(percentile_normalize, {"low": 1, "high": 99.8}, channel=first),
        Step({first: [gaussian_blur, (top_hat, {"radius": 15})], second: gaussian_blur}),
        Step(segment_nuclei, channel=first, outputs=Labels("nuclei")),
        Step(measure_objects, inputs={"labels": "nuclei"}, outputs=Table("nuclei")),
        Step(well_medians, inputs={"objects": "nuclei"}, outputs=Table("wells")),
    ]


def with_peer_functions(plate: Plate) -> Pipeline:
    """Normalise, blur or top-hat by channel, project, compose with OpenHCS's own functions; in its environment."""
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
    """Do the same with this project's functions of the same meaning and parameters."""
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
