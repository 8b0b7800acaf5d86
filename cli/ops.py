"""What ops ask of a running controller: status, explain, signal, override."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from cli.client import EXIT_FAILED, Api

Url = Annotated[str, typer.Option("--url", envvar="WATTSHIFT_URL", help="where the controller listens")]
TokenFile = Annotated[
    Path | None, typer.Option("--token-file", envvar="WATTSHIFT_TOKEN_FILE", help="a file that holds the bearer token")
]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of words")]
DEFAULT_URL = "http://127.0.0.1:8480"

override = typer.Typer(help="Impose, list and lift overrides.", no_args_is_help=True)
EXIT_DEGRADED = 3
_FIGURES = frozenset({"metered", "planned", "cap", "price", "USD/h", "target", "draws", "worth USD/MWh", "value"})


def status(
    site: Annotated[str | None, typer.Argument(help="one site in full; without it, one line per site")] = None,
    url: Url = DEFAULT_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """What every site draws, may draw and does. Exit code 3 where a site is offline, faulty or short."""
    api = Api.at(url, token_file)
    answer = asyncio.run(api.call("GET", f"/v1/sites/{site}" if site else "/v1/sites"))
    sites: list[dict[str, Any]] = [answer] if site else answer["sites"]
    if as_json:
        typer.echo(json.dumps(answer))
    elif site:
        _print_site(answer)
    else:
        _print_sites(sites)
    if any(not each["online"] or each["faults"] or each.get("shortfalls") for each in sites):
        raise typer.Exit(EXIT_DEGRADED)


def explain(
    site: Annotated[str | None, typer.Argument(help="one site; without it, all")] = None,
    last: Annotated[int, typer.Option("--last", min=1, max=1000, help="how many decisions, newest first")] = 1,
    url: Url = DEFAULT_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Why this, now: the decision of each site in one sentence, and what each bank was given for which reason."""
    decisions = asyncio.run(_decisions(Api.at(url, token_file), site, last))
    if as_json:
        typer.echo(json.dumps({"decisions": decisions}))
        return
    if not decisions:
        typer.echo("nothing decided yet")
        raise typer.Exit(EXIT_FAILED)
    console = Console(highlight=False)
    for found in decisions:
        console.print(f"[bold]{found['site']}[/bold]  decision {found['id']}, {found['trigger']}", markup=True)
        console.print(found["sentence"], markup=False)
        if last == 1:
            _print_banks(console, found["banks"])


