"""Models that are kept for long, at half their size.

pydantic notes for every object which of its fields were given, as a set of its own: of a report of 20 banks in memory,
half is such sets, and the garbage collector walks them all. Nobody asks a message, an order or a decision once it has
been checked, so all of one class share one set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)

_FIELDS_SET: Final = "__pydantic_fields_set__"
_put: Final = object.__setattr__  # the models are frozen


@dataclass(frozen=True, slots=True)
class _Kind:
    """What is done with one class of model."""

    given: set[str]
    nested: tuple[str, ...]
    """The fields that may hold models, alone or in a tuple."""


_KINDS: Final[dict[type[Any], _Kind]] = {}


def lean(model: M) -> M:
    """The same object, and all models in it, without the notes of which fields were given: as if all had been.

    For what `model_dump(exclude_unset=True)` and `model_fields_set` will not be asked of.
    """
    kind = _KINDS.get(type(model)) or _learn(type(model))
    _strip(model, kind)
    return model


def _strip(model: BaseModel, kind: _Kind) -> None:
    _put(model, _FIELDS_SET, kind.given)
    values = model.__dict__
    for name in kind.nested:
        value = values[name]
        if type(value) is tuple:
            for each in value:
                if (inner := _KINDS.get(type(each))) is not None:
                    _strip(each, inner)
        elif (inner := _KINDS.get(type(value))) is not None:
            _strip(value, inner)


def _learn(cls: type[BaseModel]) -> _Kind:
    """Look at a class and at all that its fields name, once."""
    inside = {name: list(_models_in(field.annotation)) for name, field in cls.model_fields.items()}
    kind = _Kind(set(cls.model_fields), tuple(name for name, found in inside.items() if found))
    _KINDS[cls] = kind
    for found in inside.values():
        for each in found:
            if each not in _KINDS:
                _learn(each)
    return kind


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [each for argument in get_args(annotation) for each in _models_in(argument)]
