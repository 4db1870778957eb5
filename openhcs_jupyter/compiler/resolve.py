"""Resolves each step against the plate and the steps before it."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import msgspec

from openhcs_jupyter.compiler.grids import Grids, followed, lying
from openhcs_jupyter.compiler.images import ImageState
from openhcs_jupyter.compiler.parameters import plain
from openhcs_jupyter.compiler.plan import FunctionUse, PlannedInput, PlannedStep, grid_of
from openhcs_jupyter.compiler.problems import Problems, known
from openhcs_jupyter.compiler.selection import Chosen
from openhcs_jupyter.compiler.wiring import Made, Wiring
from openhcs_jupyter.model import WIDTH, Component, Scope
from openhcs_jupyter.pipeline import Pipeline, Step
from openhcs_jupyter.pipeline.chains import ALL, BoundCall, Chains, chains_of, signature_of, takes, takes_context
from openhcs_jupyter.pipeline.fingerprint import FingerprintError, fingerprint

_COMPONENTS: tuple[Component, ...] = ("z", "channel", "field", "t")


class Resolved(msgspec.Struct, frozen=True):
    """A pipeline that was held against its plate."""

    steps: list[PlannedStep]
    """Those that are sound."""
    taken: set[str]
    """Channels of the plate that some step takes."""
    before: dict[int, ImageState]
    """By step index: the images that it is given."""
    after: dict[int, ImageState]
    """By step index: the images that it leaves."""


def resolve(pipeline: Pipeline, chosen: Chosen, problems: Problems) -> Resolved:
    """Resolve every step of a pipeline.

    Parameters
    ----------
    pipeline
        The pipeline as the user wrote it.
    chosen
        What the run takes of the plate.
    problems
        Takes what is found amiss; steps at fault are left out of the answer.
    """
    if not pipeline.steps:
        problems.add("the pipeline has no steps", "Put at least one Step(...) into pipeline_steps.")
    wiring = Wiring(pipeline)
    state = ImageState(tuple(chosen.slices), dict(chosen.slices))
    resolved = Resolved([], set(), {}, {})
    resolvers: list[_Resolver] = []
    steps: Sequence[object] = pipeline.steps
    for index, step in enumerate(steps):
        if not isinstance(step, Step):
            problems.add(f"pipeline_steps[{index}] is {step!r}, not a Step", "Write Step(function, params).")
            continue
        resolver = _Resolver(step, index, state, wiring, chosen, problems)
        planned = resolver.resolve()
        resolved.before[index] = state
        state = resolved.after[index] = resolver.after
        resolvers.append(resolver)
        resolved.taken.update(set(resolver.taken) & set(chosen.slices))
        if planned is not None:
            resolved.steps.append(planned)
    spare = set(chosen.slices) - resolved.taken
    for resolver in resolvers:
        resolver.check_joins(set(resolver.before.channels) - spare)
    for position, planned in enumerate(resolved.steps):
        after = tuple(name for name in planned.channels_after if name not in spare)
        resolved.steps[position] = msgspec.structs.replace(planned, channels_after=after)
    for states in (resolved.before, resolved.after):
        for index, one in states.items():
            kept = tuple(name for name in one.channels if name not in spare)
            states[index] = msgspec.structs.replace(one, channels=kept)
    return resolved


class _Resolver:
    """Resolves one step; every check adds its problem and lets the next one look, too."""

    def __init__(
        self,
        step: Step,
        index: int,
        before: ImageState,
        wiring: Wiring,
        chosen: Chosen,
        problems: Problems,
    ) -> None:
        self.step = step
        self.index = index
        self.before = before
        self.wiring = wiring
        self.chosen = chosen
        self.problems = problems
        self.sound = True
        self.taken: tuple[str, ...] = ()
        """Channels that the step takes."""
        self.after = before
        self.joins: Literal["fields", "time points"] | None = None
        """What it joins; channels that it does not take would be lost."""

    def fault(self, message: str, hint: str | None = None) -> None:
        self.sound = False
        self.problems.add(f"{self.step.name}: {message}", hint, self.step)

    def resolve(self) -> PlannedStep | None:
        self._check_name()
        try:
            chains = chains_of(self.step)
        except TypeError as error:
            self.fault(str(error), "A step takes f, (f, params), [f, (g, params)] or {channel: any of these}.")
            return None
        kind = self._kind(chains)
        stack = self._stack(chains)
        self.taken = channels = self._channels(chains) if kind != "table" else ()
        self._check_calls(chains, kind)
        outputs = self.wiring.outputs(self.step, self.index, kind, stack, channels, self.fault)
        inputs = self.wiring.inputs(self.step, self.index, kind, stack, channels, self.before, self.fault)
        scope = self._scope(kind, stack, chains, inputs)
        uses = {key: tuple(self._use(call, kind) for call in chain) for key, chain in chains.items()}
        grids: Grids = {}
        if kind == "table":
            grids = self.wiring.grids(inputs)
        elif self.sound:
            grids = followed(self.before, channels, chains, self.fault)
        if kind == "pixels":
            self.after = lying(self.before, self._after(stack, channels, chains), channels, grids)
        planned = PlannedStep(
            index=self.index,
            name=self.step.name,
            line=self.step.line,
            kind=kind,
            stack=stack,
            chains=uses,
            channels=channels,
            channels_after=self.after.channels,
            inputs=inputs,
            outputs=outputs,
            keep_as=self.step.name if self.step.save else None,
            scope=scope,
            grids=grids,
        )
        made_scope: Scope = "plate" if kind == "reducer" else scope
        grid = grid_of(planned, channels)
        self.wiring.made += [Made(output, self.index, channels, made_scope, stack, grid) for output in outputs]
        return planned if self.sound else None

    def check_joins(self, needed: Collection[str]) -> None:
        """Check that joining fields or time points loses no channel that some step takes."""
        lost = [name for name in self.before.channels if name in needed and name not in self.taken]
        if self.joins and lost:
            self.fault(
                f"{self.joins} can only be joined in all channels at once, and it does not take {', '.join(lost)}",
                "Leave out channel= and dict keys.",
            )

    def _check_name(self) -> None:
        name: object = self.step.name
        if not isinstance(name, str) or not name.isprintable() or "/" in name:
            self.fault(f"{name!r} cannot name a step", "A name is printable text without a slash.")

    def _kind(self, chains: Chains) -> Literal["pixels", "table", "reducer"]:
        calls = [call for chain in chains.values() for call in chain]
        alone = len(calls) == 1 and ALL in chains
        if any(call.is_reducer for call in calls):
            if not alone:
                self.fault("a reducer stands alone in its step, not in a chain or dict", "Name channels with channel=.")
            if self.step.save:
                self.fault("save=True keeps images, and a reducer makes none", "Its outputs are kept anyway.")
            return "reducer"
        if any(call.contract.kind == "table" or self._looks_like_table(call) for call in calls):
            if not alone:
                self.fault("a table function stands alone in its step, not in a chain or dict")
            if self.step.save:
                self.fault("save=True keeps images, and a table function makes none", "Its outputs are kept anyway.")
            for given in ("channel", "stack"):
                if getattr(self.step, given) is not None:
                    self.fault(f"{given}= is about images, and a table function takes tables", f"Leave out {given}=.")
            if not self.step.inputs:
                self.fault("a table function takes tables, and is given none", 'Name them: inputs={"objects": "name"}.')
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
        named: Sequence[str] = self.before.channels
        if ALL not in chains:
            if self.step.channel is not None:
                self.fault("channel= stands beside a dict by channel", "Name the channels in one of the two.")
            named = tuple(chains)
        elif self.step.channel is not None:
            named = self.step.channel
            if not named:
                self.fault("channel= names no channel", "Leave it out to take all channels.")
        for name in named:
            if name in self.before.channels:
                continue
            if name in self.chosen.absent:
                why, hint = self.chosen.absent[name]
                self.fault(f"channel {name!r} is not in this run: {why}", hint)
            else:
                self.fault(f"there is no channel {name!r} at this step", known(name, self.before.channels))
        return tuple(name for name in self.before.channels if name in named)

    def _check_calls(self, chains: Chains, kind: str) -> None:
        calls = [call for chain in chains.values() for call in chain]
        if kind == "reducer":
            if self.step.inputs:
                self.fault("a reducer takes no inputs")
            for call in calls:
                if inspect.isclass(call.function):
                    self._check_bind(call, (), {})
                elif call.params:
                    self.fault(f"params do not reach {call.name}: it is made already", "Give the class, or set them.")
            return
        taken: set[str] = set()
        for call in calls:
            extra: dict[str, Any] = dict.fromkeys(takes(call.function, tuple(self.step.inputs)))
            taken.update(extra)
            if takes_context(call.function):
                extra["context"] = None
            both = sorted(set(call.params) & set(extra))
            if both:
                self.fault(f"{call.name} is given {', '.join(both)} as a parameter and by the step")
            else:
                self._check_bind(call, () if kind == "table" else (None,), extra)
        for name in self.step.inputs:
            if name not in taken:
                self.fault(
                    f"none of its functions takes an input {name!r}",
                    "inputs= hands outputs of earlier steps to the function by keyword.",
                )

    def _check_bind(self, call: BoundCall, positional: tuple[None, ...], extra: Mapping[str, Any]) -> None:
        signature = signature_of(call.function)
        if signature is None:
            return
        parameters = signature.parameters
        subject = "" if call.name == self.step.name else f"{call.name} "
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            own = [name for name in list(parameters)[len(positional) :] if name not in extra]
            unknown = [name for name in call.params if name not in parameters]
            for name in unknown:
                self.fault(f"{subject}has no parameter {name!r}", known(name, own))
            if unknown:
                return
        try:
            signature.bind(*positional, **call.params, **extra)
        except TypeError as error:
            self.fault(f"{call.name}{signature} cannot be called so: {error}")

    def _scope(self, kind: str, stack: Component, chains: Chains, inputs: Sequence[PlannedInput]) -> Scope:
        if kind == "table":
            over = next(iter(chains.values()))[0].contract.over or "plate"
            makers = [made.scope for made in self.wiring.made if made.step in {entry.step for entry in inputs}]
            return max([over, *makers], key=lambda scope: WIDTH[scope])
        if stack == "field" and not self.before.by_field:
            self.fault("the fields of each well are one image by now; there is no stack along fields")
        return "well" if stack == "field" or not self.before.by_field else "field"

    def _use(self, call: BoundCall, kind: str) -> FunctionUse:
        try:
            identity = fingerprint(call.function, call.params)
        except FingerprintError as error:
            self.fault(error.message, error.hint)
            identity = ""
        reducer = kind == "reducer"
        return FunctionUse(
            name=call.name,
            module=str(getattr(call.function, "__module__", "")),
            kind="reducer" if reducer else call.contract.kind,
            params={name: plain(value) for name, value in call.params.items()},
            fingerprint=identity,
            takes_context=not reducer and takes_context(call.function),
            takes=() if reducer else takes(call.function, tuple(self.step.inputs)),
            need=call.contract.need,
        )

    def _after(self, stack: Component, channels: tuple[str, ...], chains: Chains) -> ImageState:
        """Follow what the step does to channels, slices and fields."""
        before = self.before
        depths = {key: _depth(chain) for key, chain in chains.items()}
        if stack == "z":
            return before.after_z(self.index, channels, depths)
        if stack == "channel":
            return before.after_channels(self.step.name, channels, depths, self.fault)
        if "one" not in depths.values() or (stack == "t" and (self.chosen.size_t < 2 or not before.by_time)):
            return before
        self.joins = "fields" if stack == "field" else "time points"
        if set(depths.values()) != {"one"}:
            self.fault(f"some of its functions join {self.joins} and others do not", "Make it two steps.")
        if stack == "field":
            return msgspec.structs.replace(before, by_field=False)
        return msgspec.structs.replace(before, by_time=False)


def _depth(chain: Sequence[BoundCall]) -> Literal["same", "one", "any"]:
    depth: Literal["same", "one", "any"] = "same"
    for call in chain:
        if call.contract.depth == "one":
            depth = "one"
        elif call.contract.depth == "any" and depth != "one":
            depth = "any"
    return depth
