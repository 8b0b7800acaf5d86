"""How feeds are configured, and how a feed is made from its settings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from random import Random
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, FilePath, model_validator

from contract.clock import Clock
from contract.units import MS_PER_S
from controller.feeds.base import Feeds, HashPriceFeed, PriceFeed, SeriesFeed
from controller.feeds.csv_replay import CsvReplay, CsvSeries
from controller.feeds.hashprice import GivenHashPrice, TableHashPrice, computed_table, hashprice_usd_per_ph_day
from controller.feeds.http_json import HttpHashPrice, HttpPrices, Poll, PriceMapping, TimeForm
from controller.feeds.mqtt import MqttPrices
from controller.feeds.table import SeriesTable, load_series

_MEASURED_MAX = 1e9
"""A load in MW or a temperature beyond this is garbage."""
_NETWORK_FIGURE_MAX = 1e24
"""Difficulty is about 1e14; a figure beyond this is garbage."""

Seconds = Annotated[float, Field(ge=0, le=400 * 86_400, allow_inf_nan=False)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CsvPriceSettings(_Settings):
    """Replay of a file; see `controller.feeds.table` for the forms it may have."""

    kind: Literal["csv"]
    path: Annotated[FilePath, Field(description="a CSV file, plain or gzip")]
    column: str | None = None
    where: dict[str, str] = {}
    interval_s: Annotated[float, Field(ge=60, le=86_400)] | None = None
    known_after_s: Seconds = 0.0
    """From an interval's start until its price may be seen."""
    known_before_s: Seconds = 0.0
    """How long before an interval's start its price is published: a day-ahead price. Only an outlook looks so far."""
    replay_from: AwareDatetime | None = None
    """The file's moment that is played when the controller starts; without it the file's own times hold."""


class CsvSeriesSettings(_Settings):
    """Replay of a column of any measurement: the system's load, a temperature."""

    kind: Literal["csv"]
    path: Annotated[FilePath, Field(description="a CSV file, plain or gzip")]
    column: str
    where: dict[str, str] = {}
    known_after_s: Seconds = 0.0
    """From an interval's start until its value may be seen."""
    replay_from: AwareDatetime | None = None


class _PollSettings(_Settings):
    url: Annotated[str, Field(pattern=r"^https?://", max_length=2_000, description="an http or https URL")]
    every_s: Annotated[float, Field(ge=1, le=86_400)] = 60.0
    deadline_s: Annotated[float, Field(gt=0, le=120)] = 10.0
    size_max: Annotated[int, Field(ge=2, le=64 * 2**20)] = 1_048_576
    headers: dict[str, str] = {}
    token_file: FilePath | None = None
    """Sent as `Authorization: Bearer ...`."""
    scale: Annotated[float, Field(gt=0, le=1e6)] = 1.0

    def poll(self) -> Poll:
        """Raises `OSError` where the token cannot be read."""
        headers = dict(self.headers)
        if self.token_file is not None:
            headers["Authorization"] = f"Bearer {self.token_file.read_text(encoding='utf-8').strip()}"
        return Poll(
            url=self.url,
            every_ms=round(self.every_s * MS_PER_S),
            deadline_s=self.deadline_s,
            size_max=self.size_max,
            headers=tuple(headers.items()),
        )


class HttpPriceSettings(_PollSettings):
    """Prices polled from a URL; see `controller.feeds.http_json` for paths."""

    kind: Literal["http"]
    price: Annotated[str, Field(min_length=1, max_length=200, description='a path such as "data.0.lmp"')]
    rows: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    start: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    time: TimeForm = "iso"
    interval_s: Annotated[float, Field(ge=60, le=86_400)] = 300.0


class MqttPriceSettings(_Settings):
    """Prices on the bus, on `wattshift/v1/market/{channel}/price`; the channel is the feed's name unless given."""

    kind: Literal["mqtt"]
    channel: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")] | None = None


PriceSettings = Annotated[CsvPriceSettings | HttpPriceSettings | MqttPriceSettings, Field(discriminator="kind")]


class GivenHashPriceSettings(_Settings):
    """A figure."""

    kind: Literal["given"]
    usd_per_ph_day: Annotated[float, Field(ge=0, le=1e6)]


class ComputedHashPriceSettings(_Settings):
    """The network's figures as given, from which the hashprice follows."""

    kind: Literal["computed"]
    difficulty: Annotated[float, Field(gt=0, le=1e24)]
    subsidy_btc_per_block: Annotated[float, Field(ge=0, le=50)]
    fees_btc_per_block: Annotated[float, Field(ge=0, le=1_000)]
    btc_usd: Annotated[float, Field(ge=0, le=1e9)]

    @property
    def usd_per_ph_day(self) -> float:
        return hashprice_usd_per_ph_day(
            self.difficulty, self.subsidy_btc_per_block, self.fees_btc_per_block, self.btc_usd
        )


