"""Makes the steps of a pipeline that was written for OpenHCS into steps of this package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from openhcs_jupyter.errors import CompileError, Problem
from openhcs_jupyter.model import Component, Plate
from openhcs_jupyter.pipeline.openhcs._functions import Call, read_call
from openhcs_jupyter.pipeline.openhcs._wells import filtered, narrowed, some
from openhcs_jupyter.pipeline.openhcs._words import Fault, raw, word
from openhcs_jupyter.pipeline.openhcs.steps import FunctionStep, is_on
from openhcs_jupyter.pipeline.outputs import Output
from openhcs_jupyter.pipeline.step import Step, ViewRequest, function_name

_COMPONENTS: dict[str, Component] = {
    "site": "field",
    "field": "field",
    "channel": "channel",
    "z_index": "z",
    "z": "z",
    "timepoint": "t",
    "t": "t",
}
_NAPARI, _FIJI = "napari_streaming_config", "fiji_streaming_config"


class AdaptedSteps(NamedTuple):
    """A pipeline of OpenHCS's as this package runs it."""

    steps: list[Step]
    wells: tuple[str, ...] | None
    """Those that the steps' filters take; None: all."""
    notes: tuple[tuple[str, str], ...]
    """What is left out, and why."""
    view: tuple[ViewRequest, ...] = ()
    """Viewers that the steps ask for."""


def adapt(steps: Sequence[Step | FunctionStep], plate: Plate, source_name: str = "<pipeline>") -> AdaptedSteps:
    """Make steps of OpenHCS's into steps of this package; those that are stay as they are.

    Parameters
    ----------
    steps
        Both kinds may stand beside each other.
    plate
        Tells the names of channels and wells.
    source_name
        Where the steps were written, for error messages.

    Raises
    ------
    CompileError
        Holds everything that OpenHCS can say and this package cannot do, with what to write instead.
    """
    return _Adapter(plate, source_name).adapt(steps)


class _Segment(NamedTuple):
    """Calls of a chain up to one that makes outputs, or to the end."""

    calls: tuple[Call, ...]

    @property
    def outputs(self) -> tuple[Output, ...]:
        return self.calls[-1].outputs

    @property
    def function(self) -> list[Any]:
        return [(call.function, call.params) if call.params else call.function for call in self.calls]


