"""Completes ``%openhcs`` and ``%%openhcs``: sub-commands, options, plates, channels, wells, runs."""

from __future__ import annotations

import argparse
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from openhcs_jupyter.config import Settings
from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.magics.options import cell_parser, option_action, option_strings

if TYPE_CHECKING:
    from openhcs_jupyter.magics.state import State

_LINE = re.compile(r"^\s*(%%?)openhcs(\s+.*)?$", re.DOTALL)


def matches(state: State, text: str) -> dict[str, Any]:
    """Complete a line as ``IPython.core.completer`` wants it.

    Parameters
    ----------
    state
        The magics' memory; its repository knows plates and runs.
    text
        The line up to the cursor.
    """
    from IPython.core.completer import SimpleCompletion

    found = complete(state, text)
    if found is None:
        return {"completions": []}
    fragment, words = found
    return {
        "completions": [SimpleCompletion(text=word, type="param") for word in words],
        "matched_fragment": fragment,
        "suppress": True,
        "ordered": True,
    }


def complete(state: State, text: str) -> tuple[str, list[str]] | None:
    """Complete a line.

    Parameters
    ----------
    state
        The magics' memory.
    text
        The line up to the cursor.

    Returns
    -------
    tuple of str and list of str, or None
        The word, or part of it, that is being completed, and what it may become; None if the line is not ours.
    """
    match = _LINE.match(text)
    if match is None or not match[2]:
        return None
    words = match[2].split()
    fragment = "" if match[2][-1].isspace() else words.pop()
    try:
        candidates, fragment = _candidates(state, match[1] == "%%", words, fragment)
    except OpenHCSError:
        # A repository that cannot be asked has nothing to offer; the line itself will say why.
        candidates = []
    return fragment, [word for word in candidates if word.lower().startswith(fragment.lower())]


def _candidates(state: State, cell: bool, words: list[str], fragment: str) -> tuple[list[str], str]:
    from openhcs_jupyter.magics.line import line_parser, sub_parsers

    if cell:
        parser: argparse.ArgumentParser = cell_parser()
    else:
        commands = sub_parsers(line_parser())
        if not words:
            return list(commands), fragment
        if words[0] not in commands:
            return [], fragment
        parser = commands[words[0]]
        if words[0] in _POSITIONALS and not fragment.startswith("-"):
            position = len(words) - 1
            kinds = _POSITIONALS[words[0]]
            if position < len(kinds):
                return _values(state, kinds[position], words), fragment
    option, equals, value = fragment.partition("=")
    if equals and option.startswith("--"):
        words, fragment = [*words, option], value
    action = option_action(parser, words[-1]) if words else None
    if action is not None and action.nargs != 0:
        if action.choices is not None:
            return [str(choice) for choice in action.choices], fragment
        kind = _KINDS.get(action.dest)
        candidates = _values(state, kind, words) if kind else []
        if kind in ("wells", "channels"):
            # The last of the names with commas between.
            fragment = re.split(r"[,:]", fragment)[-1]
        return candidates, fragment
    taken = set(words)
    return [text for text in option_strings(parser) if text not in taken], fragment


_KINDS = {
    "plate": "plates",
    "wells": "wells",
    "preview": "wells",
    "channels": "channels",
    "resume": "runs",
    "device": "devices",
    "server": "servers",
}
_POSITIONALS = {
    "connect": ("repositories",),
    "plate": ("plates",),
    "status": ("runs",),
    "attach": ("runs",),
    "cancel": ("runs",),
    "results": ("runs",),
    "replay": ("runs",),
    "cache": ("clear",),
    "plan": ("runs",),
    "view": ("runs",),
    "resume": ("jobs",),
    "park": ("jobs",),
    "log": ("jobs",),
    "server": ("actions", "servers"),
    "config": ("settings",),
    "functions": ("functions",),
    "help": ("topics",),
}


def _values(state: State, kind: str, words: list[str]) -> list[str]:
    if kind == "plates":
        plates = state.repository.plates()
        return [*(str(plate.id) for plate in plates), *(_quoted(plate.name) for plate in plates)]
    if kind in ("wells", "channels"):
        return _of_plate(state, kind, words)
    if kind == "runs":
        return state.run_names()
    if kind == "functions":
        from openhcs_jupyter import functions

        return list(functions.__all__)
    if kind == "topics":
        from openhcs_jupyter.magics.line import line_parser, sub_parsers

        return ["cell", *sub_parsers(line_parser())]
    if kind == "devices":
        from openhcs_jupyter.topology import discover

        return ["auto", "cpu", "gpu", *(device.id for device in discover().devices)]
    if kind == "servers":
        from openhcs_jupyter.client import profile_names

        return profile_names()
    if kind == "jobs":
        return state.job_names()
    fixed = {
        "actions": ["status", "list", "add", "remove"],
        "clear": ["clear"],
        "repositories": ["default", "demo"],
        "settings": list(Settings.__struct_fields__),
    }
    return fixed[kind]


def _of_plate(state: State, kind: str, words: list[str]) -> list[str]:
    named = next((word for option, word in pairwise(words) if option == "--plate"), None)
    wanted: int | str | None = int(named) if named and named.isdecimal() else named or state.plate
    if wanted is None:
        plates = state.repository.plates()
        if len(plates) != 1:
            return []
        wanted = plates[0].id
    plate = state.repository.plate(wanted)
    if kind == "wells":
        return [well.name for well in plate.wells]
    return [_quoted(channel.name) for channel in plate.channels]


def _quoted(name: str) -> str:
    return f"'{name}'" if re.search(r"\s", name) else name
