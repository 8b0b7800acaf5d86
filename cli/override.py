"""`wattshift override`: what ops impose, seen before it is done and followed until measured power says so."""

from __future__ import annotations

import json
import sys
import uuid
from typing import Annotated, Any, Final

import typer

from cli.client import EXIT_DEGRADED, EXIT_FAILED, EXIT_USAGE, Api, ApiError
from cli.options import DEFAULT_URL, Json, TokenFile, Url, watts
from cli.text import clock, mw, paint, table

override = typer.Typer(help="Impose, list, extend and revoke overrides.", no_args_is_help=True, rich_markup_mode=None)
_EMERGENCY: Final = frozenset({"emergency_stop", "lockout"})
"""Nothing is asked before these: every second counts, and what they do is plain."""
_FOLLOW_S: Final = 60.0

Minutes = Annotated[float | None, typer.Option("--for", min=1, help="minutes it lasts")]
Until = Annotated[str | None, typer.Option("--until", help="its end, ISO 8601 with offset")]
Reason = Annotated[str, typer.Option("--reason", help="why; it is shown wherever the override acts")]
Key = Annotated[str, typer.Argument(metavar="ID", help="as `override list` shows it")]


@override.command("create")
def create(
    site: Annotated[str, typer.Argument(help="the site")],
    kind: Annotated[str, typer.Argument(help="emergency_stop, lockout, cap, floor, hold, force_hash or force_hpc")],
    reason: Reason,
    bank: Annotated[str | None, typer.Option("--bank", help="only this bank")] = None,
    feeder: Annotated[str | None, typer.Option("--feeder", help="only what hangs on this feeder")] = None,
    workload: Annotated[str | None, typer.Option("--workload", help="only banks for hash, or for hpc")] = None,
    value_mw: Annotated[float | None, typer.Option("--mw", min=0, help="megawatts, for cap and floor")] = None,
    minutes: Minutes = None,
    until: Until = None,
    starts_at: Annotated[str | None, typer.Option("--at", help="ISO 8601 with offset; without it, now")] = None,
    ticket: Annotated[str, typer.Option("--ticket", help="where more is written")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only show what it would do")] = False,
    wait: Annotated[
        bool | None, typer.Option("--wait/--no-wait", help="follow it until confirmed; with --json, not unless asked")
    ] = None,
    url: Url = DEFAULT_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Impose an override. It beats economics, never an interlock. A lockout alone may be without an end.

    Shows first what it would do, and asks for the site's name, but for an emergency stop or a lockout. Exit code 3
    where not every bank is confirmed by measured power within a minute.
    """
    api = Api.at(url, token_file)
    target = {"site": site, "feeder": feeder, "bank": bank, "workload": workload}
    body: dict[str, Any] = {"target": _given(target), "kind": kind, "reason": reason, "ticket": ticket or None}
    body |= {"value_w": watts(value_mw), "starts_at": starts_at, "ends_at": until}
    body = _given(body | {"duration_s": minutes * 60.0 if minutes else None})
    if dry_run or kind not in _EMERGENCY:
        seen = api.call("POST", "/v1/overrides:preview", body=body)
        if dry_run:
            typer.echo(json.dumps(seen) if as_json else _preview(seen))
            return
        if not as_json:
            typer.echo(_preview(seen))
        _confirm(site, yes=yes)
        body["confirm_token"] = seen["confirm_token"]
    follows = wait if wait is not None else not as_json
    if not follows:
        answer = _impose(api, body)
        typer.echo(json.dumps(answer) if as_json else _imposed(answer))
        return
    with api.events(site, _FOLLOW_S) as events:
        answer = _impose(api, body)
        typer.echo(json.dumps(answer) if as_json else _imposed(answer))
        last = _follow(events, answer["override"], as_json=as_json)
    if last["state"] == "active" and last["effect"]["confirmed"] < last["effect"]["targets"]:
        raise typer.Exit(EXIT_DEGRADED)


@override.command("list")
def list_overrides(
    site: Annotated[str | None, typer.Option("--site", help="only of this site")] = None,
    every: Annotated[bool, typer.Option("--all", help="those that are over too, for a day")] = False,
    url: Url = DEFAULT_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """All overrides that are in force or will be."""
    query = _given({"site": site, "state": "all" if every else None})
    found = Api.at(url, token_file).call("GET", "/v1/overrides", query=query)
    if as_json:
        typer.echo(json.dumps(found))
        return
    if not found["overrides"]:
        typer.echo("no overrides")
        return
    columns = ("id", "state", "kind", "site", "target", "value", "ends", "banks", "by", "reason")
    typer.echo(table(columns, [_row(each) for each in found["overrides"]]))
    for note in sorted({each["note"] for each in found["overrides"] if each["note"]}):
        typer.echo(paint(note, "yellow"))


@override.command("extend")
def extend(
    key: Key,
    reason: Reason,
    minutes: Minutes = None,
    until: Until = None,
    url: Url = DEFAULT_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Give an override another end: so many minutes from now, or a moment. It keeps its id.

    Exit code 5 where somebody has changed it meanwhile.
    """
    if (minutes is None) == (until is None):
        raise typer.BadParameter("give exactly one of --for and --until")
    api = Api.at(url, token_file)
    now = api.ask("GET", f"/v1/overrides/{key}")
    tag = next(value for name, value in now.headers.items() if name.lower() == "etag")
    body = _given({"reason": reason, "ends_at": until, "duration_s": minutes * 60.0 if minutes else None})
    done = api.call("PATCH", f"/v1/overrides/{key}", body=body, headers={"If-Match": tag})
    typer.echo(json.dumps(done) if as_json else f"override {key} now ends {clock(done['ends_at'])}")


@override.command("revoke")
def revoke(
    key: Key,
    reason: Annotated[str, typer.Option("--reason", help="why; a lockout needs one")] = "",
    url: Url = DEFAULT_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Take an override off; the site is decided again at once."""
    api = Api.at(url, token_file)
    api.call("DELETE", f"/v1/overrides/{key}", query=_given({"reason": reason or None}))
    if as_json:
        typer.echo(json.dumps(api.call("GET", f"/v1/overrides/{key}")))
    else:
        typer.echo(f"override {key} is revoked")


@override.command("lift", hidden=True)
def lift(key: Key, url: Url = DEFAULT_URL, token_file: TokenFile = None) -> None:
    """The former name of `revoke`."""
    revoke(key, reason="lifted at the command line", url=url, token_file=token_file)


def _impose(api: Api, body: dict[str, Any]) -> dict[str, Any]:
    """With a key of its own, so that an answer that was lost may be asked for again without doing it twice."""
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    try:
        answer: dict[str, Any] = api.call("POST", "/v1/overrides", body=body, headers=headers)
    except ApiError as error:
        if error.exit_code != 6:
            raise
        answer = api.call("POST", "/v1/overrides", body=body, headers=headers)
    return answer


def _confirm(site: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise ApiError("nobody is there to confirm it: give --yes", EXIT_USAGE)
    if typer.prompt(f"type {site} to go on", default="", show_default=False, err=True) != site:
        raise ApiError("nothing was imposed", EXIT_FAILED)


def _follow(events: Any, imposed: dict[str, Any], *, as_json: bool) -> dict[str, Any]:
    """Tell what becomes of it, until every bank has done it or failed to; the override as it was last told."""
    last, told = imposed, ""
    if _settled(last):
        if not as_json:
            typer.echo(_progress(last))
        return last
    for event in events:
        if event.kind != "override" or event.data["id"] != imposed["id"]:
            continue
        last = event.data
        line = json.dumps(last) if as_json else _progress(last)
        if line != told:
            typer.echo(line)
            told = line
        if _settled(last):
            break
    return last


def _settled(each: dict[str, Any]) -> bool:
    effect = each["effect"]
    return bool(each["state"] != "active" or effect["confirmed"] + effect["failed"] >= effect["targets"])


def _progress(each: dict[str, Any]) -> str:
    effect = each["effect"]
    line = f"{each['state']}: {effect['confirmed']} of {effect['targets']} banks confirmed by measured power"
    line += f", {effect['failed']} failed" if effect["failed"] else ""
    answers: dict[str, list[str]] = {}
    for bank, answer in effect["failing"].items():
        answers.setdefault(answer, []).append(bank)
    line += "".join(f"; {', '.join(banks)} {answer}" for answer, banks in answers.items())
    return line + (f"; {each['note']}" if each["note"] else "")


def _imposed(answer: dict[str, Any]) -> str:
    each = answer["override"]
    until = f"until {clock(each['ends_at'])}" if each["ends_at"] else "until it is lifted"
    lines = [f"override {each['id']} is {each['state']}, {until}"]
    if answer.get("decision"):
        lines.append(answer["decision"]["sentence"])
    lines += [paint(f"{clash['kind']} {clash['override']}: {clash['why']}", "yellow") for clash in answer["conflicts"]]
    return "\n".join(lines + ([paint(each["note"], "yellow")] if each["note"] else []))


def _preview(seen: dict[str, Any]) -> str:
    """What would follow, as a table."""
    change = mw(None if seen["change_mw"] is None else seen["change_mw"] * 1e6, "+")
    rows = [["power", f"{mw(seen['before_w'])} to {mw(seen['after_w'])}, {change}"]]
    money = seen["usd_per_h"]
    told = "unknown: no price" if money is None else f"{money['expected']:+,.0f} USD/h"
    price = seen["price_usd_per_mwh"]
    if money is not None and price is not None:
        told += f" ({money['low']:+,.0f} to {money['high']:+,.0f})"
    rows.append(["money", told])
    if price is not None:
        told = (
            f"{price['expected']:,.0f} USD/MWh expected ({price['low']:,.0f} to {price['high']:,.0f} in eight of ten)"
        )
        rows.append(["at a price of", told])
    rows.append(["banks", ", ".join(seen["banks"]) or "none"])
    rows.append(["jobs lost", ", ".join(seen["jobs"]) or "none"])
    rows += [["conflict", f"{each['kind']} {each['override']}: {each['why']}"] for each in seen["conflicts"]]
    rows += [["NOT READY", f"{each['name']}: {each['detail']}"] for each in seen["permissives"] if not each["ok"]]
    rows.append(["then", seen["sentence"] or "the site cannot be decided yet"])
    return table(("what", "it would do"), rows)


def _row(each: dict[str, Any]) -> list[str]:
    target, effect = each["target"], each["effect"]
    where = target["bank"] or target["feeder"] or target["workload"] or "whole site"
    banks = f"{effect['confirmed']}/{effect['targets']}" + (f", {effect['failed']} failed" if effect["failed"] else "")
    state = each["state"] + (f" by {each['superseded_by']}" if each["superseded_by"] else "")
    value = mw(each["value_w"]) if each["value_w"] is not None else ""
    ends = clock(each["ends_at"])
    return [
        each["id"],
        state,
        each["kind"],
        target["site"],
        where,
        value,
        ends,
        banks,
        each["created_by"],
        each["reason"],
    ]


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
