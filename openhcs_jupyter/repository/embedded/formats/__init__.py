"""The readers of microscopes' folders; each is loaded when it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from openhcs_jupyter.repository.embedded.formats.base import (
        FieldPlace,
        FoundField,
        FoundFile,
        FoundPlane,
        FoundPlate,
        PlaneData,
        Progress,
        Reader,
        WellPlace,
    )
    from openhcs_jupyter.repository.embedded.formats.choosing import GROUP, choose, reader_of, readers
    from openhcs_jupyter.repository.embedded.formats.imagexpress import ImageXpress
    from openhcs_jupyter.repository.embedded.formats.ometiff import OmeTiff
    from openhcs_jupyter.repository.embedded.formats.omezarr import OmeZarr
    from openhcs_jupyter.repository.embedded.formats.opera import Opera
    from openhcs_jupyter.repository.embedded.formats.pattern import NamePattern, Patterned
    from openhcs_jupyter.repository.embedded.formats.yokogawa import Yokogawa

__all__ = [
    "GROUP",
    "FieldPlace",
    "FoundField",
    "FoundFile",
    "FoundPlane",
    "FoundPlate",
    "ImageXpress",
    "NamePattern",
    "OmeTiff",
    "OmeZarr",
    "Opera",
    "Patterned",
    "PlaneData",
    "Progress",
    "Reader",
    "WellPlace",
    "Yokogawa",
    "choose",
    "reader_of",
    "readers",
]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "base": [
            "FieldPlace",
            "FoundField",
            "FoundFile",
            "FoundPlane",
            "FoundPlate",
            "PlaneData",
            "Progress",
            "Reader",
            "WellPlace",
        ],
        "choosing": ["GROUP", "choose", "reader_of", "readers"],
        "imagexpress": ["ImageXpress"],
        "ometiff": ["OmeTiff"],
        "omezarr": ["OmeZarr"],
        "opera": ["Opera"],
        "pattern": ["NamePattern", "Patterned"],
        "yokogawa": ["Yokogawa"],
    },
)
