"""What the models of the HTTP API are made of."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from contract.units import PowerW

_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]", re.ASCII)
Seconds = Annotated[float, Field(gt=0, le=366 * 86_400, allow_inf_nan=False, strict=True)]
Notice = Annotated[float, Field(ge=0, le=366 * 86_400, allow_inf_nan=False, strict=True)]
Watts = Annotated[PowerW, Field(strict=True)]


def _written_out(value: Any) -> Any:
    """A bare number would be taken for seconds or milliseconds by its size, in a string too."""
    if not isinstance(value, str) or not _DATE.match(value):
        raise PydanticCustomError("moment", "Input should be an ISO 8601 moment, such as 2026-01-31T18:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_written_out)]


class In(BaseModel):
    """Base of what is taken: unknown fields are refused, for a misspelt limit must not be ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Query(In):
    """Base of what stands behind the question mark."""


class Out(BaseModel):
    """Base of what is given."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)
