"""``FunctionStep`` in both spellings, and what is read of OpenHCS's own steps."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.pipeline.openhcs._words import raw
from openhcs_jupyter.pipeline.step import function_name

_CONFIGS = (
    "processing_config",
    "step_well_filter_config",
    "step_materialization_config",
    "dtype_config",
    "source_bindings",
    "streaming_defaults",
    "napari_streaming_config",
    "fiji_streaming_config",
)


class _Processing(NamedTuple):
    """What the flat keywords of older scripts say."""

    variable_components: object = None
    group_by: object = None
    input_source: object = None


class _WellFilter(NamedTuple):
    well_filter: object
    well_filter_mode: object = None


class FunctionStep:
    """A step as OpenHCS's users write it; becomes one or several of `Step` when its plate is known.

    Parameters
    ----------
    func
        ``f``, ``(f, params)``, ``[f, (g, params), ...]``, or any of these by channel ``{"1": f, "2": [g, h]}``,
        channels counted from 1 in the plate's order, or by their names.
    name
        Left out, it is the function's.
    enabled
        A step that is not enabled is left out.
    processing_config
        An object with ``variable_components``, ``group_by`` and ``input_source``.
    step_well_filter_config
        An object with ``well_filter`` and ``well_filter_mode``.
    step_materialization_config
        An object that, unless its ``enabled`` is false, keeps the step's images among the run's results; or True.
    napari_streaming_config
        An object with ``enabled``, ``host`` and ``port``: the step's images are wanted in the napari that listens
        there, by default on port 5555 of the user's machine. The pipeline keeps it as a `ViewRequest`.
    variable_components, group_by, input_source
        The flat spelling of `processing_config`: members of OpenHCS's enums, or their names, such as ``["z_index"]``.
    well_filter
        The flat spelling of `step_well_filter_config`.
    **configs
        OpenHCS's other configurations: ``dtype_config``, ``source_bindings``, ``streaming_defaults``,
        ``fiji_streaming_config``; ``description`` and ``debug_pause`` are taken and not used.

    Raises
    ------
    UsageError
        If an argument is unknown, or said in both spellings. All else is checked when the pipeline is compiled.

    Examples
    --------
    >>> from openhcs_jupyter.functions import max_projection
    >>> FunctionStep(func=max_projection, variable_components=["z_index"]).name
    'max_projection'
    """

    __slots__ = ("enabled", "func", "line", "name", "pipeline_config", *_CONFIGS)

    def __init__(
        self,
        func: Any = None,
        *,
        name: str | None = None,
        enabled: bool = True,
        processing_config: object = None,
        step_well_filter_config: object = None,
        step_materialization_config: object = None,
        napari_streaming_config: object = None,
        variable_components: Sequence[object] | None = None,
        group_by: object = None,
        input_source: object = None,
        well_filter: Sequence[str] | str | int | None = None,
        **configs: object,
    ) -> None:
        known = {*_CONFIGS, "description", "debug_pause"}
        for other in configs:
            if other not in known:
                raise UsageError(
                    f"FunctionStep has no argument {other!r}",
                    "Parameters of the function go beside it: func=(function, {...}).",
                )
        flat = _Processing(variable_components, group_by, input_source)
        if processing_config is None:
            processing_config = flat
        elif flat != _Processing():
            raise UsageError(
                "processing_config= of a FunctionStep stands beside variable_components=, group_by= or input_source=",
                "Say it in one of the two spellings.",
            )
        if well_filter is not None:
            if step_well_filter_config is not None:
                raise UsageError(
                    "step_well_filter_config= of a FunctionStep stands beside well_filter=", "Say it in one of the two."
                )
            step_well_filter_config = _WellFilter(well_filter)
        self.func = func
        self.name = name or (function_name(func) if func else "FunctionStep")
        self.enabled = enabled
        self.processing_config = processing_config
        self.step_well_filter_config = step_well_filter_config
        self.step_materialization_config = step_materialization_config
        self.napari_streaming_config = napari_streaming_config
        self.dtype_config = configs.get("dtype_config")
        self.source_bindings = configs.get("source_bindings")
        self.streaming_defaults = configs.get("streaming_defaults")
        self.fiji_streaming_config = configs.get("fiji_streaming_config")
        self.pipeline_config: object = None
        """What the steps of a pipeline have in common, from which each takes what it does not say itself."""
        self.line = sys._getframe(1).f_lineno
        """Line on which the step was written; 0 where it is not known."""

    def __repr__(self) -> str:
        return f"FunctionStep({self.name!r})"

    def said(self, config: str, field: str) -> Any:
        """Return what the step, or else its pipeline, says; None where OpenHCS's own default holds."""
        value = raw(getattr(self, config), field)
        return raw(raw(self.pipeline_config, config), field) if value is None else value


def is_function_step(step: object) -> bool:
    """Tell whether an object is a step of OpenHCS's, or this module's `FunctionStep`."""
    return isinstance(step, FunctionStep) or all(hasattr(step, name) for name in ("func", "enabled", _CONFIGS[0]))


def function_step(step: Any, pipeline_config: object = None) -> FunctionStep:
    """Return this module's form of a step of OpenHCS's, with what its pipeline says for all of its steps."""
    if isinstance(step, FunctionStep):
        taken = step
    else:
        configs = {name: getattr(step, name, None) for name in _CONFIGS}
        taken = FunctionStep(step.func, name=getattr(step, "name", None), enabled=step.enabled, **configs)
        taken.line = 0
    taken.pipeline_config = pipeline_config
    return taken


def is_on(step: FunctionStep, config: str) -> bool:
    """Tell whether something that a step configures is switched on."""
    held = getattr(step, config)
    if isinstance(held, bool):
        return held
    if held is not None and not hasattr(type(held), "enabled") and raw(held, "enabled") is None:
        # Before there was a switch, naming it switched it on.
        return True
    return bool(step.said(config, "enabled"))
