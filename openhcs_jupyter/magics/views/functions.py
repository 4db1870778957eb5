"""``functions`` in a notebook and in the shell: the standard functions by kind, and the help of one."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable
from typing import Any

from openhcs_jupyter import functions
from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.magics.views import render
from openhcs_jupyter.magics.views.render import Rendered, grid, indented
from openhcs_jupyter.pipeline.contracts import contract_of, kernel_of

_KINDS = {
    "image": "Images to images",
    "measure": "Images to tables, labels and points",
    "table": "Tables to tables",
    "reducer": "Over a whole plate",
}
_HEADING = re.compile(r"^(\w[\w ]*)\n-{3,}$", re.MULTILINE)
_ROLE = re.compile(r"``?([^`]+)``?")


def functions_view(search: str | None, command: str = "%openhcs functions") -> Rendered:
    """Show the standard functions, those that a search finds, or the help of the one that it names.

    Parameters
    ----------
    search
        A name, or what stands in a name or a summary; None shows all.
    command
        How it was called, for what is said of calling it again.

    Raises
    ------
    UsageError
        If nothing is found.
    """
    if search in functions.__all__:
        return _help(search)
    wanted = (search or "").lower()
    found = {name: _summary(getattr(functions, name)) for name in functions.__all__}
    chosen = {name: text for name, text in found.items() if wanted in name.lower() or wanted in text.lower()}
    if not chosen:
        near = difflib.get_close_matches(wanted, [name.lower() for name in found], n=3)
        hint = f"Near to it: {', '.join(near)}." if near else f"{command} lists all."
        raise UsageError(f"No standard function has to do with {search!r}", hint)
    texts, body = [], []
    for kind, title in _KINDS.items():
        rows = [(name, text) for name, text in chosen.items() if contract_of(getattr(functions, name)).kind == kind]
        if rows:
            table = grid(["", ""], rows, limit=len(rows))
            texts += [title, *indented(table.text)]
            body += [f'<div style="margin-top:6px">{render.strong(title)}</div>', table.markup]
    told = f"{render.count_text(len(chosen), 'standard function')}" + (f" with {search!r}" if search else "")
    more = f"{command} NAME shows one with its parameters."
    markup = render.card(render.escape(told), [*body, f'<div style="margin-top:4px">{render.faint(more)}</div>'])
    return Rendered("\n".join([told, *texts, more]), markup)


def _summary(function: Callable[..., Any]) -> str:
    """Return the first sentence of a docstring."""
    doc = inspect.getdoc(function) or ""
    return doc.split("\n\n", 1)[0].replace("\n", " ")


def _help(name: str) -> Rendered:
    function = getattr(functions, name)
    contract = contract_of(function)
    doc = inspect.getdoc(function) or ""
    signature = f"{name}{_signature(function)}"
    facts = [_KINDS[contract.kind or "image"].lower()]
    facts += [f"along {contract.stack}"] if contract.stack else []
    facts += [f"over the {contract.over}"] if contract.over else []
    facts += ["on CPUs and GPUs"] if kernel_of(function, "cupy") else []
    told = f"Step({name}): {', '.join(facts)}"
    text = f"{signature}\n{told}\n\n{doc}"
    parts = _HEADING.split(doc)
    body = [f'<div style="opacity:.65;margin:2px 0 6px">{render.escape(told)}</div>', _prose(parts[0])]
    for title, section in zip(parts[1::2], parts[2::2], strict=True):
        body.append(f'<div style="margin-top:6px">{render.strong(title)}</div>')
        body.append(_entries(section) if title in ("Parameters", "Returns", "Raises") else _prose(section))
    return Rendered(text, render.card(_signature_markup(name, signature), body))


def _signature(function: Callable[..., Any]) -> str:
    """Return a signature without its types, which the docstring tells."""
    signature = inspect.signature(function)
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def _signature_markup(name: str, signature: str) -> str:
    rest = render.escape(signature.removeprefix(name))
    return f'<code style="background:none;padding:0;font-size:13px">{render.strong(name)}{rest}</code>'


def _entries(section: str) -> str:
    """Show a section of names with their explanations below them."""
    lines = []
    for line in section.strip("\n").splitlines():
        if line.startswith(" "):
            lines.append(f'<div style="margin-left:20px">{_inline(line.strip())}</div>')
        elif line:
            lines.append(
                f'<div style="margin-top:2px"><code style="background:none;padding:0">{_inline(line)}</code></div>'
            )
    return "".join(_joined(lines))


def _joined(lines: list[str]) -> list[str]:
    """Join the lines of one explanation, so that they wrap as the page is wide."""
    close, mark = "</div>", '<div style="margin-left:20px">'
    joined: list[str] = []
    for line in lines:
        if joined and line.startswith(mark) and joined[-1].startswith(mark):
            joined[-1] = f"{joined[-1].removesuffix(close)} {line.removeprefix(mark)}"
        else:
            joined.append(line)
    return joined


def _prose(text: str) -> str:
    paragraphs = [part.replace("\n", " ") for part in text.strip().split("\n\n") if part.strip()]
    return "".join(f'<div style="margin-top:2px">{_inline(part)}</div>' for part in paragraphs)


def _inline(text: str) -> str:
    return _ROLE.sub(r'<code style="background:none;padding:0">\1</code>', render.escape(text))