def signal(
    site: Annotated[str, typer.Argument(help="the site that is to curtail")],
    reduce_mw: Annotated[
        float | None, typer.Option("--reduce-mw", min=0, help="by this much below the baseline")
    ] = None,
    target_mw: Annotated[float | None, typer.Option("--target-mw", min=0, help="to this at the main meter")] = None,
    minutes: Annotated[float, typer.Option("--for", min=1, help="minutes it lasts")] = 15.0,
    starts_at: Annotated[str | None, typer.Option("--at", help="ISO 8601 with offset; without it, now")] = None,
    firm_too: Annotated[
        bool, typer.Option("--firm-too", help="a legal order: firm HPC work may be cut as well")
    ] = False,
    url: Url = DEFAULT_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Hand a curtailment signal to a site, as a grid operator's gateway would."""
    if (reduce_mw is None) == (target_mw is None):
        raise typer.BadParameter("give exactly one of --reduce-mw and --target-mw")
    body: dict[str, Any] = {"site": site, "duration_s": minutes * 60.0, "firm_too": firm_too}
    body |= {"reduce_w": _watts(reduce_mw)} if reduce_mw is not None else {"target_w": _watts(target_mw)}
    if starts_at:
        body["starts_at"] = starts_at
    answer = asyncio.run(Api.at(url, token_file).call("POST", "/v1/signals", body=body))
    if as_json:
        typer.echo(json.dumps(answer))
        return
    obligation = answer["obligation"]
    typer.echo(f"obligation {obligation['id']}: {site} at or below {_mw(obligation['target_w'])} at the main meter")
    told = answer.get("expected") or answer.get("decision")
    if told:
        typer.echo(told["sentence"])


@override.command("create")
def create_override(
    site: Annotated[str, typer.Argument(help="the site")],
    kind: Annotated[str, typer.Argument(help="emergency_stop, lockout, cap, floor, hold, force_hash or force_hpc")],
    reason: Annotated[str, typer.Option("--reason", help="why; it is shown wherever the override acts")],
    bank: Annotated[str | None, typer.Option("--bank", help="only this bank")] = None,
    feeder: Annotated[str | None, typer.Option("--feeder", help="only what hangs on this feeder")] = None,
    value_mw: Annotated[float | None, typer.Option("--mw", min=0, help="megawatts, for cap and floor")] = None,
    minutes: Annotated[float | None, typer.Option("--for", min=1, help="minutes; without it, until lifted")] = None,
    url: Url = DEFAULT_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Impose an override. It beats economics, never an interlock."""
    body: dict[str, Any] = {"site": site, "kind": kind, "reason": reason, "bank": bank, "feeder": feeder}
    body |= {"value_w": _watts(value_mw), "duration_s": minutes * 60.0 if minutes else None}
    given = {key: value for key, value in body.items() if value is not None}
    answer = asyncio.run(Api.at(url, token_file).call("POST", "/v1/overrides", body=given))
    if as_json:
        typer.echo(json.dumps(answer))
        return
    typer.echo(f"override {answer['override']['id']} is in force")
    if answer.get("decision"):
        typer.echo(answer["decision"]["sentence"])


@override.command("list")
def list_overrides(url: Url = DEFAULT_URL, token_file: TokenFile = None, as_json: Json = False) -> None:
    """All overrides that are in force or will be."""
    found = asyncio.run(Api.at(url, token_file).call("GET", "/v1/overrides"))
    if as_json:
        typer.echo(json.dumps(found))
        return
    table = _table("id", "kind", "site", "target", "value", "reason", "by")
    for each in found["overrides"]:
        target = each["bank"] or each["feeder"] or "whole site"
        value = _mw(each["value_w"]) if each["value_w"] is not None else ""
        table.add_row(each["id"], each["kind"], each["site"], target, value, each["reason"], each["created_by"])
    Console(highlight=False).print(table if found["overrides"] else "no overrides")


@override.command("lift")
def lift_override(
    key: Annotated[str, typer.Argument(metavar="ID")], url: Url = DEFAULT_URL, token_file: TokenFile = None
) -> None:
    """Take an override off; the site is decided again at once."""
    asyncio.run(Api.at(url, token_file).call("DELETE", f"/v1/overrides/{key}"))
    typer.echo(f"override {key} is lifted")


async def _decisions(api: Api, site: str | None, last: int) -> list[dict[str, Any]]:
    names = [site] if site else [each["site"] for each in (await api.call("GET", "/v1/sites"))["sites"]]
    found: list[dict[str, Any]] = []
    for name in names:
        answer = await api.call("GET", "/v1/decisions", query={"site": name, "limit": str(last)})
        found.extend(answer["decisions"])
    return found


def _print_sites(sites: list[dict[str, Any]]) -> None:
    console = Console(highlight=False)
    table = _table("site", "state", "metered", "planned", "cap", "price", "USD/h", "data age", "faults")
    for each in sites:
        state = each["mode"] if each["online"] and each["mode"] else "offline"
        price = "-" if each["price_usd_per_mwh"] is None else f"{each['price_usd_per_mwh']:,.2f}"
        usd = "-" if each["margin_usd_per_h"] is None else f"{each['margin_usd_per_h']:,.0f}"
        age = "-" if each["report_age_ms"] is None else f"{each['report_age_ms'] / 1_000:.0f} s"
        watts = (_mw(each[key]) for key in ("metered_w", "planned_w", "cap_w"))
        table.add_row(each["site"], state, *watts, price, usd, age, ", ".join(each["faults"]))
    console.print(table if sites else "no site has reported yet")
    for each in sites:
        console.print(each["sentence"], markup=False)


def _print_site(site: dict[str, Any]) -> None:
    console = Console(highlight=False)
    _print_sites([site])
    _print_banks(console, site["banks"])
    for short in site["shortfalls"]:
        console.print(
            f"short: {short['kind']} {short['id']} by {_mw(short['short_w'])}; {short['detail']}", markup=False
        )


def _print_banks(console: Console, banks: list[dict[str, Any]]) -> None:
    table = _table("bank", "does", "target", "draws", "receipt", "worth USD/MWh", "why")
    for bank in banks:
        worth = "-" if bank["value_usd_per_mwh"] is None else f"{bank['value_usd_per_mwh']:,.1f}"
        why = bank["reason"] or "-"
        why += f" ({bank['cause']})" if bank["cause"] else ""
        draws = _mw(bank.get("power_w"))
        table.add_row(
            bank["bank"], bank["workload"], _mw(bank["target_w"]), draws, bank.get("receipt") or "-", worth, why
        )
    console.print(table)


def _table(*columns: str) -> Table:
    """Figures to the right; what is copied from the screen, the first column, never folded."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for number, column in enumerate(columns):
        justify: Literal["left", "right"] = "right" if column in _FIGURES else "left"
        table.add_column(column, justify=justify, no_wrap=number == 0, overflow="ignore" if number == 0 else "fold")
    return table


def _mw(power_w: int | None) -> str:
    return "-" if power_w is None else f"{power_w / 1e6:,.2f} MW"


def _watts(megawatts: float | None) -> int | None:
    return None if megawatts is None else round(megawatts * 1e6)
