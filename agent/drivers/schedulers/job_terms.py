"""What a job is worth and how it may be treated, from what its scheduler says of it.

Terms come, strongest first, from the job's own comment (`wattshift value=12.5 firm deadline=1760000000 checkpoint=600
restart=4.5 notice=120`; seconds and USD), from its QOS, its account, and the partition's default. Anybody who may
submit a job may write its comment: a site that does not bill by it turns `trust_comments` off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field

UsdPerNodeHour = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]

MAX_COMMENT: Final = 1_024
"""Characters of a comment that are looked at."""
_YES: Final = frozenset({"", "1", "yes", "true"})


class ValueMap(BaseModel):
    """The site's price list, from the config."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    default_usd_per_node_h: UsdPerNodeHour = 0.0
    by_qos: dict[str, UsdPerNodeHour] = {}
    by_account: dict[str, UsdPerNodeHour] = {}
    firm_qos: tuple[str, ...] = ()
    firm_accounts: tuple[str, ...] = ()
    trust_comments: bool = True
    """Whether a job's own comment may say what it is worth and that it is firm."""


@dataclass(frozen=True, slots=True)
class JobTerms:
    """The terms of one job."""

    value_usd_per_node_h: float
    firm: bool
    deadline_s: int | None = None
    checkpoint_every_ms: int | None = None
    restart_cost_usd: float = 0.0
    notice_ms: int = 0

    @classmethod
    def of(cls, comment: str | None, qos: str | None, account: str | None, values: ValueMap) -> Self:
        """Terms from what a scheduler says of a job. A term that does not parse or is out of range is left out, so that
        a typing error in a user's comment costs that user the term and nobody anything else."""
        qos, account = qos or "", account or ""
        value = values.by_qos.get(qos, values.by_account.get(account, values.default_usd_per_node_h))
        firm = qos in values.firm_qos or account in values.firm_accounts
        words = (comment or "")[:MAX_COMMENT].split()
        if not words or words[0] != "wattshift" or not values.trust_comments:
            return cls(value, firm)
        said = dict(word.partition("=")[::2] for word in words[1:])
        checkpoint_s = _number(said.get("checkpoint"), 0, 1e7)
        deadline_s = _number(said.get("deadline"), 0, 1e11)
        own_value = _number(said.get("value"), 0, 1e6)
        return cls(
            value_usd_per_node_h=value if own_value is None else own_value,
            firm=firm or said.get("firm", "no").lower() in _YES,
            deadline_s=int(deadline_s) if deadline_s else None,
            checkpoint_every_ms=int(checkpoint_s * 1_000) if checkpoint_s else None,
            restart_cost_usd=_number(said.get("restart"), 0, 1e9) or 0.0,
            notice_ms=int((_number(said.get("notice"), 0, 1e6) or 0.0) * 1_000),
        )


def _number(text: str | None, least: float, most: float) -> float | None:
    """The number in `text` where it lies in range; None for anything else, NaN included."""
    try:
        number = float(text) if text is not None else None
    except ValueError:
        return None
    return number if number is not None and least <= number <= most else None
