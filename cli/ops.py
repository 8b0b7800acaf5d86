"""What ops ask of a running controller: sites, explain, signal. `status` stands in `cli.status`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from cli.client import EXIT_DEGRADED, EXIT_FAILED, Api
from cli.options import DEFAULT_URL, Json, TokenFile, Url, watts
from cli.status import age_of, banks_table, state_of, unheard
from cli.text import mw, paint, table


def sites(url: Url = DEFAULT_URL, token_file: TokenFile = None, as_json: Json = False) -> None:
    """The sites, whether they are heard, and in what mode. Exit code 3 where one is not, or is in local control."""
    answer = Api.at(url, token_file).call("GET", "/v1/sites")
    found: list[dict[str, Any]] = answer["sites"]
    if as_json:
        typer.echo(json.dumps(answer))
    elif found:
        rows = [[each["site"], each["name"], state_of(each), age_of(each), ", ".join(each["faults"])] for each in found]
        styles = ["red" if unheard(each) else None for each in found]
        typer.echo(table(("site", "name", "state", "data age", "faults"), rows, styles))
    else:
        typer.echo("no site has reported yet")
    if any(unheard(each) for each in found):
        raise typer.Exit(EXIT_DEGRADED)


def explain(
    site: Annotated[str | None, typer.Argument(help="one site; without it, all")] = None,
    last: Annotated[int, typer.Option("--last", min=1, max=1000, help="how many decisions, newest first")] = 1,
    url: Url = DEFAULT_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Why this, now: the decision of each site in one sentence, and what each bank was given for which reason."""
    api = Api.at(url, token_file)
    names = [site] if site else [each["site"] for each in api.call("GET", "/v1/sites")["sites"]]
    decisions: list[dict[str, Any]] = []
    for name in names:
        decisions += api.call("GET", "/v1/decisions", query={"site": name, "limit": str(last)})["decisions"]
    if as_json:
        typer.echo(json.dumps({"decisions": decisions}))
        return
    if not decisions:
        typer.echo("nothing decided yet")
        raise typer.Exit(EXIT_FAILED)
    for found in decisions:
        typer.echo(f"{paint(found['site'], 'bold')}  decision {found['id']}, {found['trigger']}")
        typer.echo(found["sentence"])
        if last == 1:
            typer.echo(banks_table(found["banks"]))
            typer.echo(_overrides(api, found["site"]), nl=False)


def signal(
    site: Annotated[str, typer.Argument(help="the site that is to curtail")],
    reduce_mw: Annotated[
        float | None, typer.Option("--reduce-mw", min=0, help="by this much below the baseline")
    ] = None,
    target_mw: Annotated[float | None, typer.Option("--target-mw", min=0, help="to this at the main meter")] = None,
    award_mw: Annotated[
        float | None, typer.Option("--award-mw", min=0, help="a reserve awarded: keep this much running to shed")
    ] = None,
    minutes: Annotated[float, typer.Option("--for", min=1, help="minutes it lasts")] = 15.0,
    starts_at: Annotated[str | None, typer.Option("--at", help="ISO 8601 with offset; without it, now")] = None,
    firm_too: Annotated[
        bool, typer.Option("--firm-too", help="a legal order: firm HPC work may be cut as well")
    ] = False,
    url: Url = DEFAULT_URL,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Hand a curtailment signal, or a reserve award, to a site, as a grid operator's gateway would."""
    given = {"reduce_w": reduce_mw, "target_w": target_mw, "award_w": award_mw}
    asked = {name: watts(mw) for name, mw in given.items() if mw is not None}
    if len(asked) != 1:
        raise typer.BadParameter("give exactly one of --reduce-mw, --target-mw and --award-mw")
    body: dict[str, Any] = {"site": site, "duration_s": minutes * 60.0, "firm_too": firm_too} | asked
    if starts_at:
        body["starts_at"] = starts_at
    answer = Api.at(url, token_file).call("POST", "/v1/signals", body=body)
    if as_json:
        typer.echo(json.dumps(answer))
        return
    obligation = answer["obligation"]
    what = f"at or below {mw(obligation['target_w'])} at the main meter"
    if obligation.get("award_w") is not None:
        what = f"keeps {mw(obligation['award_w'])} running that can be shed"
    typer.echo(f"obligation {obligation['id']}: {site} {what}")
    told = answer.get("expected") or answer.get("decision")
    if told:
        typer.echo(told["sentence"])


def _overrides(api: Api, site: str) -> str:
    """Overrides that do not get their way, each with what stands in it."""
    found = api.call("GET", "/v1/effective", query={"site": site})
    lines = [found["note"]] if found["note"] else []
    told: set[str] = set()
    for bank in found["banks"]:
        for claim in bank["claims"]:
            if claim["stands"] != "holds" and claim["override"] not in told:
                told.add(claim["override"])
                name = f"{claim['kind']} {claim['override']}"
                lines.append(f"{name} is {claim['stands']} by {claim['by']}: {claim['why']}")
    return "".join(f"{line}\n" for line in lines)
