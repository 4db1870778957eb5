"""How the pixels of each channel lie over the recorded ones, from function to function of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from openhcs_jupyter.compiler.images import ImageState
from openhcs_jupyter.compiler.problems import Fault
from openhcs_jupyter.model import RECORDED, PixelGrid, common_grid
from openhcs_jupyter.pipeline.chains import ALL, BoundCall, Chains, signature_of

Grids = Mapping[str, tuple[PixelGrid | None, ...]]
"""As `PlannedStep.grids`."""


def followed(before: ImageState, channels: Sequence[str], chains: Chains, fault: Fault) -> Grids:
    """Follow the pixels of the channels that a step takes through their chains."""
    changes = {key: [_change(call, fault) for call in chain] for key, chain in chains.items()}
    found = {}
    for channel in channels:
        grids = [before.grid(channel)]
        for change in changes[ALL if ALL in chains else channel]:
            last = grids[-1]
            grids.append(last.then(change) if last and change else None)
        if set(grids) != {RECORDED}:
            found[channel] = tuple(grids)
    return found


def lying(before: ImageState, after: ImageState, channels: Sequence[str], grids: Grids) -> ImageState:
    """Return the images after a step with their grids; a channel into which it joins others has what they share."""
    ends = {name: before.grid(name) for name in before.channels}
    taken = {name: grids[name][-1] if name in grids else RECORDED for name in channels}
    joined = common_grid(taken.values())
    known = {name: (ends | taken).get(name, joined) for name in after.channels}
    return msgspec.structs.replace(after, grids={name: grid for name, grid in known.items() if grid != RECORDED})


def _change(call: BoundCall, fault: Fault) -> PixelGrid | None:
    """Return how the pixels that a function makes lie over those that it takes."""
    told = call.contract.grid
    if told is None:
        return RECORDED
    signature = signature_of(call.function)
    parameters = signature.parameters.values() if signature else ()
    params = {one.name: one.default for one in parameters if one.default is not one.empty} | call.params
    try:
        change = told(params)
        return None if change is None else RECORDED.then(change)  # says, too, whether these are numbers
    except Exception as error:  # noqa: BLE001 - the declaration is the user's
        fault(f"{call.name} does not tell from its parameters how its pixels lie: {error!r}")
        return None
