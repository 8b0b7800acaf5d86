"""The controller's configuration: TOML, checked whole before anything starts.

Every error names the file, the key and what to do. Relative paths are relative to the configuration file.
"""

from __future__ import annotations

import difflib
import ipaddress
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contract.mqtt_settings import MqttSettings
from contract.units import MS_PER_S, W_PER_MW, Name, PowerW
from controller.engine.model import Hall, Method, Params
from controller.feeds.settings import CsvSeriesSettings, HashPriceSettings, PriceSettings
from controller.forecast import FORECASTS, Market

CONFIG_MAX_BYTES: Final = 4 * 2**20
TOKEN_MIN: Final = 16
LEASE_MIN_MS: Final = 15_000
"""A shorter lease would lapse between two reports."""
_PATH_KEYS: Final = frozenset(
    {"path", "token_file", "password_file", "ca", "cert", "key", "roles_file", "audit_file", "proxy_socket"}
)


class ConfigError(ValueError):
    """A configuration that cannot be used."""

    def __init__(self, file: str, key: str, problem: str, fix: str) -> None:
        super().__init__(f"{file}: {key}: {problem}. Fix: {fix}" if key else f"{file}: {problem}. Fix: {fix}")
        self.file = file
        self.key = key
        self.problem = problem
        self.fix = fix


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Listen(NamedTuple):
    """Where the HTTP server listens; port 0 takes a free one."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class HttpSettings(_Settings):
    """The HTTP API."""

    listen: Annotated[
        str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):\d{1,5}$", description='HOST:PORT, "127.0.0.1:8480"')
    ] = "127.0.0.1:8480"
    token_file: Annotated[Path, Field(description="a file that holds the bearer token")] | None = None
    metrics_open: bool | None = None
    """Whether /metrics answers without the token; None: only while listening on loopback."""
    body_max: Annotated[int, Field(ge=256, le=16 * 2**20)] = 65_536
    roles_file: Path | None = None
    """Tokens by their hash, with roles and sites, see `controller.roles`."""
    audit_file: Path | None = None
    """Where every change and refusal is written down, see `controller.audit`."""
    proxy_socket: Path | None = None
    """A Unix socket on which a trusted proxy says who asks; nowhere else are its headers believed."""
    proxy_user_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")] = "X-Forwarded-User"
    proxy_groups_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")] = "X-Forwarded-Groups"
    confirm_above_w: PowerW | None = 5_000_000
    """An override that changes a site's power by more needs the confirm token of its preview; None: none does."""
    reads_per_s: Annotated[float, Field(gt=0, le=1e6)] = 100.0
    """Of one token; ten times as many at once."""
    changes_per_s: Annotated[float, Field(gt=0, le=1e6)] = 5.0
    """Likewise. An emergency stop or lockout is never held back."""
    streams_max: Annotated[int, Field(ge=0, le=10_000)] = 100
    """Clients that may follow /v1/events at once."""

    @property
    def address(self) -> Listen:
        host, _, port = self.listen.rpartition(":")
        return Listen(host.strip("[]"), int(port))

    @property
    def metrics_are_open(self) -> bool:
        return self.address.loopback if self.metrics_open is None else self.metrics_open

    @model_validator(mode="after")
    def _port(self) -> Self:
        if self.address.port > 65_535:
            raise ValueError("listen: the port is above 65535")
        return self


class JournalSettings(_Settings):
    """Where decisions are written down."""

    url: Annotated[
        str, Field(pattern=r"^(sqlite\+aiosqlite|postgresql\+asyncpg):", description="an SQLAlchemy URL")
    ] = "sqlite+aiosqlite:///wattshift-journal.sqlite3"
    queue_records: Annotated[int, Field(ge=100, le=10_000_000)] = 50_000
    """What may wait for the disk; beyond it records are dropped and counted."""
    retry_s: Annotated[float, Field(gt=0, le=600)] = 5.0
    """How long after a failed write it is tried again."""
    max_mb: Annotated[int, Field(ge=1, le=16 * 2**20)] | None = None
    """The most an SQLite journal may grow to; None: the disk."""
    epoch_floor: Annotated[int, Field(ge=0, le=2**52)] = 0
    """The epoch is above this: for a controller whose journal was lost."""


