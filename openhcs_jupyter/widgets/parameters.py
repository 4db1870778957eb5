"""A function's parameters as controls: kinds and ranges from its signature, help from its documentation."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Collection
from typing import Any, Literal, NamedTuple, get_args

from openhcs_jupyter.pipeline.chains import signature_of
from openhcs_jupyter.pipeline.contracts import contract_of, is_reducer

ParameterKind = Literal["int", "float", "bool", "choice", "text"]
_NOT_TUNED = ("context",)
_LITERAL = re.compile(r"^(?:typing\.)?Literal\[(.*)\]$")


class Parameter(NamedTuple):
    """One parameter of a function."""

    name: str
    kind: ParameterKind
    default: Any
    choices: tuple[Any, ...] = ()
    help: str = ""


def parameters_of(function: Callable[..., Any], given: Collection[str] = ()) -> tuple[Parameter, ...]:
    """List what can be chosen of a function: not its stack, not what steps hand it.

    Parameters
    ----------
    function
        A step's function, or a reducer's class.
    given
        Names that the step fills from earlier outputs.
    """
    signature = signature_of(function)
    if signature is None:
        return ()
    takes_stack = not is_reducer(function) and contract_of(function).kind != "table"
    told = documented(function)
    found = []
    for position, parameter in enumerate(signature.parameters.values()):
        first = position == 0 and takes_stack
        if first or parameter.name in (*given, *_NOT_TUNED) or parameter.kind in _VARIADIC:
            continue
        if parameter.default is parameter.empty and contract_of(function).kind == "table":
            continue
        found.append(_parameter(parameter, told.get(parameter.name, "")))
    return tuple(found)


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)


def _parameter(parameter: inspect.Parameter, told: str) -> Parameter:
    default = None if parameter.default is parameter.empty else parameter.default
    choices = _choices(parameter.annotation)
    if choices:
        return Parameter(parameter.name, "choice", default if default in choices else choices[0], choices, told)
    kind: ParameterKind = "text"
    said = str(getattr(parameter.annotation, "__name__", parameter.annotation))
    if isinstance(default, bool) or said == "bool":
        kind = "bool"
    elif isinstance(default, int) or said == "int":
        kind = "int"
    elif isinstance(default, float) or said == "float":
        kind = "float"
    return Parameter(parameter.name, kind, default, (), told)


def _choices(annotation: Any) -> tuple[Any, ...]:
    if isinstance(annotation, str):
        match = _LITERAL.match(annotation.strip())
        if match is None:
            return ()
        import ast

        try:
            values = ast.literal_eval(f"({match[1]},)")
        except (ValueError, SyntaxError):
            return ()
        return tuple(values)
    return get_args(annotation) if getattr(annotation, "__origin__", None) is Literal else ()


def span_of(value: float, *, whole: bool) -> tuple[float, float, float]:
    """Return least, greatest and step of a slider that begins at a value."""
    if value == 0:
        least, most = (0.0, 10.0) if whole else (0.0, 1.0)
    elif 50 < abs(value) <= 100 and not whole:
        least, most = 0.0, 100.0  # a percentage
    else:
        most = 10.0 ** math.ceil(math.log10(4 * abs(value)))
        most = next(size for size in (most / 5, most / 2, most) if size >= 3 * abs(value))
        least = 0.0
    if value < 0:
        least, most = -most, 0.0
    if whole:
        return float(math.floor(least)), float(math.ceil(most)), 1.0
    return least, most, (most - least) / 200


def documented(function: Callable[..., Any]) -> dict[str, str]:
    """Read what a NumPy docstring says of each parameter."""
    text = inspect.getdoc(function) or ""
    match = re.search(r"^Parameters\n-+\n(.*?)(?=^\S[^\n]*\n-{3,}|\Z)", text, re.MULTILINE | re.DOTALL)
    if match is None:
        return {}
    told: dict[str, str] = {}
    names: list[str] = []
    for line in match[1].splitlines():
        if line and not line[0].isspace():
            names = [name.strip() for name in line.partition(" : ")[0].split(",")]
        elif line.strip():
            for name in names:
                told[name] = f"{told.get(name, '')} {line.strip()}".strip()
    return told


def suggested(function: Callable[..., Any], name: str, outputs: dict[str, str]) -> dict[str, str]:
    """Suggest the options of a step for a function: names for what it returns, inputs for what it asks for.

    Parameters
    ----------
    function
        The function.
    name
        Its name.
    outputs
        Outputs of the steps before, by name: ``labels``, ``table`` or ``image``.

    Returns
    -------
    dict
        Keywords of the step, as text.
    """
    options: dict[str, str] = {}
    signature = signature_of(function)
    if signature is None:
        return options
    kind = contract_of(function).kind
    parameters = list(signature.parameters.values())[0 if kind == "table" or is_reducer(function) else 1 :]
    inputs = []
    for parameter in parameters:
        said = str(parameter.annotation)
        if parameter.default is not parameter.empty or not ("DataFrame" in said or "NDArray" in said):
            continue
        wanted = ("table", "points") if "DataFrame" in said else ("labels", "image")
        near = [output for output, made in outputs.items() if made in wanted]
        same = [output for output in near if output == parameter.name]
        if near:
            inputs.append(f'"{parameter.name}": "{(same or near)[-1]}"')
    if inputs:
        options["inputs"] = f"{{{', '.join(inputs)}}}"
    made = _returned(function)
    word = name.partition("_")[2] or name if kind != "table" else name
    named = [f'{maker}("{_free(word, outputs)}")' for maker in made]
    if named:
        options["outputs"] = named[0] if len(named) == 1 else f"[{', '.join(named)}]"
    return options


def _returned(function: Any) -> list[str]:
    """List what a function returns beside its image, as makers of outputs."""
    told = function.finish if is_reducer(function) else function
    said = str(getattr(told, "__annotations__", {}).get("return", ""))
    found = []
    for part in re.findall(r"int32|DataFrame|dict\[|float32", said):
        if part == "int32":
            found.append("Labels")
        elif part == "float32":
            found.append("ImageOutput")
        else:
            found.append("Table")
    return found


def _free(word: str, taken: Collection[str]) -> str:
    name, number = word, 2
    while name in taken:
        name, number = f"{word}{number}", number + 1
    return name
