"""Every message that crosses the broker, as pydantic models. The JSON these produce is the wire format.

Rules of evolution, kept by golden files under tests/contract/golden: fields may be added with a default; unknown fields
are ignored; a released field is never removed or given another meaning. A change that needs more raises
`SCHEMA_VERSION`, and an agent or controller refuses a version it does not know.

Every reading carries its own age and is `None` where it is unknown. Ages are measured on the sender's monotonic clock,
so the two sides' wall clocks never need to agree.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contract.reasons import InterlockKind, ReceiptReason
from contract.units import (
    DurationMs,
    HashrateGhs,
    Name,
    PowerW,
    Seq,
    SignedPowerW,
    TempMc,
    TimeMs,
    UsdPerMwh,
)

SCHEMA_VERSION: Final = 1
MAX_PAYLOAD_BYTES: Final = 1_048_576
"""A larger message is refused unread."""

MAX_BANKS: Final = 2_000
MAX_FEEDERS: Final = 2_000
MAX_JOBS: Final = 10_000
MAX_DETAIL: Final = 400
MAX_NODES: Final = 50_000
"""Objects and lists in one message; the largest site there may be has some 20,000."""
MAX_LEVELS: Final = 256
MAX_INTERLOCKS: Final = 16


Count = Annotated[int, Field(ge=0, le=1_000_000)]


class Wire(BaseModel):
    """Base of all wire models: immutable, unknown fields ignored, no NaN or infinity.

    Lists fail at their first bad item (`fail_fast`): a megabyte of bad items would else take seconds to complain about.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, ser_json_inf_nan="null")


class Workload(StrEnum):
    """What a bank's megawatts do."""

    HASH = "hash"
    HPC = "hpc"
    IDLE = "idle"


class Mode(StrEnum):
    """Who is in charge of a site."""

    AUTO = "auto"
    """Orders are obeyed."""
    LOCAL = "local"
    """A person on site is in charge; orders are refused."""
    SAFE = "safe"
    """No valid lease: the agent holds its configured fail-safe."""


class Source(StrEnum):
    """Where a power figure comes from, best first. Never mix them silently: they differ by 5 to 20 %."""

    METER = "meter"
    DEVICES = "devices"
    """The sum of the devices' own estimates."""
    MODEL = "model"
    """Nameplate by state."""


class Feeder(Wire):
    """A breaker-limited node of the site's electrical tree. Exactly one has no parent: the site's main."""

    id: Name
    parent: Name | None = None
    limit_w: PowerW
    metered: bool = False


class Level(Wire):
    """A point of a bank's efficiency curve, for the whole bank with every device present."""

    power_w: PowerW
    hashrate_ghs: HashrateGhs


class BankPlate(Wire):
    """What a bank is: ASICs of one model on one feeder, or one HPC partition."""

    id: Name
    feeder: Name
    workload: Literal[Workload.HASH, Workload.HPC]
    model: str = Field(max_length=120)
    devices: Annotated[int, Field(ge=1, le=1_000_000)]
    rated_w: PowerW
    """All devices at their highest level."""
    idle_w: PowerW = 0
    """All devices stopped, control boards up; or all nodes idle."""
    levels: Annotated[tuple[Level, ...], Field(max_length=MAX_LEVELS, fail_fast=True)] = ()
    """Ascending in power, rated level last; for an HPC partition empty."""
    steps_w: PowerW = 0
    """The power of one device, hence the grain of a setpoint; 0 where power is continuous."""
    min_up_ms: DurationMs = 0
    min_down_ms: DurationMs = 0
    start_delay_ms: DurationMs = 0
    """From the command to full hashrate."""
    start_cost_usd: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    """Wear of one start of the whole bank."""
    ramp_up_w_per_s: PowerW = 0
    """The fastest rise the site allows this bank; 0 means no limit. A fall is never limited."""
    pue_milli: Annotated[int, Field(ge=1_000, le=5_000)] = 1_000
    """Site watts per bank watt, in thousandths: cooling and losses that follow this bank."""
    fail_safe_w: PowerW = 0
    """What the agent holds this bank at when no lease is valid."""

    @model_validator(mode="after")
    def _levels_rise(self) -> Self:
        powers = [level.power_w for level in self.levels]
        if powers != sorted(set(powers)):
            raise ValueError("levels: power_w must rise strictly from one level to the next")
        if self.levels and self.levels[-1].power_w != self.rated_w:
            raise ValueError("levels: the last level's power_w must equal rated_w")
        if self.idle_w > self.rated_w or self.fail_safe_w > self.rated_w:
            raise ValueError("idle_w and fail_safe_w must not exceed rated_w")
        return self


