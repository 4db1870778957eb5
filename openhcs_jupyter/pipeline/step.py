"""A step of a pipeline, as the user writes it, and the pipeline that they make."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.model import Component
from openhcs_jupyter.pipeline.outputs import Output

Call: TypeAlias = "Callable[..., Any] | tuple[Callable[..., Any], Mapping[str, Any]]"
Function: TypeAlias = "Call | Sequence[Call] | Mapping[str, Call | Sequence[Call]]"


class Step:
    """One step of a pipeline.

    Parameters
    ----------
    function
        A function ``f``, a pair ``(f, params)``, a chain ``[f, (g, params), ...]``, or any of these by channel
        ``{"DAPI": f, "GFP": [g, h]}``. Channels that are not named pass through unchanged.
    params
        Parameters of the function itself, so they never collide with the step's.
    stack
        The component along which the function's stack ``(N, Y, X)`` runs: z, channel, field or t. Left out, it is what
        the function declares, else z. The function is called once for each combination of the others.
    channel
        The channel, or channels, that the step takes; all others pass through unchanged.
    inputs
        Outputs of earlier steps, handed to the function by keyword: ``{"labels": "nuclei"}``.
    outputs
        What the function returns after its image: `Labels`, `Table`, `Points`, `ImageOutput`, one or several.
    save
        Keep the step's images among the run's results.
    name
        Left out, it is the function's.

    Raises
    ------
    UsageError
        If `params` or `inputs` is not a dict. All else is checked when the pipeline is compiled.

    Examples
    --------
    >>> from openhcs_jupyter.functions import gaussian_blur, top_hat
    >>> Step({"DAPI": [gaussian_blur, (top_hat, {"radius": 15})]}, save=True).name
    'gaussian_blur'
    """

    __slots__ = ("channel", "function", "inputs", "line", "name", "outputs", "params", "save", "stack")

    def __init__(
        self,
        function: Function,
        params: Mapping[str, Any] | None = None,
        *,
        stack: Component | None = None,
        channel: str | Sequence[str] | None = None,
        inputs: Mapping[str, str] | None = None,
        outputs: Output | Sequence[Output] = (),
        save: bool = False,
        name: str | None = None,
    ) -> None:
        self.function = function
        self.params = _mapping("params", params, '{"sigma": 2}')
        self.stack = stack
        self.channel = None if channel is None else _several(channel)
        self.inputs = _mapping("inputs", inputs, '{"labels": "nuclei"}')
        self.outputs = _several(outputs)
        self.save = bool(save)
        self.name = name or function_name(function)
        self.line = sys._getframe(1).f_lineno
        """Line on which the step was written."""

    def __repr__(self) -> str:
        return f"Step({self.name!r})"


class ViewRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A viewer in which the images of some steps are wanted while the run goes on."""

    steps: tuple[str, ...]
    """Names of the steps."""
    host: str = "localhost"
    port: int = 5555


class Pipeline:
    """Steps in order, with the text that defined them.

    Parameters
    ----------
    steps
        The steps.
    name
        The run's name.
    source
        The cell or file as the user wrote it; becomes part of the provenance.
    source_name
        Where the source stood, for error messages: ``Cell In[3]``, a file's name.
    script
        Python that makes the same steps by itself, as `capture` writes it; becomes part of the provenance.
    unsaid
        By name: what keeps the script from being written.
    view
        Viewers that the steps themselves ask for.
    """

    __slots__ = ("name", "script", "source", "source_name", "steps", "unsaid", "view")

    def __init__(
        self,
        steps: Sequence[Step],
        name: str = "run",
        source: str = "",
        source_name: str = "<pipeline>",
        script: str = "",
        unsaid: Mapping[str, str] | None = None,
        view: Sequence[ViewRequest] = (),
    ) -> None:
        self.steps = tuple(steps)
        self.name = name
        self.source = source
        self.source_name = source_name
        self.script = script
        self.unsaid = dict(unsaid or {})
        self.view = tuple(view)

    def __repr__(self) -> str:
        return f"Pipeline({self.name!r}, {len(self.steps)} steps)"


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple | set | frozenset) else (value,)


def _mapping(name: str, value: Mapping[str, Any] | None, example: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UsageError(f"{name}= of a Step is {value!r}, not a dict", f"Write {name}={example}.")
    return dict(value)


def function_name(function: object) -> str:
    """Name a function, or a chain or dict by the first function in it."""
    if isinstance(function, tuple | list) and function:
        return function_name(function[0])
    if isinstance(function, Mapping) and function:
        return function_name(next(iter(function.values())))
    if isinstance(function, functools.partial):
        return function_name(function.func)
    return str(getattr(function, "__name__", None) or type(function).__name__)
