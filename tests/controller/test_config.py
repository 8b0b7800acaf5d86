"""Configuration: every error names the file, the key and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from controller.config import (
    ConfigError,
    ControllerConfig,
    HttpSettings,
    IngestSettings,
    JournalSettings,
    load_config,
    read_token,
)
from controller.engine.model import Stance

SAMPLE = Path(__file__).parents[2] / "deploy" / "config" / "controller.sample.toml"


def load(folder: Path, text: str) -> ControllerConfig:
    path = folder / "controller.toml"
    path.write_text(text)
    return load_config(path)


def fails(folder: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    assert "controller.toml" in str(caught.value)
    assert "Fix: " in str(caught.value)
    return caught.value


def test_an_empty_file_is_a_configuration(tmp_path: Path) -> None:
    config = load(tmp_path, "")
    assert (config.http.address.host, config.http.address.port) == ("127.0.0.1", 8480)
    assert config.http.metrics_are_open
    assert config.params_of("any").lease_ms == 150_000


def test_the_sample_is_valid_and_says_every_key(tmp_path: Path) -> None:
    text = SAMPLE.read_text()
    (tmp_path / "prices.csv").write_text("interval_start_utc,rt_usd_per_mwh\n2024-01-01T00:00Z,1\n")
    load(tmp_path, text)
    sections: list[type[BaseModel]] = [ControllerConfig, HttpSettings, JournalSettings, IngestSettings]
    for section in sections:
        for key in section.model_fields:
            assert key in text, f"the sample does not mention {key}"


def test_params_are_layered_by_site(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
        tick_s = 30
        price = "rt"
        params = { lease_ms = 90000, unknown_price = "stop" }
        [sites.alpha]
        price = "da"
        params = { lease_ms = 60000 }
        [feeds.prices]
        rt = { kind = "mqtt" }
        da = { kind = "mqtt", channel = "day-ahead" }
        """,
    )
    assert (config.params_of("alpha").lease_ms, config.params_of("beta").lease_ms) == (60_000, 90_000)
    assert config.params_of("alpha").unknown_price is Stance.STOP
    assert config.params_of("alpha").tick_ms == 30_000
    assert (config.price_feed_of("alpha"), config.price_feed_of("beta")) == ("da", "rt")


@pytest.mark.parametrize(
    ("text", "key", "told"),
    [
        ("tick_s = 60\ntick_s = 61", "", "is not TOML"),
        ("[http]\nlisten = 8480", "http.listen", "string"),
        ('[http]\nlisten = "localhost"', "http.listen", ""),
        ('[http]\nlisten = "127.0.0.1:99999"', "http", "port"),
        ("tick_s = 0", "tick_s", "greater"),
        ("tick_s = nan", "tick_s", "finite"),
        ("tik_s = 60", "tik_s", "did you mean tick_s"),
        ("[mqtt]\nport = 1883", "mqtt.host", "missing"),
        ('[mqtt]\nhost = "h"\nidentifier = "c"\nprt = 1', "mqtt.prt", "did you mean port"),
        ('price = "rt"', "price", "no feed 'rt'"),
        ('[sites.alpha]\nhashprice = "x"', "sites.alpha.hashprice", "no feed 'x'"),
        ("[params]\nleas_ms = 1", "params", "did you mean lease_ms"),
        ("[params]\nlease_ms = 5000", "params.lease_ms", "lapses"),
        ("[params]\nstale_price_ms = -1", "params.stale_price_ms", "greater"),
        ('[sites.alpha.params]\nunknown_price = "guess"', "sites.alpha.params.unknown_price", "hold"),
        ("[sites.Alpha]", "sites.Alpha", "pattern"),
        ('[feeds.prices.rt]\nkind = "csv"\npath = "absent.csv"', "feeds.prices.rt.path", "not point to a file"),
        ('[feeds.prices.rt]\nkind = "csv"', "feeds.prices.rt.path", "missing"),
        ('[feeds.prices.rt]\nkind = "fax"', "feeds.prices.rt", "fax"),
        ('[feeds.prices.rt]\nkind = "http"\nurl = "ftp://x"\nprice = "p"', "feeds.prices.rt.url", "pattern"),
        ('[feeds.hashprices.h]\nkind = "given"\nusd_per_ph_day = -1', "feeds.hashprices.h.usd_per_ph_day", "greater"),
        ('[journal]\nurl = "mysql://x"', "journal.url", "pattern"),
    ],
)
def test_each_mistake_is_told_by_key(tmp_path: Path, text: str, key: str, told: str) -> None:
    error = fails(tmp_path, text)
    assert error.key.startswith(key), str(error)
    assert told in str(error)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "absent.toml")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("x")
    config = load(
        tmp_path,
        '[feeds.prices.rt]\nkind = "csv"\npath = "p.csv"\n[journal]\nurl = "sqlite+aiosqlite:///j.sqlite3"\n'
        '[http]\ntoken_file = "token"',
    )
    assert config.feeds.prices["rt"].path == tmp_path / "p.csv"  # type: ignore[union-attr]
    assert config.journal.url == f"sqlite+aiosqlite:///{tmp_path}/j.sqlite3"
    assert config.http.token_file == tmp_path / "token"