class CsvHashPriceSettings(_Settings):
    """A daily file: either a column of hashprices, or four columns to compute it from."""

    kind: Literal["csv"]
    path: Annotated[FilePath, Field(description="a CSV file, plain or gzip")]
    column: str | None = None
    difficulty: str | None = None
    subsidy_btc: str | None = None
    fees_btc: str | None = None
    btc_usd: str | None = None
    known_after_s: Seconds = 86_400.0
    replay_from: AwareDatetime | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        parts = (self.difficulty, self.subsidy_btc, self.fees_btc, self.btc_usd)
        if (self.column is None) == (None in parts) or (self.column is not None and any(parts)):
            raise ValueError("give either column, or all of difficulty, subsidy_btc, fees_btc and btc_usd")
        return self


class HttpHashPriceSettings(_PollSettings):
    """Polled from a URL."""

    kind: Literal["http"]
    usd_per_ph_day: Annotated[str, Field(min_length=1, max_length=200, description='a path such as "data.hashprice"')]


HashPriceSettings = Annotated[
    GivenHashPriceSettings | ComputedHashPriceSettings | CsvHashPriceSettings | HttpHashPriceSettings,
    Field(discriminator="kind"),
]


def build_feeds(
    prices: Mapping[str, PriceSettings],
    hashprices: Mapping[str, HashPriceSettings],
    clock: Clock,
    chance: Random,
    series: Mapping[str, CsvSeriesSettings] | None = None,
) -> Feeds:
    """Make every configured feed; files are read now. Raises `TableError` or `OSError`."""
    return Feeds(
        prices={name: _price_feed(name, settings, clock, chance) for name, settings in prices.items()},
        hashprices={name: _hashprice_feed(name, settings, clock, chance) for name, settings in hashprices.items()},
        series={name: _series_feed(name, settings, clock) for name, settings in (series or {}).items()},
    )


def _series_feed(name: str, settings: CsvSeriesSettings, clock: Clock) -> SeriesFeed:
    table = load_series(settings.path, column=settings.column, where=settings.where, value_max=_MEASURED_MAX)
    known_after_ms = round(settings.known_after_s * MS_PER_S)
    return CsvSeries(name, table, known_after_ms=known_after_ms, shift_ms=_shift_ms(settings.replay_from, clock))


def _price_feed(name: str, settings: PriceSettings, clock: Clock, chance: Random) -> PriceFeed:
    match settings:
        case CsvPriceSettings():
            table = load_series(
                settings.path,
                column=settings.column,
                where=settings.where,
                interval_ms=None if settings.interval_s is None else round(settings.interval_s * MS_PER_S),
            )
            known_after_ms = round(settings.known_after_s * MS_PER_S)
            known_before_ms = round(settings.known_before_s * MS_PER_S)
            shift_ms = _shift_ms(settings.replay_from, clock)
            return CsvReplay(
                name, table, known_after_ms=known_after_ms, known_before_ms=known_before_ms, shift_ms=shift_ms
            )
        case HttpPriceSettings():
            mapping = PriceMapping(
                price=settings.price,
                rows=settings.rows,
                start=settings.start,
                time=settings.time,
                interval_ms=round(settings.interval_s * MS_PER_S),
                scale=settings.scale,
            )
            return HttpPrices(name, settings.poll(), mapping, clock, chance)
        case MqttPriceSettings():
            return MqttPrices(name, settings.channel or name, clock)


def _hashprice_feed(name: str, settings: HashPriceSettings, clock: Clock, chance: Random) -> HashPriceFeed:
    match settings:
        case GivenHashPriceSettings() | ComputedHashPriceSettings():
            return GivenHashPrice(name, settings.usd_per_ph_day)
        case CsvHashPriceSettings():
            known_after_ms = round(settings.known_after_s * MS_PER_S)
            shift_ms = _shift_ms(settings.replay_from, clock)
            return TableHashPrice(name, _hashprice_table(settings), known_after_ms=known_after_ms, shift_ms=shift_ms)
        case HttpHashPriceSettings():
            return HttpHashPrice(name, settings.poll(), settings.usd_per_ph_day, settings.scale, clock, chance)


def _hashprice_table(settings: CsvHashPriceSettings) -> SeriesTable:
    if settings.column is not None:
        return load_series(settings.path, column=settings.column)
    columns = (settings.difficulty, settings.subsidy_btc, settings.fees_btc, settings.btc_usd)
    return computed_table(
        *(load_series(settings.path, column=column, value_max=_NETWORK_FIGURE_MAX) for column in columns)
    )


def _shift_ms(replay_from: datetime | None, clock: Clock) -> int:
    return 0 if replay_from is None else clock.wall_ms() - round(replay_from.timestamp() * MS_PER_S)
