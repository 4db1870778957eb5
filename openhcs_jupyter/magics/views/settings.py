"""How the settings look."""

from __future__ import annotations

from openhcs_jupyter.config import Settings, config_file, load_settings
from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.magics.options import nearest
from openhcs_jupyter.magics.views.render import Rendered, card, escape, grid


def settings_view(name: str | None) -> Rendered:
    """Show the settings, or one of them.

    Raises
    ------
    UsageError
        If there is no such setting.
    """
    settings, default = load_settings(), Settings()
    known = Settings.__struct_fields__
    if name is not None and name not in known:
        near = nearest(name, known)
        meant = f"Did you mean {near}? " if near else ""
        raise UsageError(f"There is no setting {name!r}", f"{meant}Settings: {', '.join(known)}.")
    rows = [
        (key, repr(getattr(settings, key)), "" if getattr(settings, key) == getattr(default, key) else "changed")
        for key in ([name] if name else known)
    ]
    table = grid(["setting", "value", ""], rows)
    where = f"Settings; kept in {config_file()}, overridden by OPENHCS_NAME in the environment"
    return Rendered(f"{where}\n{table.text}", card(escape(where), [table.markup]))