class Nameplate(Wire):
    """What a site is. Retained; published on connect and on change."""

    schema_version: Literal[1] = SCHEMA_VERSION
    site: Name
    boot: Annotated[str, Field(min_length=1, max_length=64)]
    """The agent's incarnation; a new one at every start of the agent."""
    name: Annotated[str, Field(max_length=120)] = ""
    feeders: Annotated[tuple[Feeder, ...], Field(min_length=1, max_length=MAX_FEEDERS, fail_fast=True)]
    banks: Annotated[tuple[BankPlate, ...], Field(max_length=MAX_BANKS, fail_fast=True)]
    base_load_w: PowerW = 0
    """What the site draws besides its banks: offices, networks, pumps that always run."""
    report_every_ms: DurationMs = 5_000
    fail_safe_after_ms: DurationMs = 0
    """Extra time the agent waits after a lease has run out before it goes to its fail-safe."""

    @model_validator(mode="after")
    def _one_tree(self) -> Self:
        _refuse_repeats("feeders", [feeder.id for feeder in self.feeders])
        parents = {feeder.id: feeder.parent for feeder in self.feeders}
        roots = [feeder.id for feeder in self.feeders if feeder.parent is None]
        if len(roots) != 1:
            raise ValueError(f"feeders: exactly one must have no parent, found {len(roots)}")
        sound: set[str | None] = {None}  # those known to lead to the root
        for start in parents:
            path: set[str | None] = set()
            node: str | None = start
            while node not in sound:
                if node in path or node not in parents:
                    problem = "is its own ancestor" if node in path else "names an unknown parent"
                    raise ValueError(f"feeders: {start} {problem}")
                path.add(node)
                node = parents[node]
            sound |= path
        _refuse_repeats("banks", [bank.id for bank in self.banks])
        for bank in self.banks:
            if bank.feeder not in parents:
                raise ValueError(f"banks: {bank.id} names an unknown feeder {bank.feeder}")
        return self

    @property
    def main(self) -> Feeder:
        """The root of the feeder tree; its meter is the site's meter."""
        return next(feeder for feeder in self.feeders if feeder.parent is None)


class FeederReading(Wire):
    """Metered power of one feeder."""

    id: Name
    power_w: SignedPowerW | None
    age_ms: DurationMs | None
    source: Source = Source.METER


class DeviceCounts(Wire):
    """A bank's devices by state; they sum to the bank's devices."""

    running: Count = 0
    starting: Count = 0
    stopped: Count = 0
    tripped: Count = 0
    unreachable: Count = 0
    unknown: Count = 0


class Interlock(Wire):
    """A local trip in force."""

    kind: InterlockKind
    detail: Annotated[str, Field(max_length=200)] = ""


class BankReading(Wire):
    """What a bank does now, as measured."""

    id: Name
    power_w: PowerW | None
    age_ms: DurationMs | None
    source: Source = Source.DEVICES
    hashrate_ghs: HashrateGhs | None = None
    inlet_temp_mc: TempMc | None = None
    chip_temp_mc: TempMc | None = None
    """The hottest chip of the bank."""
    devices: DeviceCounts = DeviceCounts()
    available_w: PowerW | None = None
    """The most this bank could draw now: devices that answer, not tripped, not locked out."""
    setpoint_w: PowerW | None = None
    """What the agent now holds the bank at, after its guard."""
    on: bool | None = None
    """Whether any device is meant to run."""
    on_for_ms: DurationMs | None = None
    """How long `on` has been what it is; survives a restart of the agent."""
    interlocks: Annotated[tuple[Interlock, ...], Field(max_length=MAX_INTERLOCKS, fail_fast=True)] = ()


class JobState(StrEnum):
    """Where an HPC job stands."""

    PENDING = "pending"
    RUNNING = "running"
    FROZEN = "frozen"
    """Stopped in place by a signal, its nodes held."""


