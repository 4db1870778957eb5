"""Writes steps of OpenHCS's with plain values only, so that they can be read where OpenHCS is not."""

from __future__ import annotations

from typing import Any

from openhcs_jupyter.pipeline.openhcs._words import raw, word
from openhcs_jupyter.pipeline.openhcs.steps import FunctionStep, function_step, is_on

_SWITCHED = ("step_materialization_config", "napari_streaming_config", "fiji_streaming_config")
_WORDS = (
    ("processing_config", "group_by"),
    ("processing_config", "input_source"),
    ("dtype_config", "default_dtype_conversion"),
)
_AS_THEY_ARE = (
    ("napari_streaming_config", "host"),
    ("napari_streaming_config", "port"),
    ("streaming_defaults", "host"),
)


def plain_step(step: Any) -> dict[str, Any]:
    """Return the arguments of a `FunctionStep` that says what a step and its pipeline say together.

    Well filters of the pipeline are apart, see `plain_config`.
    """
    taken = step if isinstance(step, FunctionStep) else function_step(step)
    configs: dict[str, dict[str, Any]] = {}

    def put(config: str, field: str, value: object) -> None:
        if value is not None:
            configs.setdefault(config, {})[field] = value

    for config in _SWITCHED:
        said = is_on(taken, config)
        if said or getattr(taken, config) is not None:
            put(config, "enabled", said)
    if taken.said("source_bindings", "enabled"):
        put("source_bindings", "enabled", True)
    along = taken.said("processing_config", "variable_components")
    put("processing_config", "variable_components", None if along is None else _words(along))
    for config, field in _WORDS:
        value = taken.said(config, field)
        put(config, field, None if value is None else word(value))
    for config, field in _AS_THEY_ARE:
        put(config, field, taken.said(config, field))
    for config in ("step_well_filter_config", "step_materialization_config"):
        for field, value in _filter(getattr(taken, config)).items():
            put(config, field, value)
    given: dict[str, Any] = {"func": taken.func, "name": taken.name}
    if not taken.enabled:
        given["enabled"] = False
    return given | configs


def plain_config(config: object) -> dict[str, Any]:
    """Return the well filters that a pipeline's configuration of OpenHCS's says for all of its steps."""
    filters = {name: _filter(raw(config, name)) for name in ("well_filter_config", "step_well_filter_config")}
    return {name: said for name, said in filters.items() if said}


def _filter(config: object) -> dict[str, Any]:
    said = raw(config, "well_filter")
    mode = raw(config, "well_filter_mode")
    if said is None:
        return {}
    return {"well_filter": said} | ({} if mode is None else {"well_filter_mode": word(mode)})


def _words(along: Any) -> list[str]:
    several = [along] if isinstance(along, str) or not isinstance(along, list | tuple | set) else along
    return [word(one) for one in several]
