"""`wattshift replay`: decide a journal all over again and compare byte for byte."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cli.client import EXIT_FAILED, ApiError
from controller.engine.decide import decide
from controller.journal.base import JournalError
from controller.journal.replay import ReplayResult
from controller.journal.replay import replay as replay_journal
from controller.journal.sql import SqlJournal


def replay(
    journal: Annotated[str, typer.Argument(help="a SQLite file, or an SQLAlchemy URL")],
    site: Annotated[str | None, typer.Option("--site", help="compare only this site")] = None,
    every: Annotated[bool, typer.Option("--all", help="go on after the first difference, and count them")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of words")] = False,
) -> None:
    """Make every journalled decision again from its snapshot. Exit code 1 where one comes out differently."""
    if "://" not in journal and not Path(journal).is_file():
        raise ApiError(f"{journal}: no such journal; give the file that [journal] url names", 2)
    url = journal if "://" in journal else f"sqlite+aiosqlite:///{journal}"
    try:
        result = asyncio.run(_replay(url, site, every))
    except JournalError as error:
        raise ApiError(str(error), EXIT_FAILED) from None
    if as_json:
        typer.echo(json.dumps(asdict(result)))
    else:
        typer.echo(_words(result))
    if result.first is not None or result.sites == 0:
        raise typer.Exit(EXIT_FAILED)


async def _replay(url: str, site: str | None, every: bool) -> ReplayResult:
    journal = SqlJournal(url)
    await journal.open_to_read()
    try:
        return await replay_journal(journal, decide, site=site, stop_at_first=not every)
    finally:
        await journal.close()


def _words(result: ReplayResult) -> str:
    if result.first is None:
        told = "nothing to compare" if result.sites == 0 else "byte for byte the same"
        return f"{result.decisions} decisions, {result.sites} of single sites: {told}"
    first = result.first
    return (
        f"{result.different} of {result.sites} differ. First: decision {first.id} of {first.site} by {first.engine}, "
        f"{first.field}: journalled {first.journalled}, replayed {first.replayed}"
    )
