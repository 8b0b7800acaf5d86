"""What the console's time axis is drawn from: two hours of every site, oldest first, nothing half written."""

from __future__ import annotations

from controller.console.history import EVERY_MS, FIELDS, SAMPLES, History
from tests.controller.api.stand import standing


async def test_a_sample_has_what_is_known_of_a_site_and_only_what_is_new_is_told_again() -> None:
    async with standing() as stand:
        stand.join("alpha")
        history = History(stand.controller.fleet, lambda _site, _ms: 25.5, stand.clock)
        history.sample()
        at_ms, told = history.of("alpha")
        assert at_ms == [stand.clock.wall_ms()]
        state = stand.controller.fleet.get("alpha")
        assert state is not None
        assert told["metered_w"] == [state.main_power_w()]
        assert told["price_usd_per_mwh"] == [25.5]
        assert set(told) == set(FIELDS)
        stand.clock.advance(EVERY_MS)
        history.sample()
        assert len(history.of("alpha")[0]) == 2
        assert history.of("alpha", after_ms=at_ms[0])[0] == [stand.clock.wall_ms()]


async def test_after_two_hours_the_oldest_goes_and_a_sample_under_way_is_not_seen() -> None:
    async with standing() as stand:
        stand.join("alpha")
        history = History(stand.controller.fleet, lambda _site, _ms: None, stand.clock)
        for _ in range(SAMPLES + 5):
            stand.clock.advance(EVERY_MS)
            history.sample()
        at_ms, told = history.of("alpha")
        assert len(at_ms) == SAMPLES
        assert at_ms == sorted(at_ms)
        assert at_ms[-1] - at_ms[0] == (SAMPLES - 1) * EVERY_MS
        assert told["price_usd_per_mwh"] == [None] * SAMPLES


async def test_a_site_nobody_knows_has_times_and_no_values() -> None:
    async with standing() as stand:
        stand.join("alpha")
        history = History(stand.controller.fleet, lambda _site, _ms: 1.0, stand.clock)
        history.sample()
        at_ms, told = history.of("nowhere")
        assert len(at_ms) == 1
        assert told["metered_w"] == [None]
