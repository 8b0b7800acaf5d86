"""A meter that stands still while its devices move is not believed; one whose devices are back where they were is."""

from __future__ import annotations

from agent.gauges import FROZEN_AFTER_MS, Gauge

LAG_MS = 20_000
STALE_MS = 10_000


def look(gauge: Gauge, at_ms: int, shown_w: int, claimed_w: int) -> int | None:
    gauge.take(shown_w, at_ms)
    gauge.expect(claimed_w, at_ms, LAG_MS)
    return gauge.fresh(at_ms, STALE_MS)


def test_a_frozen_meter_is_believed_again_once_its_devices_are_back_where_they_were() -> None:
    """Else a bank asleep behind a meter that then rightly stands still could never be started again."""
    gauge = Gauge("meters.row", 2.0)
    step_ms = 1_000
    at_ms = 0
    while at_ms <= 2 * LAG_MS:
        assert look(gauge, at_ms, 200, 190) == 200
        at_ms += step_ms
    while at_ms <= 2 * LAG_MS + 2 * FROZEN_AFTER_MS:
        shown_w = look(gauge, at_ms, 200, 150)  # one of its devices cannot be read for a while
        at_ms += step_ms
    assert shown_w is None
    assert look(gauge, at_ms, 200, 191) == 200
    assert look(gauge, at_ms + step_ms, 950, 900) == 950
