"""Canonical bytes of what a decision is made from and what it is, for the journal and for replay.

The same value always gives the same bytes, and decoding gives the same value back: so a replayed decision can be
compared with the journalled one byte for byte.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from controller.engine.model import Decision, Params, Snapshot

T = TypeVar("T", Snapshot, Decision, Params)


class CodecError(ValueError):
    """Bytes that are not what they should be: damaged, or of a model version this engine does not know."""


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """UTF-8 JSON, fields in the model's order, no spaces."""
    return snapshot.model_dump_json().encode()


def encode_decision(decision: Decision) -> bytes:
    """UTF-8 JSON, fields in the model's order, no spaces."""
    return decision.model_dump_json().encode()


def encode_params(params: Params) -> bytes:
    """UTF-8 JSON, fields in the model's order, no spaces."""
    return params.model_dump_json().encode()


def decode(kind: type[T], data: bytes) -> T:
    """The value these bytes stand for. Raises `CodecError`, whose text names the first offending field."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "payload"
        raise CodecError(f"{kind.__name__}: {where}: {first['msg']}") from None
