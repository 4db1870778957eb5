"""Writes annotations: named values, files, and the links by which they belong to something."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

NAMESPACE = "openhcs-jupyter/run"
DOCUMENTS = "openhcs-jupyter/documents"
_BLOCK = 1 << 20


def write_pairs(
    session: Any, pairs: Mapping[str, str], marker: str, kind: str, number: int, context: dict[str, str]
) -> int:
    """Write named values in our namespace and link them; returns the annotation's id."""
    import omero.model
    from omero.rtypes import rstring

    annotation = omero.model.MapAnnotationI()
    annotation.ns = rstring(NAMESPACE)
    annotation.description = rstring(marker)
    annotation.mapValue = [omero.model.NamedValue(name, value) for name, value in pairs.items()]
    return _link(session, annotation, kind, number, context)


def link_pairs(session: Any, annotation: int, kind: str, number: int, context: dict[str, str]) -> None:
    """Link named values that are there to one more object."""
    import omero.model

    _link(session, omero.model.MapAnnotationI(annotation, False), kind, number, context)


def write_document(
    session: Any, path: str, name: str, content: bytes, marker: str, kind: str, number: int, context: dict[str, str]
) -> int:
    """Write a file and link it; returns the annotation's id."""
    import omero.model
    from omero.rtypes import rlong, rstring

    file = omero.model.OriginalFileI()
    file.name, file.path = rstring(name), rstring(path)
    file.size, file.hash = rlong(len(content)), rstring(hashlib.sha1(content, usedforsecurity=False).hexdigest())
    file.mimetype = rstring("application/json" if name.endswith(".json") else "text/plain")
    number_of_file = session.getUpdateService().saveAndReturnObject(file, context).id.val
    store = session.createRawFileStore()
    try:
        store.setFileId(number_of_file, context)
        for start in range(0, len(content), _BLOCK):
            block = content[start : start + _BLOCK]
            store.write(block, start, len(block), context)
        store.save(context)
    finally:
        store.close()
    return link_file(session, number_of_file, DOCUMENTS, marker, kind, number, context)


def link_file(
    session: Any, file: int, namespace: str, marker: str, kind: str, number: int, context: dict[str, str]
) -> int:
    """Annotate an object with a file that is there; returns the annotation's id."""
    import omero.model
    from omero.rtypes import rstring

    annotation = omero.model.FileAnnotationI()
    annotation.ns = rstring(namespace)
    annotation.description = rstring(marker)
    annotation.file = omero.model.OriginalFileI(file, False)
    return _link(session, annotation, kind, number, context)


def _link(session: Any, annotation: Any, kind: str, number: int, context: dict[str, str]) -> int:
    import omero.model

    link = getattr(omero.model, f"{kind}AnnotationLinkI")()
    link.parent = getattr(omero.model, f"{kind}I")(number, False)
    link.child = annotation
    saved = session.getUpdateService().saveAndReturnObject(link, context)
    found: int = saved.child.id.val
    return found