class IngestSettings(_Settings):
    """What is let in."""

    sites: tuple[Name, ...] | None = None
    """The sites that may speak; None learns every site that does."""
    sites_max: Annotated[int, Field(ge=1, le=100_000)] = 5_000


class EngineSettings(_Settings):
    """How a dispatch is chosen inside what the rules leave, and what is expected of prices."""

    economics: Method = Method.OPTIMISER
    """`optimiser` plans a day ahead; `merit_order` goes by the price of now."""
    forecast: str = "day_ahead"
    """One of `controller.forecast.FORECASTS`; without its feeds it is the next simpler one."""
    timezone: str = "UTC"
    """Of the market: hours and months of a forecast are local."""
    spike_usd_per_mwh: Annotated[float, Field(gt=0, le=100_000)] = 250.0
    peak_months: tuple[Annotated[int, Field(ge=1, le=12)], ...] = ()
    """Months with a coincident peak that is billed each, such as [6, 7, 8, 9]."""

    def market(self) -> Market:
        """What a forecast is told of the market."""
        return Market(
            timezone=self.timezone, spike_usd_per_mwh=self.spike_usd_per_mwh, peak_months=tuple(self.peak_months)
        )

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.forecast not in FORECASTS:
            raise ValueError(f"forecast: {self.forecast!r} is none; known: {', '.join(FORECASTS)}")
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"timezone: {self.timezone!r} is none; use an IANA name, America/Chicago") from None
        return self


class FleetSettings(_Settings):
    """What binds all sites together."""

    cap_mw: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """The most that all main meters may show together; None where nothing binds them. Every site gets a quota of it."""


class HallSettings(_Settings):
    """What one cooling plant serves, and what the weather makes of it. See `controller.engine.model.Hall`."""

    id: Name
    banks: tuple[Name, ...]
    cooling_mw: tuple[tuple[float, Annotated[float, Field(ge=0, le=1e4)]], ...] = ()
    """[degrees C dry bulb, the most all its banks may draw together], falling as it warms."""
    pue: tuple[tuple[float, Annotated[float, Field(ge=1, le=5)]], ...] = ()
    """[degrees C dry bulb, site watts per bank watt], rising; where the nameplate's is more, that holds."""

    @cached_property
    def hall(self) -> Hall:
        """For the snapshot. Raises `ValueError` where the curves cannot be meant."""
        return Hall(
            id=self.id,
            banks=self.banks,
            cooling_w=tuple((c, round(mw * W_PER_MW)) for c, mw in self.cooling_mw),
            pue_milli=tuple((c, round(pue * 1_000)) for c, pue in self.pue),
        )

    @model_validator(mode="after")
    def _meant(self) -> Self:
        try:
            made = self.hall
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            raise ValueError(f"hall {self.id}: {str(first['msg']).removeprefix('Value error, ')}") from None
        if not made.cooling_w and not made.pue_milli:
            raise ValueError(f"hall {self.id}: give cooling_mw or pue, or leave the hall out")
        return self


class SiteSettings(_Settings):
    """What differs for one site."""

    price: str | None = None
    hashprice: str | None = None
    day_ahead: str | None = None
    load: str | None = None
    ambient: str | None = None
    halls: tuple[HallSettings, ...] = ()
    """Those whose cooling depends on the weather; they need the `ambient` series."""
    params: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_hall_each(self) -> Self:
        for name, ids in (("hall", [h.id for h in self.halls]), ("bank", [b for h in self.halls for b in h.banks])):
            twice = [one for one, count in Counter(ids).items() if count > 1]
            if twice:
                raise ValueError(f"halls: {name} {twice[0]} stands twice")
        return self


