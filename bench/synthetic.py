"""Synthetic agents: sites on paper whose messages are valid in every detail, made as cheaply as can be.

A site always reports full power, names the order it obeys, and answers each order with two receipts, the second with
every bank confirmed, as a real agent does when nothing goes wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Final

from contract.messages import (
    BankPlate,
    BankReading,
    BankReceipt,
    DeviceCounts,
    Feeder,
    FeederReading,
    Level,
    Mode,
    Nameplate,
    Order,
    Receipt,
    ReceiptState,
    Report,
    Source,
    Status,
    Workload,
    encode,
)
from contract.reasons import ReceiptReason

DEVICES: Final = 500
DEVICE_W: Final = 3_500
DEVICE_GHS: Final = 200_000
BASE_W: Final = 100_000
BANK_W: Final = DEVICES * DEVICE_W
BOOT: Final = "0123456789abc-89abcdef"
_BEGIN: Final = b'"seq":0,"sent_at_ms":0,'
_END: Final = b'"epoch":0,"order_seq":null,"lease_left_ms":null,'


class SyntheticSite:
    """One site of `banks` hash banks of 500 miners, each on a metered feeder."""

    def __init__(self, site: str, banks: int, chance: Random) -> None:
        self.site = site
        self._banks = [f"hall-{bank:02d}" for bank in range(banks)]
        self._seq = 0
        self._receipts = 0
        self._order: tuple[int, int] | None = None
        template = encode(self._report_message(chance))
        self._head, _, rest = template.partition(_BEGIN)
        self._mode, _, self._tail = rest.partition(_END)

    def status(self) -> bytes:
        return encode(Status(site=self.site, boot=BOOT, online=True))

    def nameplate(self) -> bytes:
        rows = [f"row-{place:02d}" for place in range(len(self._banks))]
        limit_w = 2 * BANK_W
        main = Feeder(id="main", limit_w=limit_w * len(rows) + BASE_W, metered=True)
        level = Level(power_w=BANK_W, hashrate_ghs=DEVICES * DEVICE_GHS)
        return encode(
            Nameplate(
                site=self.site,
                boot=BOOT,
                feeders=(main, *(Feeder(id=row, parent="main", limit_w=limit_w, metered=True) for row in rows)),
                banks=tuple(
                    BankPlate(
                        id=bank,
                        feeder=row,
                        workload=Workload.HASH,
                        model="Antminer S21",
                        devices=DEVICES,
                        rated_w=BANK_W,
                        idle_w=DEVICES * 60,
                        levels=(level,),
                        steps_w=DEVICE_W,
                    )
                    for bank, row in zip(self._banks, rows, strict=True)
                ),
                base_load_w=BASE_W,
            )
        )

    def report(self, wall_ms: int) -> bytes:
        """The next report. Only what must change from one to the next is written anew."""
        self._seq += 1
        changing = b'"seq":%d,"sent_at_ms":%d,' % (self._seq, wall_ms)
        obeyed = _END if self._order is None else b'"epoch":%d,"order_seq":%d,"lease_left_ms":120000,' % self._order
        return b"".join((self._head, changing, self._mode, obeyed, self._tail))

    def obey(self, order: Order) -> Iterator[bytes]:
        """Take an order; the receipts for it."""
        self._order = (order.epoch, order.seq)
        for state, reason in (
            (ReceiptState.PENDING, ReceiptReason.COMMANDED),
            (ReceiptState.CONFIRMED, ReceiptReason.IN_BAND),
        ):
            self._receipts += 1
            banks = tuple(
                BankReceipt(
                    bank=setpoint.bank,
                    state=state,
                    reason=reason,
                    target_w=setpoint.target_w,
                    obeyed_w=setpoint.target_w,
                    measured_w=setpoint.target_w,
                    source=Source.METER,
                    after_ms=0,
                )
                for setpoint in order.setpoints
            )
            yield encode(
                Receipt(
                    site=self.site,
                    boot=BOOT,
                    epoch=order.epoch,
                    order_seq=order.seq,
                    seq=self._receipts,
                    accepted=True,
                    banks=banks,
                )
            )

    def _report_message(self, chance: Random) -> Report:
        powers_w = [BANK_W - chance.randrange(20_000) for _ in self._banks]
        main_w = sum(powers_w) + BASE_W
        rows = (
            FeederReading(id=f"row-{place:02d}", power_w=power_w, age_ms=chance.randrange(1_000))
            for place, power_w in enumerate(powers_w)
        )
        return Report(
            site=self.site,
            boot=BOOT,
            seq=0,
            sent_at_ms=0,
            mode=Mode.AUTO,
            epoch=0,
            order_seq=None,
            lease_left_ms=None,
            feeders=(FeederReading(id="main", power_w=main_w, age_ms=chance.randrange(1_000)), *rows),
            banks=tuple(
                BankReading(
                    id=bank,
                    power_w=power_w,
                    age_ms=chance.randrange(1_000),
                    source=Source.METER,
                    hashrate_ghs=DEVICES * DEVICE_GHS - chance.randrange(1_000_000),
                    inlet_temp_mc=25_000 + chance.randrange(5_000),
                    chip_temp_mc=70_000 + chance.randrange(8_000),
                    devices=DeviceCounts(running=DEVICES - 3, tripped=1, unreachable=2),
                    available_w=BANK_W,
                    setpoint_w=BANK_W,
                    on=True,
                    on_for_ms=5_040_000,
                )
                for bank, power_w in zip(self._banks, powers_w, strict=True)
            ),
            ambient_temp_mc=28_000 + chance.randrange(4_000),
            ambient_age_ms=chance.randrange(2_000),
        )