class Job(Wire):
    """One HPC job the scheduler knows."""

    id: Annotated[str, Field(min_length=1, max_length=64)]
    state: JobState
    nodes: Annotated[int, Field(ge=1, le=1_000_000)]
    power_w: PowerW
    """What it draws, or would draw, above idle nodes."""
    value_usd_per_node_h: Annotated[float, Field(ge=0, le=1e6)]
    firm: bool = False
    """Contracted: touched only by interlock, emergency stop or an obligation that nothing else can meet."""
    remaining_ms: DurationMs | None = None
    deadline_ms: TimeMs | None = None
    checkpoint_every_ms: DurationMs | None = None
    restart_cost_usd: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    notice_ms: DurationMs = 0


class PartitionReading(Wire):
    """The HPC side of one bank."""

    bank: Name
    nodes_up: Count
    nodes_busy: Count
    admitting: bool
    """Whether pending jobs may start."""
    age_ms: DurationMs | None
    jobs: Annotated[tuple[Job, ...], Field(max_length=MAX_JOBS, fail_fast=True)] = ()
    idle_w: PowerW | None = None
    """All nodes idle, as learned from a meter or from the hosts; None: the nameplate's figure holds."""


class Report(Wire):
    """Everything an agent knows of its site at one tick, in one message."""

    schema_version: Literal[1] = SCHEMA_VERSION
    site: Name
    boot: Annotated[str, Field(min_length=1, max_length=64)]
    seq: Seq
    sent_at_ms: TimeMs
    mode: Mode
    epoch: Seq
    """The highest controller epoch this agent has seen; it refuses lower ones."""
    order_seq: Seq | None
    """The order it now obeys, None where it obeys none."""
    lease_left_ms: DurationMs | None
    feeders: Annotated[tuple[FeederReading, ...], Field(max_length=MAX_FEEDERS, fail_fast=True)]
    banks: Annotated[tuple[BankReading, ...], Field(max_length=MAX_BANKS, fail_fast=True)]
    partitions: Annotated[tuple[PartitionReading, ...], Field(max_length=MAX_BANKS, fail_fast=True)] = ()
    ambient_temp_mc: TempMc | None = None
    ambient_age_ms: DurationMs | None = None

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        _refuse_repeats("feeders", [reading.id for reading in self.feeders])
        _refuse_repeats("banks", [reading.id for reading in self.banks])
        _refuse_repeats("partitions", [reading.bank for reading in self.partitions])
        return self


class Setpoint(Wire):
    """What one bank is to draw at most, and be allowed to draw."""

    bank: Name
    workload: Workload
    target_w: PowerW
    reason: Annotated[str, Field(max_length=64)]
    """A `DecisionReason`; kept as text so that an older agent obeys a newer controller."""


class ShedStep(Wire):
    """One rung of the shed ladder: a bank, or a job of an HPC bank, and what shedding it frees."""

    bank: Name
    job: Annotated[str, Field(max_length=64)] | None = None
    frees_w: PowerW
    firm: bool = False


class Order(Wire):
    """The full target of a site: level, not edge. A bank it does not name is to stand down.

    An order is a lease that the agent dates itself: it is valid for `valid_for_ms` from the moment the agent sent the
    report `based_on_seq` of its incarnation `based_on_boot`. Never retained.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    site: Name
    epoch: Seq
    seq: Seq
    based_on_boot: Annotated[str, Field(min_length=1, max_length=64)]
    based_on_seq: Seq
    valid_for_ms: Annotated[int, Field(ge=1, le=24 * 3_600_000)]
    issued_at_ms: TimeMs
    decision: Annotated[str, Field(max_length=64)] = ""
    """The journal's id of the decision it carries out."""
    urgent: bool = False
    """Fast path: shed before anything else that is waiting."""
    obligation: Annotated[str, Field(max_length=64)] | None = None
    """Set while an obligation is open: the agent then reports every second."""
    cap_w: PowerW | None = None
    """The site cap in force at the main meter; the agent sheds down the ladder by itself above it."""
    setpoints: Annotated[tuple[Setpoint, ...], Field(max_length=MAX_BANKS, fail_fast=True)]
    shed_ladder: Annotated[tuple[ShedStep, ...], Field(max_length=MAX_BANKS + MAX_JOBS, fail_fast=True)] = ()
    """First rung is shed first."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        _refuse_repeats("setpoints", [setpoint.bank for setpoint in self.setpoints])
        return self


class ReceiptState(StrEnum):
    """How far a bank's part of an order has come."""

    PENDING = "pending"
    DISPATCHED = "dispatched"
    """Commands are out; power has not yet said so."""
    CONFIRMED = "confirmed"
    PARTIAL = "partial"
    """Some of it came true and time for the rest is up."""
    DRIFTED = "drifted"
    """Was confirmed, and no longer holds."""
    REFUSED = "refused"
    UNREACHABLE = "unreachable"


