"""A job's terms: from its comment, its QOS, its account, the partition; and nothing a user writes does harm."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.drivers.schedulers.job_terms import JobTerms, ValueMap
from contract.messages import Job, JobState

VALUES = ValueMap(
    default_usd_per_node_h=1.0,
    by_qos={"gold": 8.0},
    by_account={"physics": 3.0},
    firm_qos=("gold",),
    firm_accounts=("contracts",),
)


def test_every_term_of_a_comment_is_read() -> None:
    said = "wattshift value=12.5 firm deadline=1760000000 checkpoint=600 restart=4.5 notice=120"
    assert JobTerms.of(said, "", "", VALUES) == JobTerms(
        value_usd_per_node_h=12.5,
        firm=True,
        deadline_s=1_760_000_000,
        checkpoint_every_ms=600_000,
        restart_cost_usd=4.5,
        notice_ms=120_000,
    )


@pytest.mark.parametrize(
    ("comment", "qos", "account", "value", "firm"),
    [
        (None, None, None, 1.0, False),
        ("value=5", "", "physics", 3.0, False),
        ("", "gold", "physics", 8.0, True),
        ("", "", "contracts", 1.0, True),
        ("wattshift value=5", "gold", "physics", 5.0, True),
        ("wattshift firm", "", "physics", 3.0, True),
        ("wattshift firm=yes", "", "", 1.0, True),
        ("wattshift firm=no", "", "", 1.0, False),
        ("WATTSHIFT value=5", "", "", 1.0, False),
    ],
)
def test_the_strongest_that_speaks_decides(
    comment: str | None, qos: str | None, account: str | None, value: float, firm: bool
) -> None:
    terms = JobTerms.of(comment, qos, account, VALUES)
    assert (terms.value_usd_per_node_h, terms.firm) == (value, firm)


@pytest.mark.parametrize(
    "term",
    ["value=nan", "value=inf", "value=-1", "value=1e7", "value=", "value=12,5", "value", "deadline=1e99", "notice=-5"],
)
def test_a_term_that_does_not_parse_costs_that_term_alone(term: str) -> None:
    assert JobTerms.of(f"wattshift restart=2 {term}", "gold", "", VALUES) == JobTerms(
        8.0, firm=True, restart_cost_usd=2.0
    )


def test_a_site_may_leave_comments_unread() -> None:
    closed = VALUES.model_copy(update={"trust_comments": False})
    assert JobTerms.of("wattshift value=9999 firm", "", "physics", closed) == JobTerms(3.0, firm=False)


WORDS = st.one_of(
    st.sampled_from(["value", "firm", "deadline", "checkpoint", "restart", "notice"]).flatmap(
        lambda name: st.one_of(
            st.floats().map(lambda number: f"{name}={number}"),
            st.integers(-(10**30), 10**30).map(lambda number: f"{name}={number}"),
            st.text(max_size=8).map(lambda text: f"{name}={text}"),
        )
    ),
    st.text(max_size=12),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=8))
def test_whatever_a_user_writes_makes_a_job_that_can_be_reported(words: list[str]) -> None:
    terms = JobTerms.of(" ".join(["wattshift", *words]), None, None, VALUES)
    Job(
        id="1",
        state=JobState.RUNNING,
        nodes=1,
        power_w=1,
        value_usd_per_node_h=terms.value_usd_per_node_h,
        firm=terms.firm,
        deadline_ms=None if terms.deadline_s is None else terms.deadline_s * 1_000,
        checkpoint_every_ms=terms.checkpoint_every_ms,
        restart_cost_usd=terms.restart_cost_usd,
        notice_ms=terms.notice_ms,
    )