class _Adapter:
    """Adapts the steps of one pipeline in their order."""

    def __init__(self, plate: Plate, source_name: str) -> None:
        self.plate = plate
        self.source_name = source_name
        self.problems: list[Problem] = []
        self.notes: list[tuple[str, str]] = []
        self.made: dict[str, str] = {}
        """By the name that a function declares: the name of the latest output of that kind."""
        self.names: set[str] = set()
        self.viewed: dict[tuple[str, int], list[str]] = {}
        """Names of steps, by host and port of the viewer that they ask for."""

    def adapt(self, steps: Sequence[Step | FunctionStep]) -> AdaptedSteps:
        adapted: list[Step] = []
        enabled: list[FunctionStep] = []
        for step in steps:
            if isinstance(step, Step):
                adapted.append(step)
                for output in step.outputs:
                    if isinstance(output, Output):
                        self.made[output.name] = output.name
                        self.names.add(output.name)
                continue
            if not step.enabled:
                self.notes.append((f"step {step.name!r}", "it is not enabled"))
                continue
            enabled.append(step)
            try:
                self._check(step, first=not adapted and len(enabled) == 1)
                adapted += self._steps(step)
            except Fault as fault:
                self._problem(step, fault)
        wells = self._wells(enabled, alone=all(isinstance(step, FunctionStep) for step in steps))
        if self.problems:
            raise CompileError(self.problems, self.source_name)
        view = tuple(
            ViewRequest(steps=tuple(names), host=host, port=port) for (host, port), names in self.viewed.items()
        )
        return AdaptedSteps(adapted, wells, tuple(self.notes), view)

    def _problem(self, step: FunctionStep, fault: Fault) -> None:
        self.problems.append(
            Problem(message=f"{step.name}: {fault.message}", hint=fault.hint, line=step.line or None, step=step.name)
        )

    def _check(self, step: FunctionStep, first: bool) -> None:
        """Check what a step says beside its function, and note what has no effect here."""
        source = step.said("processing_config", "input_source")
        if word(source) in ("pipeline_start", "start") and not first:
            raise Fault(
                "it takes the images as they were at the start of the pipeline; a step takes those of the step before",
                "Put it first, or make it a pipeline of its own.",
            )
        if step.said("source_bindings", "enabled"):
            raise Fault(
                "source bindings are not known here",
                "Name the outputs of earlier steps that the function takes: Step(function, inputs={...}).",
            )
        if is_on(step, _NAPARI):
            self.viewed.setdefault(_viewer(step), []).append(step.name)
        if is_on(step, _FIJI):
            self.notes.append((f"{_FIJI} of step {step.name!r}", "images are streamed to napari only"))

    # Functions.

    def _steps(self, step: FunctionStep) -> Iterator[Step]:
        """Make the steps that stand for one: several where a function in the midst of a chain makes outputs."""
        stack = self._stack(step)
        if not step.func:
            raise Fault("it has no function", "Write FunctionStep(func=...), or leave the step out.")
        if not isinstance(step.func, Mapping):
            yield from self._chain(step, stack, self._segments(step, step.func), None)
            return
        self._check_dict(step, stack)
        parts: dict[str, Any] = {}
        for key, part in step.func.items():
            channel = self._channel(key)
            if channel in parts:
                raise Fault(f"its dict of functions names channel {channel!r} twice", "Make it a chain: [f, g].")
            parts[channel] = part
        chains = {channel: self._segments(step, part) for channel, part in parts.items()}
        chains = {channel: segments for channel, segments in chains.items() if segments}
        if all(len(segments) == 1 for segments in chains.values()) and self._alike(chains):
            by_channel = {channel: segments[0].function for channel, segments in chains.items()}
            segments = [segments[0] for segments in chains.values()]
            if by_channel:
                yield self._step(step, by_channel, stack, segments, None, step.name, last=True)
            return
        for channel, segments in chains.items():
            yield from self._chain(step, stack, segments, channel)

    @staticmethod
    def _alike(chains: Mapping[str, Sequence[_Segment]]) -> bool:
        """Tell whether all channels make the same outputs, so that one step makes them."""
        return len({segments[0].outputs for segments in chains.values()}) < 2

    def _chain(
        self, step: FunctionStep, stack: Component, segments: Sequence[_Segment], channel: str | None
    ) -> Iterator[Step]:
        name = step.name if channel is None else f"{step.name} {channel}"
        for number, segment in enumerate(segments, 1):
            last = number == len(segments)
            own = name if last else f"{name} {number}"
            yield self._step(step, segment.function, stack, [segment], channel, own, last=last)

    def _step(
        self,
        step: FunctionStep,
        function: Any,
        stack: Component,
        segments: Sequence[_Segment],
        channel: str | None,
        name: str,
        *,
        last: bool,
    ) -> Step:
        inputs: dict[str, str] = {}
        for call in (call for segment in segments for call in segment.calls):
            for parameter, wanted, needed in call.inputs:
                if wanted in self.made:
                    inputs[parameter] = self.made[wanted]
                elif needed:
                    raise Fault(
                        f"{function_name(call.function)} takes {wanted!r}, which no step before it makes",
                        f"Put the step that makes it first, or hand it over: (function, {{{parameter!r}: ...}}).",
                    )
        outputs = tuple(self._output(step, channel, output) for output in segments[0].outputs)
        made = Step(
            function,
            stack=stack,
            channel=channel,
            inputs=inputs,
            outputs=outputs,
            save=last and is_on(step, "step_materialization_config"),
            name=name,
        )
        made.line = step.line
        return made

    def _output(self, step: FunctionStep, channel: str | None, output: Output) -> Output:
        """Give an output a name that no other has; later functions take the latest of the name they declare."""
        tries = [output.name, f"{step.name}_{output.name}"]
        if channel is not None:
            tries.insert(1, f"{output.name}_{channel}")
        name = next((name for name in tries if name not in self.names), None)
        number = 2
        while name is None or name in self.names:
            name = f"{output.name}_{number}"
            number += 1
        self.names.add(name)
        self.made[output.name] = name
        return type(output)(name)

    def _segments(self, step: FunctionStep, part: Any) -> list[_Segment]:
        segments: list[_Segment] = []
        calls: list[Call] = []
        for entry in part if isinstance(part, list) else [part]:
            call = read_call(entry, step.said("dtype_config", "default_dtype_conversion"))
            if call is None:
                self.notes.append((f"{function_name(entry)} in step {step.name!r}", "it is not enabled"))
                continue
            calls.append(call)
            if call.outputs:
                segments.append(_Segment(tuple(calls)))
                calls = []
        return [*segments, _Segment(tuple(calls))] if calls else segments

    # Components.

    @staticmethod
    def _stack(step: FunctionStep) -> Component:
        named = step.said("processing_config", "variable_components")
        if named is None:
            return "field"
        several = [named] if isinstance(named, str) or not isinstance(named, Sequence) else list(named)
        words = [word(one) for one in several]
        unknown = [name for name in words if name not in _COMPONENTS]
        if unknown:
            raise Fault(
                f"there is no stack along {unknown[0]!r}",
                "variable_components is one of SITE, CHANNEL, Z_INDEX and TIMEPOINT.",
            )
        if len(set(words)) != 1:
            raise Fault(
                f"its stack runs along {' and '.join(words) or 'nothing'}; a stack runs along one component",
                "Name one in variable_components; make two steps of it where the function allows it.",
            )
        return _COMPONENTS[words[0]]

    @staticmethod
    def _check_dict(step: FunctionStep, stack: Component) -> None:
        said = step.said("processing_config", "group_by")
        grouped = "channel" if said is None else word(said)
        if grouped != "channel":
            raise Fault(
                f"its dict of functions goes by {grouped}; dicts go by channel",
                'Write group_by=GroupBy.CHANNEL and channels as keys: {"1": f, "2": g}.',
            )
        if stack == "channel":
            raise Fault(
                "a dict by channel cannot take its channels together",
                "Write one function, or variable_components without CHANNEL.",
            )

    def _channel(self, key: object) -> str:
        names = [channel.name for channel in self.plate.channels]
        text = str(key)
        if text in names:
            return text
        if text.isdecimal() and 1 <= int(text) <= len(names):
            return names[int(text) - 1]
        there = ", ".join(f'"{number}" ({name})' for number, name in enumerate(names, 1))
        raise Fault(f"there is no channel {text!r}", f"Plate {self.plate.name!r} has {there}.")

    # Wells.

    def _wells(self, steps: Sequence[FunctionStep], *, alone: bool) -> tuple[str, ...] | None:
        """Find the wells that all steps take; a run takes the same in all of its steps."""
        taken: dict[tuple[str, ...] | None, FunctionStep] = {}
        for step in steps:
            try:
                wells = self._filtered(step)
                self._check_kept(step, wells)
            except Fault as fault:
                self._problem(step, fault)
            else:
                taken.setdefault(wells, step)
        its = next((wells for wells in taken if wells is not None), None)
        if its is not None and (len(taken) > 1 or not alone):
            others = [f"{step.name!r} takes {some(wells)}" for wells, step in taken.items() if wells != its]
            others = others or ["the steps that are no FunctionStep take all wells"]
            self._problem(
                taken[its],
                Fault(
                    f"it takes {some(its)}, and {others[0]}; a run takes the same wells in all of its steps",
                    "Give all steps the same well filter, or leave it out and choose with --wells.",
                ),
            )
        return its

    def _filtered(self, step: FunctionStep) -> tuple[str, ...] | None:
        """Resolve the filters of a step: the pipeline's, narrowed by its own."""
        general = filtered(raw(step.pipeline_config, "well_filter_config"), self.plate)
        own = filtered(step.step_well_filter_config, self.plate)
        if own is None:
            own = filtered(raw(step.pipeline_config, "step_well_filter_config"), self.plate)
        return narrowed(general, own)

    def _check_kept(self, step: FunctionStep, wells: tuple[str, ...] | None) -> None:
        if not is_on(step, "step_materialization_config"):
            return
        kept = filtered(step.step_materialization_config, self.plate)
        if kept is not None and kept != wells:
            raise Fault(
                f"its images are to be kept in {some(kept)} only; images are kept in all wells of a run",
                "Leave the well filter out of step_materialization_config.",
            )


def _viewer(step: FunctionStep) -> tuple[str, int]:
    """Return host and port of the napari that a step asks for."""
    host = step.said(_NAPARI, "host") or step.said("streaming_defaults", "host") or "localhost"
    port = step.said(_NAPARI, "port")
    if port is None:
        port = 5555
    if not isinstance(host, str) or not host.strip():
        raise Fault(f"host={host!r} of {_NAPARI} is no name of a machine", 'Write host="localhost".')
    if not isinstance(port, int) or not 0 < port < 65536:
        raise Fault(f"port={port!r} of {_NAPARI} is no port", "Ports are whole numbers from 1 to 65535.")
    return host.strip(), port
