"""The widgets of `tune` and `build`: one text is the truth, and controls, code and preview follow it."""

from __future__ import annotations

import asyncio
import html
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import ipywidgets as w

from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.functions import __all__ as standard
from openhcs_jupyter.pipeline.chains import signature_of
from openhcs_jupyter.pipeline.contracts import UNKNOWN, contract_of
from openhcs_jupyter.widgets import pictures
from openhcs_jupyter.widgets.canvas import CodeCanvas, ImageCanvas
from openhcs_jupyter.widgets.code import PipelineText, StepText, step_text, value_text
from openhcs_jupyter.widgets.controls import control_of
from openhcs_jupyter.widgets.draft import Draft
from openhcs_jupyter.widgets.parameters import parameters_of, suggested
from openhcs_jupyter.widgets.preview import Evaluator, Preview, Previewer
from openhcs_jupyter.widgets.tiles import Tiles

_SOON_S = 0.02
"""A slider sends many values; what comes within this time is computed once."""
_SIDE = 310
_FINENESS = 2
"""Pixels of a picture for each of the page's."""
_ROWS = 4
_ALL = "all channels"


class Workbench:
    """Shows a `Draft`.

    Parameters
    ----------
    state
        What is worked on; its text, step, well and field follow what the user does.
    """

    def __init__(self, state: Draft) -> None:
        self._state = state
        self._evaluator = Evaluator(state.names)
        self._previewer = Previewer(state.source)
        self._is_due = False
        self._settling = False
        self._images = ImageCanvas(self._answered, columns=2, side=_SIDE)
        self._tiles = Tiles(self._images.send)
        self._code = CodeCanvas(text=state.text.text)
        self._code.observe(self._typed, "text")
        self._params = w.VBox([])
        self._tables = w.HTML()
        self._note = w.HTML()
        self._doc = w.HTML()
        names = [well.name for well in state.source.plate.wells]
        small = w.Layout(width="130px")
        self._well = w.Dropdown(options=names, value=state.well, description="Well", layout=small)
        self._field = w.Dropdown(
            options=state.source.fields(state.well), value=state.field, description="Field", layout=small
        )
        self._steps = (
            w.Select(options=[], rows=8, layout=w.Layout(width="260px"))
            if state.builds
            else w.Dropdown(options=[], description="Step", layout=w.Layout(width="320px"))
        )
        for box in (self._well, self._field, *(() if state.builds else (self._steps,))):
            box.style.description_width = "initial"
        self._well.observe(self._moved, "value")
        self._field.observe(self._moved, "value")
        self._steps.observe(self._chosen, "value")
        self.root = self._layout()
        self._show_steps()
        self._show_params()
        self._soon()

    # What stands where.

    def _layout(self) -> Any:
        place = w.HBox([self._well, self._field])
        preview = w.VBox([self._images, self._note, self._tables])
        row = w.Layout(flex_flow="row wrap", grid_gap="16px")
        if not self._state.builds:
            side = w.VBox([place, self._steps, self._params, self._doc], layout=w.Layout(width="440px"))
            return w.VBox([w.HBox([side, preview], layout=row), self._code])
        self._functions = w.Combobox(
            options=self._offered(),
            placeholder="a function to add",
            ensure_option=False,
            layout=w.Layout(width="190px"),
        )
        self._functions.observe(self._told_function, "value")
        add = w.Button(description="Add", layout=w.Layout(width="60px"))
        add.on_click(self._add)
        buttons = []
        for text, tip, work in (
            ("\u2191", "Move the step up", partial(self._shift, -1)),
            ("\u2193", "Move the step down", partial(self._shift, 1)),
            ("Remove", "Take the step out", self._remove),
        ):
            button = w.Button(description=text, tooltip=tip, layout=w.Layout(width="auto"))
            button.on_click(work)
            buttons.append(button)
        side = w.VBox(
            [w.HBox([self._functions, add]), self._steps, w.HBox(buttons), place, self._params, self._doc],
            layout=w.Layout(width="400px"),
        )
        wide = w.Layout(flex="1 1 480px", min_width="0")
        return w.HBox([side, w.VBox([self._code, preview], layout=wide)], layout=row)

    def _offered(self) -> list[str]:
        own = [
            name
            for name, value in self._state.names.items()
            if not name.startswith("_")
            and (contract_of(value) is not UNKNOWN or getattr(value, "__module__", "") == "__main__")
            and inspect.isfunction(value)
        ]
        return [*standard, *(name for name in own if name not in standard)]

    # The text is the truth.

    def _change(self, text: PipelineText, step: int | None = None) -> None:
        """Take a text that the controls have made."""
        self._state.text = text
        if step is not None:
            self._state.step = step
        self._settling = True
        try:
            self._code.text, self._code.complaint = text.text, ""
        finally:
            self._settling = False
        self._soon()

    def _typed(self, change: Mapping[str, Any]) -> None:
        """Take a text that the user has typed."""
        if self._settling or change["new"] == self._state.text.text:
            return
        try:
            self._state.text = PipelineText(change["new"])
        except OpenHCSError as error:
            self._code.complaint = error.message
            return
        self._code.complaint = ""
        self._state.step = max(0, min(self._state.step, len(self._state.text.steps) - 1))
        self._show_steps()
        self._show_params()
        self._soon()

    def _told(self) -> StepText | None:
        steps = self._state.text.steps
        return steps[self._state.step] if self._state.step < len(steps) else None

    # Steps come, go and move.

    def _show_steps(self) -> None:
        self._settling = True
        try:
            options = [
                (f"{number}  {_name(told)}", number - 1) for number, told in enumerate(self._state.text.steps, 1)
            ]
            self._steps.options = options
            self._steps.value = self._state.step if options else None
        finally:
            self._settling = False

    def _chosen(self, change: Mapping[str, Any]) -> None:
        if not self._settling and change["new"] is not None:
            self._state.step = int(change["new"])
            self._show_params()
            self._soon()

    def _add(self, _: object) -> None:
        name = self._functions.value.strip()
        function = self._evaluator.function(name)
        if function is None:
            self._note.value = _said(f"There is no function {name!r}.")
            return
        at = self._state.step + 1 if self._state.text.steps else 0
        options = suggested(function, name, self._outputs(at))
        if options.get("outputs", "").startswith("Labels"):
            options = {"channel": value_text(self._state.source.plate.channels[0].name)} | options
        self._change(self._state.text.insert(at, step_text(name, None, options)), at)
        self._functions.value = ""
        self._show_steps()
        self._show_params()

    def _outputs(self, before: int) -> dict[str, str]:
        """Return the outputs of the steps before one, by name."""
        try:
            entries = self._evaluator.steps(self._state.text)
        except OpenHCSError:
            return {}
        return {output.name: output.kind for entry in entries[:before] for step in entry for output in step.outputs}

    def _shift(self, by: int, _: object) -> None:
        to = self._state.step + by
        if 0 <= to < len(self._state.text.steps):
            self._change(self._state.text.move(self._state.step, to), to)
            self._show_steps()

    def _remove(self, _: object) -> None:
        if self._state.text.steps:
            at = self._state.step
            self._change(self._state.text.remove(at), max(0, min(at, len(self._state.text.steps) - 2)))
            self._show_steps()
            self._show_params()

    # Parameters.

    def _show_params(self) -> None:
        told = self._told()
        rows: list[Any] = []
        docs = []
        for number, call in enumerate(told.calls if told else ()):
            function = self._evaluator.function(call.function)
            if function is None:
                continue
            title = call.function + (f" of {call.channel}" if call.channel else "")
            rows.append(w.HTML(f"<b>{html.escape(title)}</b>"))
            docs.append(_doc(function, call.function))
            for parameter in parameters_of(function, _handed(told)):
                control = control_of(parameter, call.params.get(parameter.name), self._evaluator)
                control.observe(partial(self._set, number, parameter.name, parameter.default), "value")
                rows.append(control)
        if told is not None and told.calls and self._state.builds:
            rows += self._options(told)
        self._params.children = rows
        self._doc.value = "".join(docs)

    def _options(self, told: StepText) -> list[Any]:
        names = [channel.name for channel in self._state.source.plate.channels]
        written = told.options.get("channel", "").strip("\"'")
        wide = w.Layout(width="380px")
        rows = []
        if not written or written in names:
            channel = w.Dropdown(options=[_ALL, *names], value=written or _ALL, description="channel", layout=wide)
            channel.observe(
                lambda change: self._option("channel", None if change["new"] == _ALL else value_text(change["new"])),
                "value",
            )
            rows.append(channel)
        for name in ("inputs", "outputs"):
            box = w.Text(told.options.get(name, ""), description=name, continuous_update=False, layout=wide)
            box.observe(lambda change, name=name: self._option(name, change["new"].strip() or None), "value")
            rows.append(box)
        save = w.Checkbox(told.options.get("save") == "True", description="save the images")
        save.observe(lambda change: self._option("save", "True" if change["new"] else None), "value")
        return [*rows, save]

    def _option(self, name: str, value: str | None) -> None:
        self._try(lambda: self._state.text.set_option(self._state.step, name, value))

    def _set(self, call: int, name: str, default: Any, change: Mapping[str, Any]) -> None:
        told = self._told()
        if told is None or self._settling:
            return
        params = dict(told.calls[call].params)
        written = change["owner"].written()
        if written == value_text(default) and name not in params:
            return
        params[name] = written
        self._try(lambda: self._state.text.set_params(self._state.step, call, params))

    def _try(self, work: Callable[[], PipelineText]) -> None:
        try:
            self._change(work())
        except OpenHCSError as error:
            self._note.value = _said(error.message)

    # The preview.

    def _moved(self, change: Mapping[str, Any]) -> None:
        if change["owner"] is self._well:
            fields = self._state.source.fields(self._well.value)
            self._state.well = self._well.value
            self._field.options = fields
        self._state.field = self._field.value
        self._soon()

    def _soon(self) -> None:
        """Compute the preview when what is on its way has come."""
        if self._is_due:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._compute()
            return
        self._is_due = True
        loop.call_later(_SOON_S, self._compute)

    def _compute(self) -> None:
        self._is_due = False
        state = self._state
        if not state.text.steps:
            self._note.value = "Add a step, or paste the text of a cell."
            self._images.tiles = []
            return
        try:
            entries = self._evaluator.steps(state.text)
            shown = self._previewer.look(entries, state.step, state.well, state.field, _FINENESS * _SIDE)
        except OpenHCSError as error:
            self._note.value = _said(str(error))
            return
        self._show(shown)

    def _show(self, shown: Preview) -> None:
        where = f"{self._state.well} field {self._state.field}"
        tiles = [{"id": "before", "caption": f"{where}, before"}, {"id": "after", "caption": f"{where}, after"}]
        if self._images.tiles != tiles:
            self._images.tiles = tiles
        told = self._told()
        name = html.escape(_name(told)) if told else ""
        again = f"; {shown.computed} step{'s' * (shown.computed != 1)} computed" if shown.computed != 1 else ""
        self._note.value = f"{name} took {1000 * shown.seconds:.0f} ms{again}."
        self._tables.value = "".join(
            f"<div>{html.escape(label)}: {len(table):,} rows</div>"
            + table.head(_ROWS).to_html(
                border=0, index=False, max_cols=9, classes="ohx-table", float_format="{:.5g}".format
            )
            for label, table in shown.tables.items()
        )
        self._tiles.show(
            {"after": partial(pictures.encoded, shown.after), "before": partial(pictures.encoded, shown.before)}
        )

    def _answered(self, content: Mapping[str, Any]) -> None:
        if content.get("type") == "ack":
            self._tiles.answered(int(content["number"]))

    def _told_function(self, change: Mapping[str, Any]) -> None:
        function = self._evaluator.function(change["new"].strip()) if change["new"] else None
        if function is not None:
            self._doc.value = _doc(function, change["new"].strip(), is_open=True)


def _name(told: StepText) -> str:
    return " + ".join(dict.fromkeys(call.function for call in told.calls)) or told.code[:40]


def _handed(told: StepText | None) -> list[str]:
    """Return the names that a step's function is handed from earlier outputs."""
    import ast

    written = told.options.get("inputs") if told else None
    try:
        return list(ast.literal_eval(written)) if written else []
    except (ValueError, SyntaxError):
        return []


def _doc(function: Callable[..., Any], name: str, *, is_open: bool = False) -> str:
    text = inspect.getdoc(function) or "It has no documentation."
    head = f"{name}{signature_of(function) or '(...)'}"
    style = "white-space:pre-wrap;font-size:11px;line-height:1.35;margin:2px 0;max-height:260px;overflow:auto"
    shown = " open" if is_open else ""
    return (
        f"<details{shown}><summary>{html.escape(text.splitlines()[0])}</summary>"
        f'<pre style="{style}">{html.escape(head)}\n\n{html.escape(text)}</pre></details>'
    )


def _said(message: str) -> str:
    return f'<pre style="white-space:pre-wrap;margin:0;color:#d55e00">{html.escape(message)}</pre>'
