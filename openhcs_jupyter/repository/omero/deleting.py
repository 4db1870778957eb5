"""Deletes objects on the server, and waits until they are gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openhcs_jupyter.errors import RepositoryError

_LOOKS = 600
_PAUSE_S = 0.2


def delete(session: Any, objects: Mapping[str, Sequence[int]], context: dict[str, str]) -> None:
    """Delete objects with what belongs to them.

    Parameters
    ----------
    session
        The service factory.
    objects
        Ids by kind.
    context
        The group in which they are.

    Raises
    ------
    RepositoryError
        If the server refuses; then nothing is deleted.
    """
    import time

    from omero.cmd import ERR, Delete2

    wanted = {kind: list(ids) for kind, ids in objects.items() if ids}
    if not wanted:
        return
    handle = session.submit(Delete2(targetObjects=wanted), context)
    try:
        for _ in range(_LOOKS):
            answer = handle.getResponse()
            if answer is not None:
                break
            time.sleep(_PAUSE_S)
        else:
            raise RepositoryError("OMERO has not deleted in two minutes what it was asked to.", "Look at it later.")
    finally:
        handle.close()
    if isinstance(answer, ERR):
        said = (answer.parameters or {}).get("message") or answer.name
        raise RepositoryError(f"OMERO does not delete {wanted}: {said}", "Ask whose objects these are.")
