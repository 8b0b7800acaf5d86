"""The bytes of a decision, as the journal keeps them.

A nameplate is large and rarely changes, so a snapshot is kept without it and names it by its content's hash; `join`
puts the two together again. Everything is JSON as pydantic writes it, which the same models read back without loss.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Final

from contract.messages import Nameplate
from controller.engine.model import Params, SiteDecision, SiteSnapshot

_LEVEL: Final = 6
_MAX_BYTES: Final = 64 * 2**20


def content_key(body: bytes) -> str:
    """The name of a content: its SHA-256, shortened to 128 bits."""
    return hashlib.sha256(body).hexdigest()[:32]


def pack(body: bytes) -> bytes:
    return zlib.compress(body, _LEVEL)


def unpack(packed: bytes) -> bytes:
    """Raises `ValueError` where it is not what `pack` made."""
    machine = zlib.decompressobj()
    try:
        body = machine.decompress(packed, _MAX_BYTES)
    except zlib.error as error:
        raise ValueError(f"damaged row: {error}") from None
    if machine.unconsumed_tail or not machine.eof:
        raise ValueError("damaged row: cut short or too large")
    return body


def plate_body(plate: Nameplate) -> bytes:
    return plate.model_dump_json().encode()


def params_body(params: Params) -> bytes:
    return params.model_dump_json().encode()


def decision_body(decision: SiteDecision) -> bytes:
    return decision.model_dump_json().encode()


def snapshot_rest(snapshot: SiteSnapshot) -> bytes:
    """The snapshot's JSON without its nameplate."""
    return snapshot.model_dump_json(exclude={"nameplate"}).encode()


def join(rest: bytes, plate: bytes) -> bytes:
    """The snapshot's whole JSON again. The nameplate becomes its last key."""
    if not rest.endswith(b"}") or len(rest) < 3:
        raise ValueError("damaged row: a snapshot that is no object")
    return rest[:-1] + b',"nameplate":' + plate + b"}"
