"""`wattshift doctor`: what is wrong, and the fix."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any

import typer

from cli.client import EXIT_AUTH, EXIT_DEGRADED, EXIT_UNREACHABLE, Answer, Api, ApiError
from cli.options import DEFAULT_URL, Json, TokenFile, Url
from cli.text import paint

_CLOCK_MAX_S = 5.0


def doctor(
    site: Annotated[str | None, typer.Argument(help="one site; without it, all")] = None,
    every: Annotated[bool, typer.Option("--all", help="what is well too")] = False,
    url: Url = DEFAULT_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Look at controller, broker, journal, clocks, agents, devices, schedulers and price feeds.

    Exit code 0 where nothing is wrong, 3 where something is, 4 or 6 where it could not even be asked.
    """
    api = Api.at(url, token_file)
    try:
        answer = api.ask("GET", "/v1/doctor", query={"site": site} if site else None)
    except ApiError as error:
        if error.exit_code not in (EXIT_AUTH, EXIT_UNREACHABLE):
            raise
        _told([_unasked(api, error)], as_json=as_json, every=every)
        raise typer.Exit(error.exit_code) from None
    findings = [_found("controller", True, f"answers at {api.url}"), *_clock(answer), *answer.body["findings"]]
    _told(findings, as_json=as_json, every=every)
    if any(each["ok"] is False for each in findings):
        raise typer.Exit(EXIT_DEGRADED)


def _unasked(api: Api, error: ApiError) -> dict[str, Any]:
    if error.exit_code == EXIT_AUTH:
        fix = "give --token-file with a token of [http] token_file or roles_file"
        return _found("token", False, str(error), fix)
    fix = f"start it (systemctl status wattshift-controller), or give the --url it listens on, not {api.url}"
    return _found("controller", False, str(error), fix)


def _clock(answer: Answer) -> list[dict[str, Any]]:
    """The controller's clock against this machine's, to a second."""
    date = next((value for name, value in answer.headers.items() if name.lower() == "date"), None)
    if date is None:
        return []
    off_s = (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds()
    told = f"the controller's clock is {abs(off_s):.0f} s {'ahead of' if off_s > 0 else 'behind'} this machine's"
    return [_found("clock", abs(off_s) <= _CLOCK_MAX_S, told, "start NTP on both hosts")]


def _found(check: str, ok: bool, detail: str, fix: str | None = None) -> dict[str, Any]:
    return {"check": check, "site": None, "ok": ok, "detail": detail, "fix": None if ok else fix}


def _told(findings: list[dict[str, Any]], *, as_json: bool, every: bool) -> None:
    wrong = [each for each in findings if each["ok"] is False]
    if as_json:
        typer.echo(json.dumps({"ok": not wrong, "findings": findings}))
        return
    for each in findings:
        if each["ok"] is True and not every:
            continue
        mark, style = {True: ("ok", "green"), False: ("WRONG", "red"), None: ("?", "yellow")}[each["ok"]]
        where = f"{each['site']}: " if each["site"] else ""
        typer.echo(f"{paint(mark.ljust(5), style)}  {each['check'].ljust(10)}  {where}{each['detail']}")
        if each["fix"]:
            typer.echo(f"{'':19}fix: {each['fix']}")
    well = sum(each["ok"] is True for each in findings)
    typer.echo(f"{well} well, {len(wrong)} wrong, {len(findings) - well - len(wrong)} cannot be told")
