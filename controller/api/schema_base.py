"""What the models of the HTTP API are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from contract.units import PowerW

Seconds = Annotated[float, Field(gt=0, le=366 * 86_400, allow_inf_nan=False, strict=True)]
Notice = Annotated[float, Field(ge=0, le=366 * 86_400, allow_inf_nan=False, strict=True)]
Watts = Annotated[PowerW, Field(strict=True)]
Moment = Annotated[AwareDatetime, Field(strict=True)]
"""Strict: a bare number would be taken for seconds or milliseconds by its size."""


class In(BaseModel):
    """Base of what is taken: unknown fields are refused, for a misspelt limit must not be ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Query(In):
    """Base of what stands behind the question mark."""


class Out(BaseModel):
    """Base of what is given."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)