def test_metrics_are_closed_where_others_can_reach_them(tmp_path: Path) -> None:
    assert not load(tmp_path, '[http]\nlisten = "0.0.0.0:8480"').http.metrics_are_open
    assert load(tmp_path, '[http]\nlisten = "0.0.0.0:8480"\nmetrics_open = true').http.metrics_are_open
    assert load(tmp_path, '[http]\nlisten = "[::1]:8480"').http.metrics_are_open


def test_a_token_must_exist_be_long_and_be_private(tmp_path: Path) -> None:
    config = load(tmp_path, '[http]\ntoken_file = "token"')
    path = tmp_path / "token"
    for body, mode, told in (
        (None, 0, "cannot be read"),
        ("short", 0o600, "at least 16"),
        ("two words that are long", 0o600, "at least 16"),
        ("0123456789abcdef0123\n", 0o644, "read by everyone"),
    ):
        if body is not None:
            path.write_text(body)
            path.chmod(mode)
        with pytest.raises(ConfigError, match=told) as caught:
            read_token(config, "controller.toml")
        assert caught.value.key == "http.token_file"
    path.chmod(0o600)
    assert read_token(config, "controller.toml") == "0123456789abcdef0123"
    with pytest.raises(ConfigError, match="missing"):
        read_token(ControllerConfig(), "controller.toml")


def test_halls_go_by_the_weather_and_are_checked(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("interval_start_utc,temperature_c\n2024-01-01T00:00Z,1\n")
    series = """
        ambient = "weather"
        [feeds.series.weather]
        kind = "csv"
        path = "x.csv"
        column = "temperature_c"
    """
    hall = """
        [[sites.alpha.halls]]
        id = "east"
        banks = ["hall-a"]
        cooling_mw = [[20, 10.0], [35, 8.0]]
        pue = [[10, 1.05], [35, 1.12]]
    """
    made = load(tmp_path, series + hall).halls_of("alpha")
    assert [(h.id, h.cooling_w[1], h.pue_milli[0]) for h in made] == [("east", (35.0, 8_000_000), (10.0, 1_050))]
    assert load(tmp_path, series + hall).halls_of("beta") == ()
    assert "name an ambient series" in fails(tmp_path, hall).problem
    assert "must not rise as the weather warms" in fails(tmp_path, series + hall.replace("8.0", "11.0")).problem
    assert "bank hall-a stands twice" in fails(tmp_path, series + hall + hall.replace("east", "west")).problem
    bare = hall.replace("cooling_mw", "#").replace("pue", "#")
    assert "give cooling_mw or pue" in fails(tmp_path, series + bare).problem