class BankReceipt(Wire):
    """One bank's part of an order."""

    bank: Name
    state: ReceiptState
    reason: ReceiptReason
    target_w: PowerW
    obeyed_w: PowerW
    """The setpoint after the guard; below `target_w` where a local limit clamped it."""
    measured_w: PowerW | None = None
    source: Source | None = None
    after_ms: DurationMs | None = None
    """From the order's arrival to this state."""


class Receipt(Wire):
    """What the agent answers to an order: at once on arrival, and whenever a bank's state changes."""

    schema_version: Literal[1] = SCHEMA_VERSION
    site: Name
    boot: Annotated[str, Field(min_length=1, max_length=64)]
    epoch: Seq
    order_seq: Seq
    seq: Seq
    accepted: bool
    """False where the order as a whole was refused; then `reason` says why and `banks` is empty."""
    reason: ReceiptReason | None = None
    detail: Annotated[str, Field(max_length=400)] = ""
    first_action_ms: DurationMs | None = None
    """From the order's arrival to the first command on a device's socket."""
    banks: Annotated[tuple[BankReceipt, ...], Field(max_length=MAX_BANKS, fail_fast=True)] = ()


class Status(Wire):
    """Retained; `online` on connect, `offline` on a clean end and as the last will."""

    schema_version: Literal[1] = SCHEMA_VERSION
    site: Name
    boot: Annotated[str, Field(min_length=1, max_length=64)]
    online: bool


class PriceMessage(Wire):
    """A price on the bus: what the interval that began at `interval_start_ms` costs."""

    schema_version: Literal[1] = SCHEMA_VERSION
    interval_start_ms: TimeMs
    interval_ms: Annotated[int, Field(ge=60_000, le=24 * 3_600_000)]
    usd_per_mwh: UsdPerMwh


AnyMessage = Nameplate | Report | Order | Receipt | Status | PriceMessage
M = TypeVar("M", Nameplate, Report, Order, Receipt, Status, PriceMessage)


class WireError(ValueError):
    """A payload that is not a message. `code` is stable: `oversized`, `malformed`, `version` or `invalid`."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


def encode(message: AnyMessage) -> bytes:
    """The wire form of a message: compact UTF-8 JSON."""
    return message.model_dump_json().encode()


def decode(kind: type[M], payload: bytes) -> M:
    """Parse and validate one payload, strictly: a number in quotes is no number, 5.0 is no integer, 1 is no `true`.

    Raises `WireError`, whose detail names the first offending field. A message without a version is of no version.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise WireError("oversized", f"{len(payload)} bytes, at most {MAX_PAYLOAD_BYTES} are read")
    if payload.count(b"{") + payload.count(b"[") > MAX_NODES:  # each error copies what it is about: seconds, for these
        raise WireError("oversized", f"more than {MAX_NODES} objects and lists")
    try:
        message = kind.model_validate_json(payload, strict=True)
    except ValidationError as error:
        raise _wire_error(error) from None
    if "schema_version" not in message.model_fields_set:
        raise WireError("version", "schema_version: Field required")
    return message


def _refuse_repeats(field: str, names: list[str]) -> None:
    if len(set(names)) != len(names):
        raise ValueError(f"{field}: a name stands twice")


def _wire_error(error: ValidationError) -> WireError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    code = "malformed" if first["type"] == "json_invalid" else "invalid"
    if field == "schema_version":
        code = "version"
    return WireError(code, f"{field or 'payload'}: {first['msg']}"[:MAX_DETAIL])
