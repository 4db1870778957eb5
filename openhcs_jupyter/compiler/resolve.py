"""Resolves each step against the plate and the steps before it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from openhcs_jupyter.compiler.plan import FunctionUse, PlannedInput, PlannedOutput, PlannedStep
from openhcs_jupyter.compiler.problems import Problems, known
from openhcs_jupyter.model import WIDTH, Component, Scope
from openhcs_jupyter.pipeline import Pipeline, Step
from openhcs_jupyter.pipeline.chains import ALL, BoundCall, Chains, chains_of, signature_of, takes, takes_context
from openhcs_jupyter.pipeline.fingerprint import FingerprintError, fingerprint
from openhcs_jupyter.pipeline.outputs import Output

_COMPONENTS: tuple[Component, ...] = ("z", "channel", "field", "t")


class Made(msgspec.Struct, frozen=True):
    """An output that a step makes, as later steps see it."""

    output: PlannedOutput
    step: int
    channels: tuple[str, ...]
    scope: Scope


class _State:
    """The image as it stands between two steps."""

    def __init__(self, channels: Sequence[str], slices: Mapping[str, tuple[int, ...]]) -> None:
        self.channels = tuple(channels)
        self.slices: dict[str, tuple[int, ...] | None] = dict(slices)
        """By channel; None where only running tells."""
        self.by_field = True
        self.outputs: list[Made] = []


def resolve(
    pipeline: Pipeline,
    channels: Sequence[str],
    slices: Mapping[str, tuple[int, ...]],
    absent: Mapping[str, str],
    problems: Problems,
) -> list[PlannedStep]:
    """Resolve every step of a pipeline.

    Parameters
    ----------
    pipeline
        The pipeline as the user wrote it.
    channels
        Names of the channels that the run takes, in plate order.
    slices
        The z of each channel's planes.
    absent
        Channels of the plate that the run does not take, with the reason.
    problems
        Takes what is found amiss; steps at fault are left out of the answer.
    """
    if not pipeline.steps:
        problems.add("the pipeline has no steps", "Put at least one Step(...) into pipeline_steps.")
    state = _State(channels, slices)
    later = _output_names(pipeline)
    steps = []
    for index, step in enumerate(pipeline.steps):
        if not isinstance(step, Step):
            problems.add(f"pipeline_steps[{index}] is {step!r}, not a Step", "Write Step(function, params).")
            continue
        planned = _Resolver(step, index, state, absent, later, problems).resolve()
        if planned is not None:
            steps.append(planned)
    return steps


def _output_names(pipeline: Pipeline) -> dict[tuple[str, str], int]:
    """Tell which step is the first to make an output, by kind and name."""
    names: dict[tuple[str, str], int] = {}
    for index, step in enumerate(pipeline.steps):
        if isinstance(step, Step):
            for output in step.outputs:
                if isinstance(output, Output):
                    names.setdefault((output.kind, output.name), index)
    return names


class _Resolver:
    """Resolves one step; every check adds its problem and lets the next one look, too."""

    def __init__(
        self,
        step: Step,
        index: int,
        state: _State,
        absent: Mapping[str, str],
        later: Mapping[tuple[str, str], int],
        problems: Problems,
    ) -> None:
        self.step = step
        self.index = index
        self.state = state
        self.absent = absent
        self.later = later
        self.problems = problems
        self.sound = True

    def fault(self, message: str, hint: str | None = None) -> None:
        self.sound = False
        self.problems.add(f"{self.step.name}: {message}", hint, self.step)

    def resolve(self) -> PlannedStep | None:
        try:
            chains = chains_of(self.step)
        except TypeError as error:
            self.fault(str(error), "A step takes f, (f, params), [f, (g, params)] or {channel: any of these}.")
            return None
        kind = self._kind(chains)
        stack = self._stack(chains)
        channels = self._channels(chains) if kind != "table" else ()
        self._check_calls(chains, kind)
        outputs = self._outputs(kind, stack, channels)
        inputs = self._inputs(kind, stack, channels)
        scope = self._scope(kind, stack, chains, inputs)
        uses = {key: tuple(self._use(call, kind) for call in chain) for key, chain in chains.items()}
        after = self._after(stack, channels, chains) if kind == "pixels" else self.state.channels
        planned = PlannedStep(
            index=self.index,
            name=self.step.name,
            line=self.step.line,
            kind=kind,
            stack=stack,
            chains=uses,
            channels=channels,
            channels_after=after,
            inputs=inputs,
            outputs=outputs,
            keep=self.step.save,
            scope=scope,
        )
        made_scope: Scope = "plate" if kind == "reducer" else scope
        self.state.outputs += [Made(output, self.index, channels, made_scope) for output in outputs]
        return planned if self.sound else None

    def _kind(self, chains: Chains) -> Literal["pixels", "table", "reducer"]:
        calls = [call for chain in chains.values() for call in chain]
        if any(call.is_reducer for call in calls):
            if len(calls) > 1:
                self.fault("a reducer stands alone in its step, not in a chain or dict")
            return "reducer"
        if any(call.contract.kind == "table" or self._looks_like_table(call) for call in calls):
            if len(calls) > 1:
                self.fault("a table function stands alone in its step, not in a chain or dict")
            if self.step.save:
                self.fault("save=True keeps images, and a table function makes none", "Its outputs are kept anyway.")
            return "table"
        return "pixels"

    def _looks_like_table(self, call: BoundCall) -> bool:
        """Tell whether an undecorated function takes no image: its first parameter is one of the step's inputs."""
        if call.contract.kind is not None or not self.step.inputs:
            return False
        signature = signature_of(call.function)
        if signature is None or not signature.parameters:
            return False
        return next(iter(signature.parameters)) in self.step.inputs

    def _stack(self, chains: Chains) -> Component:
        if self.step.stack is not None:
            if self.step.stack not in _COMPONENTS:
                self.fault(
                    f"there is no stack along {self.step.stack!r}", f"stack= is one of {', '.join(_COMPONENTS)}."
                )
                return "z"
            return self.step.stack
        declared = {call.contract.stack for chain in chains.values() for call in chain} - {None}
        if len(declared) > 1:
            named = " and ".join(sorted(map(str, declared)))
            self.fault(f"its functions want stacks along {named}", "Say which with stack=, or make two steps.")
        return next(iter(declared), None) or "z"

    def _channels(self, chains: Chains) -> tuple[str, ...]:
        named: Sequence[str] = ()
        if ALL not in chains:
            if self.step.channel is not None:
                self.fault("channel= stands beside a dict by channel", "Name the channels in one of the two.")
            named = tuple(chains)
        elif self.step.channel is not None:
            named = self.step.channel
        for name in named:
            if name in self.state.channels:
                continue
            if name in self.absent:
                self.fault(f"channel {name!r} is not in this run: {self.absent[name]}")
            else:
                self.fault(f"there is no channel {name!r} at this step", known(name, self.state.channels))
        return tuple(name for name in self.state.channels if name in named) if named else self.state.channels

    def _check_calls(self, chains: Chains, kind: str) -> None:
        taken: set[str] = set()
        for call in (call for chain in chains.values() for call in chain):
            signature = signature_of(call.function)
            inputs = takes(call.function, tuple(self.step.inputs)) if not call.is_reducer else ()
            taken.update(inputs)
            if signature is None:
                continue
            extra: dict[str, Any] = dict.fromkeys(inputs)
            if kind != "reducer" and takes_context(call.function):
                extra["context"] = None
            both = sorted(set(call.params) & set(extra))
            if both:
                self.fault(f"{call.name} is given {', '.join(both)} as a parameter and by the step")
                continue
            positional = () if kind in ("table", "reducer") else (None,)
            if kind == "reducer" and not inspect.isclass(call.function):
                if call.params:
                    self.fault(f"params do not reach {call.name}: it is made already", "Give the class, or set them.")
                continue
            self._check_bind(call, signature, positional, extra)
        if kind == "reducer" and self.step.inputs:
            self.fault("a reducer takes no inputs")
        elif any(name not in taken for name in self.step.inputs):
            for name in self.step.inputs:
                if name not in taken:
                    self.fault(
                        f"none of its functions takes an input {name!r}",
                        "inputs= hands outputs of earlier steps to the function by keyword.",
                    )

    def _check_bind(
        self, call: BoundCall, signature: inspect.Signature, positional: tuple[None, ...], extra: dict[str, Any]
    ) -> None:
        parameters = signature.parameters
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            own = [name for name in list(parameters)[len(positional) :] if name not in extra]
            unknown = [name for name in call.params if name not in parameters]
            for name in unknown:
                self.fault(f"{call.name} has no parameter {name!r}", known(name, own))
            if unknown:
                return
        try:
            signature.bind(*positional, **call.params, **extra)
        except TypeError as error:
            self.fault(f"{call.name}{signature} cannot be called so: {error}")

    def _outputs(self, kind: str, stack: Component, channels: tuple[str, ...]) -> tuple[PlannedOutput, ...]:
        planned: list[PlannedOutput] = []
        for output in self.step.outputs:
            if not isinstance(output, Output):
                self.fault(f"{output!r} is not an output", "outputs= takes Labels, Table, Points or ImageOutput.")
                continue
            if not output.name.isidentifier():
                self.fault(f"{output.name!r} cannot name an output", "Use letters, digits and underscores.")
            twin = (output.kind, output.name) in {(made.kind, made.name) for made in planned}
            if twin or self.later[output.kind, output.name] != self.index:
                self.fault(f"there are two outputs {output.kind} {output.name!r}", "Give each its own name.")
            if kind == "table" and output.kind != "table":
                self.fault(f"a table function makes tables, not {output.kind}")
            by_channel = kind != "table" and stack != "channel" and len(channels) > 1
            planned.append(PlannedOutput(name=output.name, kind=output.kind, by_channel=by_channel))
        if kind in ("table", "reducer") and not planned and self.sound:
            self.fault("it names no output, so nothing would be left of it", 'Name one: outputs=Table("name").')
        return tuple(planned)

    def _inputs(self, kind: str, stack: Component, channels: tuple[str, ...]) -> tuple[PlannedInput, ...]:
        planned = []
        for keyword, name in self.step.inputs.items():
            made = self._made(kind, keyword, name)
            if made is None:
                continue
            if kind != "table":
                self._check_reach(made, stack, channels)
            planned.append(
                PlannedInput(
                    keyword=keyword,
                    name=name,
                    kind=made.output.kind,
                    step=made.step,
                    by_channel=made.output.by_channel,
                )
            )
        return tuple(planned)

    def _made(self, kind: str, keyword: str, name: str) -> Made | None:
        """Find what an input means: tables for a table function, pixels before tables for the others."""
        named = [made for made in self.state.outputs if made.output.name == name]
        tables = [made for made in named if made.output.kind in ("table", "points")]
        pixels = [made for made in named if made.output.kind in ("labels", "image")]
        if kind == "table" and pixels and not tables:
            self.fault(f"{keyword}={name!r} is {pixels[0].output.kind}; a table function takes tables")
            return None
        if kind == "table" and tables:
            return tables[0]
        if named:
            return (pixels or tables)[0]
        makers = [index for (_, other), index in self.later.items() if other == name]
        if not makers:
            names = dict.fromkeys(made.output.name for made in self.state.outputs)
            self.fault(f"no step makes its input {name!r}", known(name, names))
        elif min(makers) >= self.index:
            when = "by this step itself" if min(makers) == self.index else f"later, by step {min(makers) + 1}"
            self.fault(f"its input {name!r} is made {when}", "Put the step that makes it first.")
        return None

    def _check_reach(self, made: Made, stack: Component, channels: tuple[str, ...]) -> None:
        name = made.output.name
        if made.output.by_channel and stack == "channel":
            self.fault(
                f"{name!r} is made for each of {', '.join(made.channels)}, and this step takes channels together",
                "Make it from one channel: channel=... in the step that makes it.",
            )
        elif made.output.by_channel and set(channels) - set(made.channels):
            lacking = ", ".join(c for c in channels if c not in made.channels)
            self.fault(f"{name!r} is not made for channel {lacking}")
        elif made.scope == "field" and (stack == "field" or not self.state.by_field):
            self.fault(f"{name!r} is made in each field, and this step takes the fields of a well together")

    def _scope(self, kind: str, stack: Component, chains: Chains, inputs: Sequence[PlannedInput]) -> Scope:
        if kind == "table":
            over = next(iter(chains.values()))[0].contract.over or "plate"
            makers = [made.scope for made in self.state.outputs if made.step in {entry.step for entry in inputs}]
            return max([over, *makers], key=lambda scope: WIDTH[scope])
        if stack == "field" and not self.state.by_field:
            self.fault("the fields of each well are one image by now; there is no stack along fields")
        return "well" if stack == "field" or not self.state.by_field else "field"

    def _use(self, call: BoundCall, kind: str) -> FunctionUse:
        try:
            identity = fingerprint(call.function, call.params)
        except FingerprintError as error:
            self.fault(error.message, error.hint)
            identity = ""
        context = kind != "reducer" and takes_context(call.function)
        return FunctionUse(
            name=call.name,
            module=str(getattr(call.function, "__module__", "")),
            kind="reducer" if kind == "reducer" else call.contract.kind,
            params={name: _plain(value) for name, value in call.params.items()},
            fingerprint=identity,
            takes_context=context,
            takes=takes(call.function, tuple(self.step.inputs)) if kind != "reducer" else (),
            need=call.contract.need,
        )

    def _after(self, stack: Component, channels: tuple[str, ...], chains: Chains) -> tuple[str, ...]:
        """Follow what the step does to channels, slices and fields."""
        state = self.state
        depths = {key: _depth(chain) for key, chain in chains.items()}
        if stack == "z":
            for key, depth in depths.items():
                for name in channels if key == ALL else [c for c in channels if c == key]:
                    old = state.slices.get(name)
                    state.slices[name] = (0,) if depth == "one" else old if depth == "same" else None
        elif stack == "channel":
            if ALL not in chains:
                self.fault("a dict by channel cannot take its channels together", 'Use one function, or stack="z".')
            self._check_together(channels)
            if depths.get(ALL) == "one":
                rest = tuple(name for name in state.channels if name not in channels)
                if self.step.name in rest:
                    self.fault(f"its result would be a second channel {self.step.name!r}", "Give the step a name=.")
                if channels:
                    state.slices[self.step.name] = state.slices.get(channels[0])
                state.channels = (*rest, self.step.name)
                return state.channels
        elif stack == "field" and all(depth == "one" for depth in depths.values()):
            if set(channels) != set(state.channels):
                self.fault("fields can only be joined in all channels at once", "Leave out channel= and dict keys.")
            state.by_field = False
        return state.channels

    def _check_together(self, channels: tuple[str, ...]) -> None:
        known_slices = {name: self.state.slices.get(name) for name in channels}
        depths = {name: slices for name, slices in known_slices.items() if slices is not None}
        if len(set(depths.values())) < 2:
            return
        everywhere = sorted({z for slices in depths.values() for z in slices})
        for name, slices in depths.items():
            lacking = [z for z in everywhere if z not in slices]
            if lacking:
                self.fault(
                    f"takes channels together, but channel {name!r} has no plane at slice {lacking[0] + 1}",
                    "Project along z first, or name the channels with channel=[...].",
                )


def _depth(chain: Sequence[BoundCall]) -> Literal["same", "one", "any"]:
    depth: Literal["same", "one", "any"] = "same"
    for call in chain:
        if call.contract.depth == "one":
            depth = "one"
        elif call.contract.depth == "any" and depth != "one":
            depth = "any"
    return depth


def _plain(value: Any) -> Any:
    """Say a parameter in JSON, or describe it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, str | int | bool | None):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"<{type(value).__name__} {shape} {getattr(value, 'dtype', '')}>"
    return f"<{type(value).__name__}>" if len(repr(value)) > 200 else repr(value)
