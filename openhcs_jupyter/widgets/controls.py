"""One control for one parameter: a slider with a field, a box to tick, a choice, or a text."""

from __future__ import annotations

import ast
from typing import Any

import ipywidgets as w
import traitlets

from openhcs_jupyter.widgets.code import value_text
from openhcs_jupyter.widgets.parameters import Parameter, span_of
from openhcs_jupyter.widgets.preview import Evaluator

_WIDE = "380px"
_LABEL = "110px"


class NumberControl(w.HBox):  # type: ignore[misc]  # the base is not typed
    """A slider whose range grows when a number beyond it is typed."""

    value = traitlets.Float(0.0)

    def __init__(self, name: str, value: float, tip: str, *, whole: bool) -> None:
        least, most, step = span_of(value, whole=whole)
        self._whole = whole
        kind, field = (w.IntSlider, w.IntText) if whole else (w.FloatSlider, w.FloatText)
        number: Any = int if whole else float
        self._slider = kind(
            number(value), min=number(least), max=number(most), step=number(step), description=name, readout=False,
            description_tooltip=tip, layout=w.Layout(width="290px"),
        )  # fmt: skip
        self._slider.style.description_width = _LABEL
        self._field = field(number(value), layout=w.Layout(width="84px"))
        super().__init__([self._slider, self._field])
        self.value = float(value)
        self._slider.observe(self._slid, "value")
        self._field.observe(self._typed, "value")

    def written(self) -> str:
        """Return the value as code."""
        return value_text(int(self.value) if self._whole else self.value)

    def _slid(self, change: Any) -> None:
        self._field.value = change["new"]
        self.value = float(change["new"])

    def _typed(self, change: Any) -> None:
        new = change["new"]
        with self._slider.hold_trait_notifications():
            if new > self._slider.max:
                self._slider.max = new
            if new < self._slider.min:
                self._slider.min = new
            self._slider.value = new
        self.value = float(new)


class TickControl(w.Checkbox):  # type: ignore[misc]  # the base is not typed
    """A box to tick."""

    def written(self) -> str:
        """Return the value as code."""
        return repr(bool(self.value))


class ChoiceControl(w.Dropdown):  # type: ignore[misc]  # the base is not typed
    """One of several values."""

    def written(self) -> str:
        """Return the value as code."""
        return value_text(self.value)


class TextControl(w.Text):  # type: ignore[misc]  # the base is not typed
    """Anything else, as code."""

    def written(self) -> str:
        """Return the value as code; what is not Python is taken as a word."""
        text = str(self.value).strip()
        try:
            ast.parse(text, mode="eval")
        except SyntaxError:
            return repr(text)
        return text or "None"


def control_of(parameter: Parameter, written: str | None, evaluator: Evaluator) -> Any:
    """Make the control of a parameter.

    Parameters
    ----------
    parameter
        Of the function.
    written
        The value as it stands in the code; None where it stands nowhere.
    evaluator
        Knows what names in the code stand for.
    """
    value, is_known = (parameter.default, True) if written is None else evaluator.constant(written)
    layout, style = w.Layout(width=_WIDE), {"description_width": _LABEL}
    tip = parameter.help or parameter.name
    if is_known and parameter.kind == "bool":
        return TickControl(
            bool(value), description=parameter.name, tooltip=tip, indent=True, layout=layout, style=style
        )
    if is_known and parameter.kind == "choice" and value in parameter.choices:
        return ChoiceControl(
            options=parameter.choices, value=value, description=parameter.name, tooltip=tip, layout=layout, style=style
        )
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_known and number and parameter.kind in ("int", "float", "text"):
        whole = parameter.kind == "int" or (parameter.kind == "text" and isinstance(value, int))
        return NumberControl(parameter.name, value, tip, whole=whole and float(value).is_integer())
    shown = written if written is not None else "" if value is None else value_text(value)
    return TextControl(
        shown, description=parameter.name, tooltip=tip, continuous_update=False, layout=layout, style=style,
        placeholder="None",
    )  # fmt: skip
