"""What is kept for long costs half, and is the same message."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import BaseModel

from contract.lean import lean
from contract.messages import Nameplate, Order, Receipt, Report, decode, encode

GOLDEN: Final = Path(__file__).with_name("golden")
KINDS: Final[list[Any]] = [Nameplate, Report, Order, Receipt]


def golden(kind: Any) -> bytes:
    name: str = kind.__name__
    return (GOLDEN / f"{name.lower()}.json").read_bytes()


def sets_of(model: BaseModel) -> list[set[str]]:
    """The notes of a model and of all models in it, one for each object."""
    found: list[set[str]] = [model.__pydantic_fields_set__]
    for value in model.__dict__.values():
        for each in value if isinstance(value, tuple) else (value,):
            found += sets_of(each) if isinstance(each, BaseModel) else []
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_lean_message_is_the_same_message(kind: Any) -> None:
    whole, slim = decode(kind, golden(kind)), lean(decode(kind, golden(kind)))
    assert slim == whole
    assert hash(slim) == hash(whole)
    assert encode(slim) == encode(whole)
    assert slim.model_copy(update={"site": "other"}).site == "other"
    assert lean(decode(kind, golden(kind))).model_fields_set == set(kind.model_fields), "a copy has notes of its own"


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_one_class_share_one_note(kind: Any) -> None:
    first, second = lean(decode(kind, golden(kind))), lean(decode(kind, golden(kind)))
    owned = [id(each) for each in sets_of(decode(kind, golden(kind)))]
    shared = {id(each) for each in sets_of(first)}
    assert len(set(owned)) == len(owned)
    assert shared == {id(each) for each in sets_of(second)}
    assert len(shared) < len(owned)


def test_the_notes_of_a_report_are_a_good_part_of_what_it_takes() -> None:
    """Were this no longer so, there would be no reason for `lean`."""
    report = decode(Report, golden(Report))
    notes = sum(sys.getsizeof(each) for each in sets_of(report))
    assert notes > 0.25 * (notes + _values(report))


def _values(model: BaseModel) -> int:
    size = sys.getsizeof(model) + sys.getsizeof(model.__dict__)
    for value in model.__dict__.values():
        for each in value if isinstance(value, tuple) else (value,):
            size += _values(each) if isinstance(each, BaseModel) else sys.getsizeof(each)
    return size
