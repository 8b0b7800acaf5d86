"""What a job is worth and how it may be treated, from what its scheduler says of it.

Terms come, strongest first, from the job's own comment (`wattshift value=12.5 firm deadline=1760000000 checkpoint=600
restart=4.5 notice=120 nofreeze`; seconds and USD), from its QOS, its account, and the partition's default. Anybody who
may submit a job may write its comment: a site that does not bill by it turns `trust_comments` off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field

UsdPerNodeHour = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]

MAX_COMMENT: Final = 1_024
"""Characters of a comment that are looked at."""
_YES: Final = frozenset({"", "1", "yes", "true"})


class Terms(BaseModel):
    """How the jobs of a QOS or an account may be treated, besides what they are worth."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    deadline_after_s: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """Due so long after submission."""
    checkpoint_s: Annotated[int, Field(ge=1, le=10**7)] | None = None
    """How often such a job saves its work by itself."""
    notice_s: Annotated[int, Field(ge=0, le=10**6)] = 0
    """What it is given to checkpoint before it is requeued."""
    restart_usd: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = 0.0
    freeze: bool = True
    """Whether it may be stopped in place; else it is requeued."""


_NO_TERMS: Final = Terms()


class ValueMap(BaseModel):
    """The site's price list, from the config."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    default_usd_per_node_h: UsdPerNodeHour = 0.0
    by_qos: dict[str, UsdPerNodeHour] = {}
    by_account: dict[str, UsdPerNodeHour] = {}
    firm_qos: tuple[str, ...] = ()
    firm_accounts: tuple[str, ...] = ()
    terms_by_qos: dict[str, Terms] = {}
    terms_by_account: dict[str, Terms] = {}
    trust_comments: bool = True
    """Whether a job's own comment may say what it is worth and that it is firm."""

    def maps(self, qos: str | None, account: str | None) -> bool:
        """Whether anything here speaks of this QOS or account; always, where the map names none at all."""
        known_qos = self.by_qos.keys() | self.terms_by_qos.keys() | set(self.firm_qos)
        known_accounts = self.by_account.keys() | self.terms_by_account.keys() | set(self.firm_accounts)
        return not (known_qos or known_accounts) or qos in known_qos or account in known_accounts


@dataclass(frozen=True, slots=True)
class JobTerms:
    """The terms of one job."""

    value_usd_per_node_h: float
    firm: bool
    deadline_s: int | None = None
    deadline_after_s: int | None = None
    """After submission, where no moment is given."""
    checkpoint_every_ms: int | None = None
    restart_cost_usd: float = 0.0
    notice_ms: int = 0
    freeze: bool = True

    @classmethod
    def of(cls, comment: str | None, qos: str | None, account: str | None, values: ValueMap) -> Self:
        """Terms from what a scheduler says of a job. A term that does not parse or is out of range is left out, so that
        a typing error in a user's comment costs that user the term and nobody anything else."""
        qos, account = qos or "", account or ""
        value = values.by_qos.get(qos, values.by_account.get(account, values.default_usd_per_node_h))
        firm = qos in values.firm_qos or account in values.firm_accounts
        terms = values.terms_by_qos.get(qos) or values.terms_by_account.get(account) or _NO_TERMS
        words = (comment or "")[:MAX_COMMENT].split()
        if not words or words[0] != "wattshift" or not values.trust_comments:
            words = []
        said = dict(word.partition("=")[::2] for word in words[1:])
        checkpoint_s = _number(said.get("checkpoint"), 0, 1e7) or terms.checkpoint_s
        deadline_s = _number(said.get("deadline"), 0, 1e11)
        own_value = _number(said.get("value"), 0, 1e6)
        own_restart = _number(said.get("restart"), 0, 1e9)
        own_notice_s = _number(said.get("notice"), 0, 1e6)
        return cls(
            value_usd_per_node_h=value if own_value is None else own_value,
            firm=firm or said.get("firm", "no").lower() in _YES,
            deadline_s=int(deadline_s) if deadline_s else None,
            deadline_after_s=terms.deadline_after_s,
            checkpoint_every_ms=int(checkpoint_s * 1_000) if checkpoint_s else None,
            restart_cost_usd=terms.restart_usd if own_restart is None else own_restart,
            notice_ms=int((terms.notice_s if own_notice_s is None else own_notice_s) * 1_000),
            freeze=terms.freeze and said.get("nofreeze", "no").lower() not in _YES,
        )


def _number(text: str | None, least: float, most: float) -> float | None:
    """The number in `text` where it lies in range; None for anything else, NaN included."""
    try:
        number = float(text) if text is not None else None
    except ValueError:
        return None
    return number if number is not None and least <= number <= most else None
