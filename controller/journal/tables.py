"""The journal's tables, in SQL that SQLite and PostgreSQL both take. Rows are only ever added."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, String, Table, Text

METADATA: Final = MetaData()
_BIG: Final = BigInteger()
_ROW_ID: Final = BigInteger().with_variant(Integer(), "sqlite")
"""SQLite numbers rows by itself only in a column that is declared INTEGER."""


def _row_id() -> Column[int]:
    return Column("n", _ROW_ID, primary_key=True, autoincrement=True)


EPOCHS: Final = Table(
    "epochs",
    METADATA,
    Column("epoch", _BIG, primary_key=True, autoincrement=False),
    Column("started_at_ms", _BIG, nullable=False),
)

CONTENTS: Final = Table(
    "contents",
    METADATA,
    Column("key", String(32), primary_key=True),
    Column("body", LargeBinary, nullable=False),
)
"""Nameplates and params, by the hash of what they are: each stands here once."""

DECISIONS: Final = Table(
    "decisions",
    METADATA,
    _row_id(),
    Column("id", String(64), nullable=False),
    Column("site", String(63), nullable=False),
    Column("at_ms", _BIG, nullable=False),
    Column("trigger", String(64), nullable=False),
    Column("engine", String(64), nullable=False),
    Column("params", String(32), nullable=False),
    Column("nameplate", String(32), nullable=False),
    Column("snapshot", LargeBinary, nullable=False),
    Column("decision", LargeBinary, nullable=False),
    Index("decisions_by_site", "site", "n"),
)

ORDERS: Final = Table(
    "orders",
    METADATA,
    _row_id(),
    Column("at_ms", _BIG, nullable=False),
    Column("site", String(63), nullable=False),
    Column("epoch", _BIG, nullable=False),
    Column("seq", _BIG, nullable=False),
    Column("decision_id", String(64), nullable=False),
    Column("based_on_boot", String(64), nullable=False),
    Column("based_on_seq", _BIG, nullable=False),
    Column("valid_for_ms", _BIG, nullable=False),
    Column("published", Boolean, nullable=False),
)

RECEIPTS: Final = Table(
    "receipts",
    METADATA,
    _row_id(),
    Column("at_ms", _BIG, nullable=False),
    Column("site", String(63), nullable=False),
    Column("epoch", _BIG, nullable=False),
    Column("order_seq", _BIG, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

SIGNALS: Final = Table(
    "signals",
    METADATA,
    _row_id(),
    Column("at_ms", _BIG, nullable=False),
    Column("id", String(64), nullable=False),
    Column("site", String(63), nullable=False),
    Column("action", String(16), nullable=False),
    Column("ends_at_ms", _BIG, nullable=True),
    Column("body", Text, nullable=False),
    Index("signals_by_end", "ends_at_ms"),
)

OVERRIDES: Final = Table(
    "overrides",
    METADATA,
    _row_id(),
    Column("at_ms", _BIG, nullable=False),
    Column("id", String(64), nullable=False),
    Column("site", String(63), nullable=False),
    Column("action", String(16), nullable=False),
    Column("ends_at_ms", _BIG, nullable=True),
    Column("body", Text, nullable=False),
    Index("overrides_by_end", "ends_at_ms"),
)

EVENTS: Final = Table(
    "events",
    METADATA,
    _row_id(),
    Column("at_ms", _BIG, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("site", String(63), nullable=True),
    Column("detail", Text, nullable=False),
)
