"""Values that a fingerprint takes in at once: those that a text, bytes or a number says."""

from __future__ import annotations

import datetime as dt
import decimal
import fractions
import re
import struct
import types
import typing
import uuid
from collections.abc import Callable
from typing import Any

SIMPLE: dict[type, Callable[[Any], str | bytes | int]] = {
    type(None): str,
    type(...): str,
    type(NotImplemented): str,
    bool: str,
    int: int,
    str: str,
    bytes: bytes,
    bytearray: bytes,
    float: lambda value: struct.pack("<d", value),
    complex: lambda value: struct.pack("<dd", value.real, value.imag),
    range: repr,
    slice: repr,
    dt.date: repr,
    dt.datetime: repr,
    dt.time: repr,
    dt.timedelta: repr,
    dt.timezone: repr,
    decimal.Decimal: repr,
    fractions.Fraction: repr,
    uuid.UUID: str,
    re.Pattern: lambda value: repr((value.pattern, value.flags)),
    struct.Struct: lambda value: value.format,
    types.MethodWrapperType: lambda value: value.__qualname__,
    typing.TypeVar: repr,
}
"""Values that are said by a text, bytes or a number, beside the name of their type."""
