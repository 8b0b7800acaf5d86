"""What docs/protocol.md shows is what the models take."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest

from contract.messages import Nameplate, Order, PriceMessage, Receipt, ReceiptState, Report, Status, decode
from contract.reasons import ReceiptReason
from contract.topics import AGENT_KINDS, price_topic, site_topic

PAGE: Final = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
EXAMPLES: Final = re.findall(r"```json (\w+)\n(.*?)```", PAGE, re.DOTALL)
KINDS: Final[dict[str, Any]] = {
    "status": Status,
    "report": Report,
    "order": Order,
    "receipt": Receipt,
    "nameplate": Nameplate,
    "price": PriceMessage,
}


@pytest.mark.parametrize(("kind", "text"), EXAMPLES, ids=[kind for kind, _ in EXAMPLES])
def test_each_example_is_a_message_without_unknown_fields(kind: str, text: str) -> None:
    message = decode(KINDS[kind], text.encode())
    names = set(re.findall(r'"(\w+)":', text))
    assert names <= _fields(message.model_dump())


def test_there_is_an_example_of_every_kind() -> None:
    assert {kind for kind, _ in EXAMPLES} == set(KINDS)
    assert PAGE.count("```json") == len(EXAMPLES)


def test_every_topic_and_every_receipt_state_is_told() -> None:
    for kind in (*AGENT_KINDS, "order"):
        assert f"| `{site_topic('{site}', kind)}` |" in PAGE
    assert f"| `{price_topic('{feed}')}` |" in PAGE
    for state in ReceiptState:
        assert f"| `{state}` |" in PAGE


def test_the_fencing_table_names_real_reasons() -> None:
    table = PAGE.split("### Fencing")[1].split("##")[0]
    reasons = re.findall(r"^\| [^|]+ \| `(\w+)` \|", table, re.MULTILINE)
    assert reasons == [
        ReceiptReason.BASIS_UNKNOWN,
        ReceiptReason.BASIS_UNKNOWN,
        ReceiptReason.EPOCH_OLD,
        ReceiptReason.SEQ_OLD,
        ReceiptReason.LEASE_EXPIRED,
        ReceiptReason.LOCAL_MODE,
    ]


def _fields(dumped: Any) -> set[str]:
    if isinstance(dumped, dict):
        return set(dumped) | {name for value in dumped.values() for name in _fields(value)}
    if isinstance(dumped, list | tuple):
        return {name for value in dumped for name in _fields(value)}
    return set()
