"""The boosted trees: an extra that says what to install, does not peek, and leaves what it is not for to the ridge."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from controller.forecast import forecast
from tests.controller.forecast.world import MARKET, scrambled, world


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(ImportError, match=r"wattshift\[forecast\]"):
        forecast("trees", MARKET)


def test_trees_do_not_peek_and_speak_for_the_next_hour_alone() -> None:
    """Another future changes nothing; a price that is known is said as it is; beyond an hour the ridge stands alone."""
    pytest.importorskip("sklearn")
    truths = world(days=130)
    fit_ms, at_ms = truths.at(100), truths.at(110, 15.25)
    other = scrambled(truths, at_ms, late=1)
    told, again, ridge = forecast("trees", MARKET), forecast("trees", MARKET), forecast("blended", MARKET)
    for one in (told, ridge):
        one.fit(truths.known(fit_ms))
    again.fit(other.known(fit_ms))
    said = told.outlook(truths.known(at_ms), 900_000, 96).usd_per_mwh
    np.testing.assert_array_equal(said, again.outlook(other.known(at_ms), 900_000, 96).usd_per_mwh)
    alone = ridge.outlook(truths.known(at_ms), 900_000, 96).usd_per_mwh
    assert (said[:4] != alone[:4]).all()
    np.testing.assert_array_equal(said[4:], alone[4:])
    now = told.outlook(truths.known(at_ms, late=0), 900_000, 96).usd_per_mwh
    assert now[0] == truths.known(at_ms, late=0).price.values[-1]
