"""Reads what OpenHCS's functions say of themselves, and makes them ready to be called here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from openhcs_jupyter.pipeline.openhcs._call import AS_INPUT, KEEP, PureFunction
from openhcs_jupyter.pipeline.openhcs._words import Fault, raw, word
from openhcs_jupyter.pipeline.outputs import ImageOutput, Labels, Output, Table
from openhcs_jupyter.pipeline.step import function_name

_CONTRACTS = ("PURE_2D", "PURE_3D", "FLEXIBLE", "VOLUMETRIC_TO_SLICE")
_TABLES = ("measurements", "table", "relationships", "object_lineage")
_OUTPUTS: dict[str, type[Output]] = {"image": ImageOutput, "object_labels": Labels, **dict.fromkeys(_TABLES, Table)}
"""By the value of OpenHCS's artifact type."""
_WRITERS: dict[str, type[Output]] = {
    "CsvOptions": Table,
    "JsonOptions": Table,
    "ROIOptions": Labels,
    "TiffStackOptions": ImageOutput,
    "ImageFileOptions": ImageOutput,
}
"""Of outputs without a type of their own: by how OpenHCS would write them."""
_MARKS = ("input_memory_type", "__artifact_outputs__", "__artifact_inputs__", "__special_inputs__")


class Input(NamedTuple):
    """What a function takes of an earlier step."""

    parameter: str
    wanted: str
    """The name under which the output was declared."""
    needed: bool
    """The parameter has no default."""


class Call(NamedTuple):
    """One function of a chain, with what it makes and takes beside images."""

    function: Callable[..., Any]
    params: dict[str, Any]
    outputs: tuple[Output, ...] = ()
    inputs: tuple[Input, ...] = ()


def read_call(entry: Any, dtype: object) -> Call | None:
    """Read one entry of a function pattern; None where it is not enabled.

    Parameters
    ----------
    entry
        A function, or a pair of it and its parameters. A function that carries nothing of OpenHCS's stays as it is.
    dtype
        What the step says about the pixel type: a member of OpenHCS's ``DtypeConversion``, its name, or None.

    Raises
    ------
    Fault
        If it is neither, or asks for what is not known here.
    """
    function, params = entry, {}
    if isinstance(entry, tuple):
        if len(entry) != 2 or not isinstance(entry[1], Mapping):
            raise Fault(f"{entry!r} is not (function, params)", "Chains are lists: [f, (g, {...})].")
        function, params = entry[0], {str(name): value for name, value in entry[1].items()}
    if not callable(function):
        raise Fault(f"{function!r} cannot be called", "Write func=f, (f, params), [f, ...] or {channel: f}.")
    pure = _pure(function)
    own = _parameters(pure)
    if "enabled" not in own and not params.pop("enabled", True):
        return None
    contract_name = _contract_name(function)
    if contract_name is None and not any(hasattr(function, mark) for mark in _MARKS):
        return Call(function, params)
    _check_memory(function)
    contract = contract_name or "FLEXIBLE"
    if contract not in _CONTRACTS:
        raise Fault(f"{function_name(function)} has the contract {contract}", f"Known are {', '.join(_CONTRACTS)}.")
    by_plane = contract == "PURE_2D"
    if "slice_by_slice" not in own:
        by_plane |= bool(params.pop("slice_by_slice", _default(function, "slice_by_slice")))
    if "dtype_config" not in own:
        said = raw(params.pop("dtype_config", None), "default_dtype_conversion")
        dtype = dtype if said is None else said
    outputs = tuple(_declared(function, spec) for spec in getattr(function, "__artifact_outputs__", None) or ())
    inputs = tuple(entry for entry in _inputs(function, own) if entry.parameter not in params)
    adapted = PureFunction(
        pure=pure,
        by_plane=by_plane,
        flattens=contract == "VOLUMETRIC_TO_SLICE" and not by_plane,
        dtype=_conversion(dtype),
        outputs=tuple(output.kind for output in outputs),
        aligned=tuple(entry.parameter for entry in inputs),
    )
    return Call(adapted, params, outputs, inputs)


def _pure(function: Callable[..., Any]) -> Callable[..., Any]:
    """Strip what OpenHCS wraps a function in, and nothing that its author did."""
    while hasattr(function, "__wrapped__") and _package(function) in ("openhcs", "arraybridge"):
        function = function.__wrapped__
    return function


def _package(function: Callable[..., Any]) -> str:
    """Return the package in which a function was written, also of a wrapper that took over its function's names."""
    return str(getattr(function, "__globals__", {}).get("__name__", "")).partition(".")[0]


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in functions tell nothing
        return {}


def _default(function: Callable[..., Any], parameter: str) -> object:
    parameters = _parameters(function)
    default = parameters[parameter].default if parameter in parameters else False
    return False if default is inspect.Parameter.empty else default


def _contract_name(function: Callable[..., Any]) -> str | None:
    said = getattr(function, "__openhcs_declared_processing_contract__", None)
    said = getattr(function, "__processing_contract__", None) if said is None else said
    return None if said is None else word(said).upper()


def _check_memory(function: Callable[..., Any]) -> None:
    for end in ("input_memory_type", "output_memory_type"):
        memory = word(getattr(function, end, "numpy"))
        if memory != "numpy":
            raise Fault(
                f"{function_name(function)} computes with {memory}; this version runs functions of NumPy",
                "Take the function of the same name for NumPy, such as those in numpy_processor.",
            )


def _conversion(said: object) -> str:
    name = KEEP if said is None else word(said).upper()
    return {"NATIVE": KEEP, "PRESERVE": AS_INPUT}.get(name, name)


def _declared(function: Callable[..., Any], spec: Any) -> Output:
    """Make an output of what a function declares: a name alone, or a name with a type and how it is written."""
    if isinstance(spec, str):
        return Table(spec)
    kind = str(getattr(spec.artifact_type, "value", None) or "special")
    if kind == "special":
        writers = getattr(spec.materialization, "outputs", None) or ()
        found = [_WRITERS[type(writer).__name__] for writer in writers if type(writer).__name__ in _WRITERS]
        return (found[0] if found else Table)(spec.name)
    if kind not in _OUTPUTS:
        raise Fault(
            f"{function_name(function)} makes {spec.name!r}, which is {kind}; outputs are labels, tables and images",
            "Call it from a function of your own that returns one of these: Step(my_function, outputs=...).",
        )
    return _OUTPUTS[kind](spec.name)


def _inputs(function: Callable[..., Any], own: Mapping[str, inspect.Parameter]) -> Iterator[Input]:
    """Iterate over what a function takes of earlier steps."""
    pairs = [
        (str(getattr(spec, "parameter_name", None) or spec.name), str(spec.name))
        for spec in getattr(function, "__artifact_inputs__", None) or ()
    ]
    pairs += [(str(name), str(name)) for name in getattr(function, "__special_inputs__", None) or ()]
    for parameter, wanted in pairs:
        needed = parameter not in own or own[parameter].default is inspect.Parameter.empty
        yield Input(parameter, wanted, needed)
