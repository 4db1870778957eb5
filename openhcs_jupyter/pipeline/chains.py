"""Reads a step's function, pair, chain or dict as one form: chains of calls, by channel."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from openhcs_jupyter.pipeline.contracts import Contract, contract_of, is_reducer
from openhcs_jupyter.pipeline.step import Step, function_name

ALL = "*"
"""Key of the chain of a step that does the same to all the channels it takes."""


class BoundCall(NamedTuple):
    """One function of a chain with its parameters."""

    function: Callable[..., Any]
    params: dict[str, Any]

    @property
    def name(self) -> str:
        """The function's name."""
        return function_name(self.function)

    @property
    def contract(self) -> Contract:
        """What the function says of itself."""
        return contract_of(self.function)

    @property
    def is_reducer(self) -> bool:
        """Whether it has the four methods of a reducer."""
        return is_reducer(self.function)


Chains = dict[str, tuple[BoundCall, ...]]


def chains_of(step: Step) -> Chains:
    """Return the chains of a step by channel, or under `ALL`.

    Raises
    ------
    TypeError
        If the step's function is none of the forms that `Step` takes; says which part.
    """
    function = step.function
    if isinstance(function, Mapping):
        if step.params:
            raise TypeError("params stand beside a dict of functions; write (function, params) for each function")
        if not function:
            raise TypeError("its dict of functions is empty")
        if ALL in function:
            raise TypeError(f"{ALL!r} is not a channel; name channels, or leave out the dict to take all of them")
        return {str(channel): _chain(part) for channel, part in function.items()}
    if step.params:
        if isinstance(function, list | tuple):
            raise TypeError("params stand beside a chain or pair; write (function, params) for each function")
        return {ALL: (_call((function, step.params)),)}
    return {ALL: _chain(function)}


def _chain(part: Any) -> tuple[BoundCall, ...]:
    if isinstance(part, list):
        if not part:
            raise TypeError("its chain of functions is empty")
        return tuple(_call(call) for call in part)
    return (_call(part),)


def _call(call: Any) -> BoundCall:
    params: Mapping[str, Any] = {}
    function = call
    if isinstance(call, tuple):
        if len(call) != 2 or not isinstance(call[1], Mapping):
            raise TypeError(f"{call!r} is not (function, params)")
        function, params = call
    if not callable(function) and not is_reducer(function):
        raise TypeError(f"{function!r} cannot be called")
    return BoundCall(function, {str(name): value for name, value in params.items()})


def signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    """Return a function's signature, or None where Python cannot tell it."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions tell nothing
        return None


def takes(function: Callable[..., Any], names: Sequence[str]) -> tuple[str, ...]:
    """Return those of `names` that a function takes by keyword."""
    signature = signature_of(function)
    if signature is None:
        return ()
    parameters = signature.parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return tuple(names)
    by_keyword = {n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return tuple(name for name in names if name in by_keyword)


def takes_context(function: Callable[..., Any]) -> bool:
    """Tell whether a function asks for the `Context` of its call."""
    signature = signature_of(function)
    return signature is not None and "context" in signature.parameters
