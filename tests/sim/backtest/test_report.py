"""The report says what the books and traces say, is one file, and is well formed."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from sim.backtest.model import Site, Timeline
from sim.backtest.report import report, verdict
from sim.backtest.report.charts import Axis, linear, price_axis, thin
from sim.backtest.report.story import days, telling_day
from sim.backtest.report.why import apart, reason
from tests.sim.backtest.made import judged, pressed

VOID = {"meta", "line", "br"}


class Nesting(HTMLParser):
    """Fails where a tag is closed that is not the last opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def test_the_page_is_well_formed_and_loads_nothing() -> None:
    page = report([judged()], title="A <site> & a year", notes=["three gaps filled"])
    parser = Nesting()
    parser.feed(page)
    assert parser.open == []
    assert not [tag for tag, _ in parser.seen if tag in ("script", "link", "img", "iframe")]
    assert "http" not in page
    assert "url(" not in page
    assert "A &lt;site&gt; &amp; a year" in page
    assert "it reckoned with a price &lt;above&gt; all" in page
    assert "three gaps filled" in page


def test_the_verdict_is_what_the_books_add_up_to() -> None:
    one = judged()
    totals = {trace.policy: float(trace.profit_usd.sum()) for trace in one.traces}
    sentence = verdict(one)
    assert f"${totals['wattshift']:,.0f}" in sentence
    assert f"+${totals['wattshift'] - totals['always-on']:,.0f} against running always" in sentence
    assert f"+${totals['wattshift'] - totals['break-even']:,.0f} against the best simple rule (break-even)" in sentence


def test_every_policy_and_the_bound_stand_in_the_books() -> None:
    page = report([judged()], title="t")
    table = page[page.index("The books") : page.index("Cumulative profit")]
    assert re.findall(r"<tr[^>]*><td>([^<]+)</td>", table) == [
        "wattshift",
        "break-even",
        "always-on",
        "bound: perfect foresight, no policy",
    ]


def test_the_telling_day_is_the_day_of_the_spike_and_its_curves_lie_under_the_cap() -> None:
    one = judged()
    assert [day.date for day in days(one)] == ["2023-08-16", "2023-08-17", "2023-08-18", "2023-08-19"]
    assert all(day.span.stop - day.span.start == 96 for day in days(one))
    assert telling_day(one).date == "2023-08-18"
    page = report([one], title="t")
    assert "One telling day: 2023-08-18" in page
    assert page.count('class="line cap"') == 2, "ours and the best rule's"


def test_a_page_without_our_policy_or_with_one_alone_still_tells() -> None:
    for names in (("always-on",), ("wattshift",), ("always-on", "hysteresis")):
        page = report([judged(names=names)], title="t")
        assert "Needs wattshift and one simple rule" in page or "These" in page


@pytest.mark.parametrize("where", [None, pressed()], ids=["spike", "spike, obligation and peak"])
@pytest.mark.parametrize("peer", [0, 1])
def test_what_made_a_difference_adds_up(where: tuple[Site, Timeline] | None, peer: int) -> None:
    """HPC takes what no other part explains: at a site without any it is nothing, to the cent."""
    one = judged(where=where)
    parts = apart(one, one.traces[2], one.traces[peer])
    assert np.abs(parts.usd["hpc"]).max() < 0.01
    whole = float((one.traces[2].profit_usd - one.traces[peer].profit_usd).sum())
    assert sum(float(usd.sum()) for usd in parts.usd.values()) == pytest.approx(whole, abs=0.01)
    assert (abs(parts.usd["obligation"].sum()) > 1.0) == (where is not None)
    if where is not None and peer == 0:
        assert parts.usd["peak"].sum() > 1_000.0


def test_a_days_sentence_names_the_peak_and_the_obligation() -> None:
    one = judged(where=pressed())
    day = days(one)[2]
    never, late = (reason(one, one.traces[2], other, apart(one, one.traces[2], other), day) for other in one.traces[:2])
    assert never.startswith("Drew 9.3 MW less at the month's coincident peak, 13:00, charged at 60,000 USD/MW")
    assert "at a mean price of 4,000 USD/MWh, where what stood still breaks even at 119" in late
    assert "an obligation holding the meter to 2.0 MW" in late


def test_two_sites_have_a_section_each() -> None:
    assert report([judged(), judged()], title="fleet").count('<section class="site">') == 2


def test_thinning_keeps_every_extreme_of_its_stretch_and_the_ends() -> None:
    y = np.zeros(35_040)
    y[[17, 20_011]] = 5_000.0, -250.0
    x = np.arange(len(y), dtype=np.float64)
    thin_x, thin_y = thin(x, y)
    assert len(thin_x) <= 1_000
    assert (thin_y.max(), thin_y.min()) == (5_000.0, -250.0)
    assert (thin_x[0], thin_x[-1]) == (0.0, 35_039.0)
    assert (np.diff(thin_x) > 0).all()


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (-3.0, 7.5), (1e6, 2.3e6), (-250.0, 9_000.0), (0.0, 1e-3)])
def test_an_axis_holds_its_values_and_its_ticks_rise(low: float, high: float) -> None:
    for axis in (linear([np.array([low, high])]), price_axis([np.array([low, high])])):
        at = [value for value, _ in axis.ticks]
        assert at == sorted(set(at))
        assert 0.0 <= axis.at(low) <= axis.at(high) <= 1.0
        assert axis.low <= low
        assert axis.high >= high


def test_an_axis_without_width_puts_everything_at_its_beginning() -> None:
    assert Axis(1.0, 1.0, ()).at(5.0) == 0.0