class FeedSettings(_Settings):
    """All feeds, by name."""

    prices: dict[Name, PriceSettings] = {}
    hashprices: dict[Name, HashPriceSettings] = {}
    series: dict[Name, CsvSeriesSettings] = {}


class ControllerConfig(_Settings):
    """All of it. What is left out has the default that stands here."""

    mqtt: MqttSettings = MqttSettings(host="127.0.0.1", identifier="wattshift-controller")
    http: HttpSettings = HttpSettings()
    journal: JournalSettings = JournalSettings()
    ingest: IngestSettings = IngestSettings()
    feeds: FeedSettings = FeedSettings()
    price: str | None = None
    """The price feed of every site that names no other."""
    hashprice: str | None = None
    day_ahead: str | None = None
    """The price feed whose prices are published for the day to come."""
    load: str | None = None
    """The series of the system's load, and """
    ambient: str | None = None
    """of the temperature at the site; both may serve a forecast."""
    engine: EngineSettings = EngineSettings()
    fleet: FleetSettings = FleetSettings()
    tick_s: Annotated[float, Field(ge=1, le=3_600)] = 60.0
    """How often everything is decided anew."""
    params: dict[str, Any] = {}
    """Overrides of `controller.engine.model.Params` for every site."""
    sites: dict[Name, SiteSettings] = {}

    @property
    def tick_ms(self) -> int:
        return round(self.tick_s * MS_PER_S)

    def params_of(self, site: str) -> Params:
        """How decisions are made for a site: the defaults, then [params], then the site's own."""
        own = self.sites[site].params if site in self.sites else {}
        usual = {"tick_ms": self.tick_ms, "economics": self.engine.economics}
        return Params.model_validate(usual | self.params | own)

    def price_feed_of(self, site: str) -> str | None:
        return (self.sites[site].price if site in self.sites else None) or self.price

    def hashprice_feed_of(self, site: str) -> str | None:
        return (self.sites[site].hashprice if site in self.sites else None) or self.hashprice

    def day_ahead_feed_of(self, site: str) -> str | None:
        return (self.sites[site].day_ahead if site in self.sites else None) or self.day_ahead

    def load_feed_of(self, site: str) -> str | None:
        return (self.sites[site].load if site in self.sites else None) or self.load

    def ambient_feed_of(self, site: str) -> str | None:
        return (self.sites[site].ambient if site in self.sites else None) or self.ambient

    def halls_of(self, site: str) -> tuple[Hall, ...]:
        return tuple(each.hall for each in self.sites[site].halls) if site in self.sites else ()

    @model_validator(mode="after")
    def _weather_is_known(self) -> Self:
        for site, own in self.sites.items():
            if own.halls and self.ambient_feed_of(site) is None:
                raise ValueError(f"sites.{site}.halls: their cooling goes by the weather: name an ambient series")
        return self

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for key, name, feeds in self._feed_references():
            if name is not None and name not in feeds:
                raise ValueError(f"{key}: there is no feed {name!r}; configured: {', '.join(sorted(feeds)) or 'none'}")
        for key, given in (("params", self.params), *((f"sites.{s}.params", o.params) for s, o in self.sites.items())):
            for name in given:
                if name not in Params.model_fields:
                    raise ValueError(f"{key}: {_unknown(name, list(Params.model_fields))}")
            if isinstance(given.get("lease_ms"), int) and given["lease_ms"] < LEASE_MIN_MS:
                raise ValueError(f"{key}.lease_ms: a lease below {LEASE_MIN_MS} ms lapses between two reports")
            try:
                Params.model_validate(given)
            except ValidationError as error:
                first = error.errors(include_url=False, include_context=False, include_input=False)[0]
                raise ValueError(f"{key}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        return self

    def _feed_references(self) -> Sequence[tuple[str, str | None, Mapping[str, object]]]:
        feeds: dict[str, Mapping[str, object]] = {
            "price": self.feeds.prices,
            "hashprice": self.feeds.hashprices,
            "day_ahead": self.feeds.prices,
            "load": self.feeds.series,
            "ambient": self.feeds.series,
        }
        return [
            *((key, getattr(self, key), known) for key, known in feeds.items()),
            *(
                (f"sites.{site}.{key}", getattr(own, key), known)
                for site, own in self.sites.items()
                for key, known in feeds.items()
            ),
        ]


def load_config(path: Path) -> ControllerConfig:
    """Read and check a configuration file. Raises `ConfigError`."""
    file = str(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            file, "", f"cannot be read ({error.strerror})", "check the path and its permissions"
        ) from None
    if len(raw) > CONFIG_MAX_BYTES:
        raise ConfigError(file, "", f"is larger than {CONFIG_MAX_BYTES} bytes", "give the configuration, not data")
    try:
        tree = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(file, "", f"is not TOML: {error}", "correct the line it names") from None
    _anchor(tree, path.parent)
    try:
        return ControllerConfig.model_validate(tree)
    except ValidationError as error:
        raise _explain(file, error) from None


def read_token(config: ControllerConfig, file: str) -> str | None:
    """The plain bearer token, None where only the roles file has some. Raises `ConfigError`; there is no way to run
    the API without any."""
    path = config.http.token_file
    if path is None and config.http.roles_file is not None:
        return None
    make = f"write one: openssl rand -hex 32 > {path or 'token'} && chmod 600 {path or 'token'}"
    if path is None:
        raise ConfigError(file, "http.token_file", "is missing", f'{make}, then set token_file = "token"')
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(file, "http.token_file", f"{path} cannot be read ({error})", make) from None
    if len(token) < TOKEN_MIN or not token.isascii() or not token.isprintable() or " " in token:
        problem = f"{path} does not hold one token of at least {TOKEN_MIN} printable ASCII characters"
        raise ConfigError(file, "http.token_file", problem, make)
    if path.stat().st_mode & 0o007:
        raise ConfigError(file, "http.token_file", f"{path} can be read by everyone", f"chmod o= {path}")
    return token


def _anchor(tree: dict[str, Any], folder: Path) -> None:
    """Make relative paths, and the file of an SQLite URL, relative to the configuration's folder."""
    for key, value in tree.items():
        if isinstance(value, dict):
            _anchor(value, folder)
        elif key in _PATH_KEYS and isinstance(value, str):
            tree[key] = str(folder / value)
        elif key == "url" and isinstance(value, str) and value.startswith("sqlite+aiosqlite:///"):
            name = value.removeprefix("sqlite+aiosqlite:///")
            if name and not name.startswith((":", "file:")):
                tree[key] = f"sqlite+aiosqlite:///{folder.absolute() / name}"


def _explain(file: str, error: ValidationError) -> ConfigError:
    first = error.errors(include_url=False, include_input=False)[0]
    loc = list(first["loc"])
    if loc[:1] == ["feeds"]:
        del loc[3:4]  # feeds.prices.NAME.KIND: the kind is pydantic's, not a key of the file
    key = ".".join(map(str, loc))
    problem = str(first["msg"]).removeprefix("Value error, ")
    match first["type"]:
        case "missing":
            return ConfigError(file, key, "is missing", f"add {key.rpartition('.')[2]} = ...")
        case "extra_forbidden":
            name = str(first["loc"][-1])
            return ConfigError(file, key, "is not a key", f"remove it, or correct its spelling{_near(name)}")
        case "value_error" if not key:
            key, _, problem = problem.partition(": ")
            return ConfigError(file, key, problem, f"correct {key}")
        case _:
            return ConfigError(file, key, problem, "see deploy/config/controller.sample.toml for what it takes")


def _known_keys() -> list[str]:
    models: list[type[BaseModel]] = [
        ControllerConfig,
        MqttSettings,
        HttpSettings,
        JournalSettings,
        IngestSettings,
        SiteSettings,
        HallSettings,
        EngineSettings,
        FeedSettings,
    ]
    return [name for model in models for name in model.model_fields]


def _near(name: str) -> str:
    near = difflib.get_close_matches(name, _known_keys(), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"{name!r} is not a parameter; " + (f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}")
