"""Answers rendered cheaply: a JSON document with fields is compiled once, and an answer is one `%` of a dict.

Every figure is formatted as a float (".0f", never "d"), so that a machine told to answer NaN and infinity can.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii
from typing import Any, Final

Values = Mapping[str, float | str]

_BARE: Final = re.compile(r'"\{\{#(\w+):([^}"]+)\}\}"')
_INSIDE: Final = re.compile(r"\{\{(\w+):([^}\"]+)\}\}")
_NOT_NUMBERS: Final = re.compile(r"\b(nan|inf)\b")


def num(name: str, spec: str = ".0f") -> str:
    """A value of its own in the document: a bare figure, or with spec "s" any JSON given as text."""
    return f"{{{{#{name}:{spec}}}}}"


def txt(name: str, spec: str = "s") -> str:
    """Text, or a figure the firmware writes in quotes. May stand among other text in one string."""
    return f"{{{{{name}:{spec}}}}}"


def compiled(document: Mapping[str, Any]) -> str:
    """The `%`-template of a document whose strings hold fields made by `num` and `txt`."""
    text = json.dumps(document, separators=(",", ":")).replace("%", "%%")
    return _INSIDE.sub(r"%(\1)\2", _BARE.sub(r"%(\1)\2", text))


def safe_text(text: str) -> str:
    """Text as it may stand between the quotes of a JSON string."""
    return encode_basestring_ascii(text)[1:-1]


def spell_not_numbers(text: str) -> str:
    """NaN and infinities as JavaScript and Python's json spell them, where rendering left C's spelling."""
    return _NOT_NUMBERS.sub(lambda match: "NaN" if match[1] == "nan" else "Infinity", text)
