"""`wattshift status`: what every site draws, may draw and does.

It is looked at again and again, so it loads next to nothing: argparse and the standard library's HTTP client.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cli.client import EXIT_DEGRADED, EXIT_INTERRUPTED, Api
from cli.text import mw, paint, span, table, usd

_CLEAR = "\x1b[H\x1b[2J"


def main(words: Sequence[str]) -> int:
    """Returns the exit code. `ApiError` where the controller cannot be asked."""
    asked = _parser().parse_args(words)
    try:
        return _tell(asked, Api.at(asked.url, asked.token_file))
    except KeyboardInterrupt:
        return 0 if asked.watch else EXIT_INTERRUPTED


def _tell(asked: argparse.Namespace, api: Api) -> int:
    """Once, or again and again until it is interrupted."""
    while True:
        answer = api.call("GET", f"/v1/sites/{asked.site}" if asked.site else "/v1/sites")
        sites: list[dict[str, Any]] = [answer] if asked.site else answer["sites"]
        if asked.json:
            print(json.dumps(answer), flush=True)
        else:
            told = _one_site(answer) if asked.site else _all_sites(sites)
            print(_CLEAR + told if asked.watch else told, flush=True)
        if not asked.watch:
            return EXIT_DEGRADED if any(_degraded(each) for each in sites) else 0
        threading.Event().wait(asked.every)


def _all_sites(sites: list[dict[str, Any]]) -> str:
    if not sites:
        return "no site has reported yet"
    rows: list[list[str]] = []
    for each in sites:
        price = "-" if each["price_usd_per_mwh"] is None else f"{each['price_usd_per_mwh']:,.2f}"
        figures = [mw(each[key]) for key in ("metered_w", "planned_w", "cap_w")]
        money = [price, usd(each["margin_usd_per_h"])]
        rows.append([each["site"], state_of(each), *figures, *money, age_of(each), ", ".join(each["faults"])])
    columns = ("site", "state", "metered", "planned", "cap", "price", "USD/h", "data age", "faults")
    styles = ["red" if unheard(each) else "yellow" if _degraded(each) else None for each in sites]
    return "\n".join([table(columns, rows, styles), *(f"{each['site']}: {each['sentence']}" for each in sites)])


def _one_site(site: dict[str, Any]) -> str:
    lines = [_all_sites([site]), banks_table(site["banks"])]
    lines += [
        paint(f"short: {short['kind']} {short['id']} by {mw(short['short_w'])}; {short['detail']}", "yellow")
        for short in site["shortfalls"]
    ]
    for each in site["overrides"]:
        told = f"{each['state']}: {each['kind']} {each['id']}, {each['reason']}"
        lines.append(f"{told} ({each['note']})" if each["note"] else told)
    return "\n".join(lines)


def banks_table(banks: list[dict[str, Any]]) -> str:
    """What each bank does and why; what it draws and what became of its order, where that is told: of a decision it
    is not, which came before both."""
    measured = any(bank.get("power_w") is not None or bank.get("receipt") for bank in banks)
    rows: list[list[str]] = []
    for bank in banks:
        worth = "-" if bank["value_usd_per_mwh"] is None else f"{bank['value_usd_per_mwh']:,.1f}"
        why = bank["reason"] or "-"
        why += f" ({bank['cause']})" if bank["cause"] else ""
        seen = [mw(bank.get("power_w")), bank.get("receipt") or "-"] if measured else []
        rows.append([bank["bank"], bank["workload"], mw(bank["target_w"]), *seen, worth, why])
    columns = ("draws", "receipt") if measured else ()
    return table(("bank", "does", "target", *columns, "worth USD/MWh", "why"), rows)


def state_of(site: dict[str, Any]) -> str:
    mode = site["mode"] if site["online"] and site["mode"] else "offline"
    return "LOCAL" if mode == "local" else str(mode)


def age_of(site: dict[str, Any]) -> str:
    return "-" if site["report_age_ms"] is None else span(site["report_age_ms"] / 1_000)


def unheard(site: dict[str, Any]) -> bool:
    return not site["online"] or site["mode"] == "local"


def _degraded(site: dict[str, Any]) -> bool:
    return bool(unheard(site) or site["faults"] or site.get("shortfalls"))


def _parser() -> argparse.ArgumentParser:
    words = (
        "What every site draws, may draw and does. Exit code 3 where one is offline, in local control, faulty or short."
    )
    parser = argparse.ArgumentParser(prog="wattshift status", description=words)
    parser.add_argument("site", nargs="?", help="one site in full; without it, one line per site")
    parser.add_argument("-w", "--watch", action="store_true", help="again and again, until Ctrl-C")
    parser.add_argument("--every", type=_seconds, default=2.0, metavar="SECONDS", help="between two, with -w")
    url = os.environ.get("WATTSHIFT_URL", "http://127.0.0.1:8480")
    parser.add_argument("--url", default=url, help="where the controller listens [WATTSHIFT_URL]")
    token_file = os.environ.get("WATTSHIFT_TOKEN_FILE")
    parser.add_argument(
        "--token-file",
        type=Path,
        default=Path(token_file) if token_file else None,
        help="a file that holds the bearer token [WATTSHIFT_TOKEN_FILE]",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of words")
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.2 <= seconds <= 3_600:
        raise argparse.ArgumentTypeError("give 0.2 to 3600 seconds")
    return seconds
