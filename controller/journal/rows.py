"""Records to rows. Pure, but for remembering which contents have been written."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sqlalchemy import Table

from contract.messages import Nameplate
from controller.engine.model import Params
from controller.journal.base import (
    DecisionRecord,
    EventRecord,
    OrderRecord,
    OverrideRecord,
    ReceiptRecord,
    Record,
    SignalRecord,
)
from controller.journal.codec import content_key, decision_body, pack, params_body, plate_body, snapshot_rest
from controller.journal.tables import CONTENTS, DECISIONS, EVENTS, ORDERS, OVERRIDES, RECEIPTS, SIGNALS

T = TypeVar("T", Nameplate, Params)
_ROW_OVERHEAD: Final = 400
_CACHE: Final = 20_000


@dataclass(frozen=True, slots=True)
class Row:
    """One row to add. `size` is about what it takes in memory."""

    table: Table
    values: dict[str, Any]
    size: int


class RowMaker:
    """Turns records into rows. A content that has been handed out once is not handed out again until `forget`."""

    def __init__(self) -> None:
        self._plates: OrderedDict[int, tuple[Nameplate, str]] = OrderedDict()
        self._params: OrderedDict[int, tuple[Params, str]] = OrderedDict()
        self._known: OrderedDict[str, None] = OrderedDict()

    def forget(self, key: str) -> None:
        """This content was not written after all."""
        self._known.pop(key, None)

    def rows(self, record: Record) -> list[Row]:
        match record:
            case DecisionRecord():
                return self._decision(record)
            case OrderRecord():
                values: dict[str, Any] = {
                    "at_ms": record.at_ms,
                    "site": record.site,
                    "epoch": record.epoch,
                    "seq": record.seq,
                    "decision_id": record.decision_id,
                    "based_on_boot": record.based_on_boot,
                    "based_on_seq": record.based_on_seq,
                    "valid_for_ms": record.valid_for_ms,
                    "published": record.published,
                }
                return [Row(ORDERS, values, 2 * _ROW_OVERHEAD)]
            case ReceiptRecord():
                return [_receipt(record)]
            case SignalRecord():
                body, what = record.obligation.model_dump_json(), record.obligation
                return [_operator(SIGNALS, record.at_ms, record.action, what.id, what.site, what.ends_at_ms, body)]
            case OverrideRecord():
                body, over = record.override.model_dump_json(), record.override
                return [_operator(OVERRIDES, record.at_ms, record.action, over.id, over.site, over.ends_at_ms, body)]
            case EventRecord():
                values = {"at_ms": record.at_ms, "kind": record.kind, "site": record.site, "detail": record.detail}
                return [Row(EVENTS, values, _ROW_OVERHEAD + len(record.detail))]

    def _decision(self, record: DecisionRecord) -> list[Row]:
        plate, params = record.snapshot.nameplate, record.params
        rows: list[Row] = []
        plate_key = _cached(self._plates, plate)
        if plate_key is None:
            plate_key = _remember(self._plates, plate, content_key(plate_body(plate)))
        params_key = _cached(self._params, params)
        if params_key is None:
            params_key = _remember(self._params, params, content_key(params_body(params)))
        if plate_key not in self._known:
            rows.append(self._content(plate_key, plate_body(plate)))
        if params_key not in self._known:
            rows.append(self._content(params_key, params_body(params)))
        snapshot, decision = pack(snapshot_rest(record.snapshot)), pack(decision_body(record.decision))
        values = {
            "id": record.id,
            "site": record.snapshot.site,
            "at_ms": record.at_ms,
            "trigger": record.trigger,
            "engine": record.engine,
            "params": params_key,
            "nameplate": plate_key,
            "snapshot": snapshot,
            "decision": decision,
        }
        rows.append(Row(DECISIONS, values, _ROW_OVERHEAD * 2 + len(snapshot) + len(decision)))
        return rows

    def _content(self, key: str, body: bytes) -> Row:
        self._known[key] = None
        if len(self._known) > _CACHE:
            self._known.popitem(last=False)
        packed = pack(body)
        return Row(CONTENTS, {"key": key, "body": packed}, _ROW_OVERHEAD + len(packed))


def _cached(cache: OrderedDict[int, tuple[T, str]], item: T) -> str | None:
    """The key of this very object; hashing its content anew for every decision would cost more than packing it."""
    found = cache.get(id(item))
    return found[1] if found is not None and found[0] is item else None


def _receipt(record: ReceiptRecord) -> Row:
    body = pack(record.receipt.model_dump_json().encode())
    values = {
        "at_ms": record.at_ms,
        "site": record.receipt.site,
        "epoch": record.receipt.epoch,
        "order_seq": record.receipt.order_seq,
        "body": body,
    }
    return Row(RECEIPTS, values, _ROW_OVERHEAD + len(body))


def _operator(table: Table, at_ms: int, action: str, key: str, site: str, ends_at_ms: int | None, body: str) -> Row:
    values = {"at_ms": at_ms, "id": key, "site": site, "action": action, "ends_at_ms": ends_at_ms, "body": body}
    return Row(table, values, _ROW_OVERHEAD + len(body))


def _remember(cache: OrderedDict[int, tuple[T, str]], item: T, key: str) -> str:
    cache[id(item)] = (item, key)
    if len(cache) > _CACHE:
        cache.popitem(last=False)
    return key
