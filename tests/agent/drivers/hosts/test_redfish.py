"""The Redfish driver against a BMC on a real socket: every make reads, is limited and put back as found; every fault
ends within the deadline and is named."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import subprocess
from pathlib import Path

import pytest
from pydantic import ValidationError

from agent.drivers.base import Applied, Failure, Refused, Unreachable
from agent.drivers.hosts.host import HostReading, HostState, LimitsPower, Switches
from agent.drivers.hosts.redfish import redfish_host
from contract.clock import SystemClock
from sim.devices.redfish import Machine, Make, RedfishServer
from sim.ports import DeviceFault
from tests.agent.drivers.hosts.bmc import bmc, driver, until

MAKES = {
    "environment and power": Make(),
    "environment alone": Make(power=False),
    "power alone": Make(environment=False, range_w=None),
    "an etag is required": Make(if_match="required"),
    "a strong etag is required": Make(if_match="strong"),
    "an etag is refused": Make(if_match="refused"),
    "etags change with every reading": Make(if_match="optional", restless=True),
    "etags mean nothing": Make(if_match="ignored", restless=True),
    "resets stand apart": Make(action_info=True),
}


@pytest.fixture(params=list(MAKES))
def make(request: pytest.FixtureRequest) -> Make:
    return MAKES[request.param]


async def reading(host: object) -> HostReading:
    found = await host.read()  # type: ignore[attr-defined]
    assert isinstance(found, HostReading), found
    return found


async def test_every_make_is_read_limited_and_put_back(make: Make, tmp_path: Path) -> None:
    async with bmc(tmp_path, make) as (server, host):
        assert await reading(host) == HostReading(
            state=HostState.ON,
            power_w=900,
            limited=False,
            limit_w=None,
            limit_range_w=(300, 1_200) if make.environment else None,
        )
        assert not host.limit_is_ours
        assert isinstance(await host.set_limit_w(500), Applied)
        assert (server.machine.in_force_w, server.machine.power_w, host.limit_is_ours) == (500, 500, True)
        limited = await reading(host)
        assert (limited.limited, limited.limit_w, limited.power_w) == (True, 500, 500)
        assert isinstance(await host.set_limit_w(450), Applied)
        assert isinstance(await host.clear_limit(), Applied)
        assert (server.machine.in_force_w, server.machine.power_w, host.limit_is_ours) == (None, 900, False)


async def test_every_make_is_switched(make: Make, tmp_path: Path) -> None:
    async with bmc(tmp_path, make) as (server, host):
        assert await host.power_on() == Applied("already on")
        assert isinstance(await host.power_off(), Applied)
        assert (await reading(host)).state is HostState.OFF
        assert await host.power_off(force=True) == Applied("already off")
        assert isinstance(await host.power_on(), Applied)
        assert (await reading(host)).state is HostState.ON
        assert isinstance(await host.reset(force=True), Applied)
        assert [command.command for command in server.log.since(0)] == [
            "reset GracefulShutdown",
            "reset On",
            "reset ForceRestart",
        ]


async def test_a_reset_that_is_not_offered_is_refused_and_not_replaced_by_a_harsher_one(tmp_path: Path) -> None:
    async with bmc(tmp_path, Make(resets=("On", "ForceOff"))) as (server, host):
        assert await host.power_off() == Refused("it offers On, ForceOff, not GracefulShutdown")
        assert server.machine.on
        assert isinstance(await host.power_off(force=True), Applied)


async def test_a_limit_outside_the_range_is_moved_into_it(tmp_path: Path) -> None:
    async with bmc(tmp_path, max_limit_w=1_000) as (server, host):
        assert isinstance(await host.set_limit_w(10), Applied)
        assert server.machine.in_force_w == 300
        assert isinstance(await host.set_limit_w(5_000), Applied)
        assert server.machine.in_force_w == 1_000


async def test_an_operators_limit_that_is_tighter_stays_and_is_never_ours(tmp_path: Path) -> None:
    async with bmc(tmp_path, machine=Machine(limit_w=400, mode="Automatic")) as (server, host):
        assert await host.set_limit_w(600) == Applied("a lower one stands")
        assert not host.limit_is_ours
        assert await host.clear_limit() == Applied("none of ours")
        assert server.machine.in_force_w == 400
        assert server.log.seq == 0


async def test_an_operators_looser_limit_is_put_back_after_a_restart_of_the_agent(tmp_path: Path) -> None:
    async with bmc(tmp_path, machine=Machine(limit_w=800, mode="Automatic")) as (server, host):
        await host.set_limit_w(500)
        after = driver(int(host._link.access.url.rpartition(":")[2]), tmp_path)
        after.memory = host.memory
        assert after.limit_is_ours
        assert isinstance(await after.clear_limit(), Applied)
        assert (server.machine.limit_w, server.machine.mode, after.memory) == (800, "Automatic", {})
        await after.close()


@pytest.mark.parametrize("theirs", [(700, "Automatic"), (500, "Disabled")])
async def test_what_somebody_else_set_meanwhile_is_left_as_found(tmp_path: Path, theirs: tuple[int, str]) -> None:
    async with bmc(tmp_path) as (server, host):
        await host.set_limit_w(500)
        server.machine.limit_w, server.machine.mode = theirs
        assert await host.clear_limit() == Applied("changed by somebody else, left as found")
        assert (server.machine.limit_w, server.machine.mode) == theirs
        assert not host.limit_is_ours


async def test_an_operators_tighter_limit_over_ours_wins_and_becomes_what_is_put_back(tmp_path: Path) -> None:
    async with bmc(tmp_path) as (server, host):
        await host.set_limit_w(600)
        server.machine.limit_w = 350
        assert await host.set_limit_w(600) == Applied("a lower one stands")
        assert server.machine.in_force_w == 350
        assert isinstance(await host.set_limit_w(300), Applied)
        assert isinstance(await host.clear_limit(), Applied)
        assert server.machine.in_force_w == 350


async def test_a_limit_that_the_bmc_forgot_is_set_again(tmp_path: Path) -> None:
    async with bmc(tmp_path) as (server, host):
        await host.set_limit_w(500)
        server.machine.limit_w, server.machine.mode = None, "Disabled"
        assert (await reading(host)).limited is False
        assert isinstance(await host.set_limit_w(500), Applied)
        assert server.machine.in_force_w == 500


async def test_a_limit_that_comes_into_force_after_its_answer_was_lost_does_not_outlive_us(tmp_path: Path) -> None:
    async with bmc(tmp_path, deadline_s=0.5) as (server, host):
        await reading(host)
        server.acts_after_s = 1.0
        assert isinstance(await host.set_limit_w(500), Unreachable)
        server.acts_after_s = 0.0
        assert server.machine.in_force_w is None
        assert host.limit_is_ours
        await until(lambda: server.machine.in_force_w is not None)
        assert isinstance(await host.clear_limit(), Applied)
        assert (server.machine.in_force_w, host.limit_is_ours) == (None, False)


async def test_clearing_a_limit_in_doubt_writes_what_was_found_so_that_a_late_one_is_overtaken(tmp_path: Path) -> None:
    async with bmc(tmp_path, Make(if_match="ignored"), deadline_s=0.5) as (server, host):
        await reading(host)
        server.acts_after_s = 1.0
        assert isinstance(await host.set_limit_w(500), Unreachable)
        assert isinstance(await host.clear_limit(), Unreachable)
        await until(lambda: server.log.seq == 2)
        assert [command.command for command in server.log.since(0)] == ["limit 500 Automatic", "limit 500 Disabled"]
        assert server.machine.in_force_w is None


async def test_a_no_that_was_done_is_found_by_the_next_reading_and_can_be_undone(tmp_path: Path) -> None:
    async with bmc(tmp_path) as (server, host):
        server.fault = DeviceFault.NO_BUT_DOES
        assert isinstance(await host.set_limit_w(500), Refused)
        server.fault = None
        assert (await reading(host)).limit_w == 500


async def test_a_yes_that_was_not_done_shows_in_the_next_reading(tmp_path: Path) -> None:
    async with bmc(tmp_path) as (server, host):
        server.fault = DeviceFault.OK_BUT_NOTHING
        assert isinstance(await host.set_limit_w(500), Applied)
        found = await reading(host)
        assert (found.limited, found.power_w) == (False, 900)


async def test_an_expired_session_is_renewed_once_and_given_back_at_the_end(tmp_path: Path) -> None:
    async with bmc(tmp_path) as (server, host):
        await reading(host)
        await reading(host)
        assert server.logins == 1
        server.expire_sessions()
        assert isinstance(await host.set_limit_w(500), Applied)
        assert server.logins == 2
        assert len(server.tokens) == 1
        await host.close()
        assert server.tokens == {}


async def test_a_wrong_password_is_an_auth_failure_and_a_corrected_file_needs_no_restart(tmp_path: Path) -> None:
    async with bmc(tmp_path) as (_, host):
        (tmp_path / "bmc.password").write_text("wrong")
        failed = await host.read()
        assert isinstance(failed, Unreachable)
        assert failed.failure is Failure.AUTH
        (tmp_path / "bmc.password").write_text("secret")
        assert (await reading(host)).power_w == 900


async def test_basic_authentication_opens_no_session(tmp_path: Path) -> None:
    async with bmc(tmp_path, auth="basic") as (server, host):
        assert (await reading(host)).power_w == 900
        assert server.logins == 0
        (tmp_path / "bmc.password").write_text("wrong")
        failed = await host.set_limit_w(500)
        assert isinstance(failed, Unreachable)
        assert failed.failure is Failure.AUTH


@pytest.mark.parametrize(
    ("fault", "failures"),
    [
        (DeviceFault.HANG, {Failure.TIMEOUT}),
        (DeviceFault.SLOW, {Failure.TIMEOUT}),
        (DeviceFault.REFUSE_CONNECTION, {Failure.CLOSED, Failure.CONNECT}),
        (DeviceFault.GARBAGE, {Failure.GARBAGE, Failure.CLOSED}),
        (DeviceFault.CUT_SHORT, {Failure.CLOSED, Failure.GARBAGE}),
    ],
)
async def test_every_fault_is_named_within_the_deadline(
    fault: DeviceFault, failures: set[Failure], tmp_path: Path
) -> None:
    async with bmc(tmp_path, deadline_s=0.5) as (server, host):
        server.fault = fault
        loop = asyncio.get_running_loop()
        for operation in (host.read, lambda: host.set_limit_w(500), host.clear_limit, host.power_off, host.reset):
            began_s = loop.time()
            outcome = await operation()
            assert loop.time() - began_s < 0.5 + 1.0  # a loaded machine
            if operation == host.clear_limit:
                assert outcome == Applied("none of ours")
            else:
                assert isinstance(outcome, Unreachable)
                assert outcome.failure in failures
        server.fault = None
        assert (await reading(host)).power_w == 900


async def test_figures_that_are_none_are_no_measurement(tmp_path: Path) -> None:
    async with bmc(tmp_path) as (server, host):
        server.fault = DeviceFault.NAN
        found = await reading(host)
        assert (found.power_w, found.limit_w, found.limit_range_w) == (None, None, None)


async def test_a_closed_port_is_a_connection_failure(tmp_path: Path) -> None:
    server = RedfishServer()
    port = await server.start()
    await server.stop()
    host = driver(port, tmp_path)
    failed = await host.read()
    assert isinstance(failed, Unreachable)
    assert failed.failure is Failure.CONNECT
    await host.close()


async def test_a_service_without_a_limit_refuses_one(tmp_path: Path) -> None:
    async with bmc(tmp_path, Make(environment=False, power=False)) as (_, host):
        found = await reading(host)
        assert (found.state, found.power_w, found.limited) == (HostState.ON, None, None)
        assert await host.set_limit_w(500) == Refused("its service has no power limit")


async def test_a_resource_that_moved_is_found_again(tmp_path: Path) -> None:
    """A firmware update may leave `EnvironmentMetrics` out: the next look finds what there is now."""
    async with bmc(tmp_path) as (server, host):
        await reading(host)
        server.make = Make(environment=False, range_w=None)
        assert isinstance(await host.read(), Unreachable)
        assert (await reading(host)).power_w == 900
        assert isinstance(await host.set_limit_w(500), Applied)


async def test_a_slow_service_is_discovered_over_several_operations(tmp_path: Path) -> None:
    """Ten exchanges of 0.1 s do not fit into 0.5 s, but what was found is kept."""
    async with bmc(tmp_path, deadline_s=0.5) as (server, host):
        server.latency_s = 0.1
        for _ in range(8):
            found = await host.read()
            if isinstance(found, HostReading):
                break
        assert isinstance(found, HostReading)
        assert found.power_w == 900


async def test_a_self_signed_certificate_is_trusted_by_its_fingerprint_alone(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    words = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=bmc"
        " -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run(  # noqa: ASYNC221  before anything is served
        ["openssl", *words.split(), "-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(cert.read_text())).hexdigest()
    server = RedfishServer()
    port = await server.start(tls=context)
    ways: list[tuple[dict[str, object], bool]] = [
        ({}, False),
        ({"fingerprint": fingerprint}, True),
        ({"fingerprint": "00" * 32}, False),
        ({"ca": str(cert)}, True),
        ({"verify_tls": False}, True),
    ]
    for options, trusted in ways:
        given = {"username": "admin", "password_file": str(tmp_path / "password")} | options
        (tmp_path / "password").write_text("secret")
        host = redfish_host(f"https://127.0.0.1:{port}", given, deadline_s=5.0, clock=SystemClock())
        found = await host.read()
        await host.close()
        if trusted:
            assert isinstance(found, HostReading), options
        else:
            assert isinstance(found, Unreachable), options
            assert found.failure is Failure.CONNECT
            assert "certificate" in found.detail
    assert server.tokens == {}
    await server.stop()


async def test_rights_are_capabilities(tmp_path: Path) -> None:
    given = {"username": "admin", "password_file": str(tmp_path / "p")}
    hosts = {
        rights: redfish_host("https://bmc", given | {"rights": rights}, deadline_s=1.0, clock=SystemClock())
        for rights in ("read", "limit", "switch")
    }
    assert [isinstance(host, LimitsPower) for host in hosts.values()] == [False, True, True]
    assert [isinstance(host, Switches) for host in hosts.values()] == [False, False, True]


@pytest.mark.parametrize(
    ("url", "options", "what"),
    [
        ("https://bmc/redfish", {"auth": "none"}, "without a path"),
        ("bmc", {"auth": "none"}, "no http"),
        ("https://bmc", {}, "needs username and password_file"),
        ("https://bmc", {"auth": "none", "min_limit_w": 500, "max_limit_w": 400}, "min_limit_w is above"),
        ("https://bmc", {"auth": "none", "colour": 1}, "Extra inputs"),
    ],
)
def test_options_that_do_not_fit_are_refused(url: str, options: dict[str, object], what: str) -> None:
    with pytest.raises((ValidationError, ValueError), match=what):
        redfish_host(url, options, deadline_s=1.0, clock=SystemClock())
