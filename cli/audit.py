"""`wattshift audit` and `wattshift token`: the audit log verified, tokens made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cli.client import EXIT_FAILED, EXIT_USAGE, ApiError
from cli.options import Json
from controller.audit import AuditError, verify
from controller.roles import Role, RolesError, entry, new_token

audit = typer.Typer(help="Verify an audit log.", no_args_is_help=True, rich_markup_mode=None)
token = typer.Typer(help="Make tokens for the API.", no_args_is_help=True, rich_markup_mode=None)


@audit.callback()
def _audit() -> None:
    """Verify an audit log."""


@token.callback()
def _token() -> None:
    """Make tokens for the API."""


@audit.command("verify")
def verify_audit(
    file: Annotated[Path, typer.Argument(help="the file that [http] audit_file names")],
    head: Annotated[
        str | None, typer.Option("--head", help="a hash this printed before: what it covers must still be there")
    ] = None,
    as_json: Json = False,
) -> None:
    """Walk the chain. Exit code 1 where a line was altered, taken out, put in or moved, and which one.

    Lines cut off the end leave a chain that is whole: keep the hash that is printed somewhere else, and give it back
    with --head.
    """
    heads: set[str] = set()
    try:
        with file.open("rb") as raw:
            found = verify(_noting(raw, head, heads))
    except OSError as error:
        raise ApiError(f"{file}: {error.strerror}", EXIT_USAGE) from None
    except AuditError as error:
        _broken(file, str(error), as_json=as_json)
    if head is not None and head not in heads:
        _broken(file, f"the entry {head} is no longer there: lines were cut off the end", as_json=as_json)
    if as_json:
        typer.echo(json.dumps({"ok": True, "lines": found.lines, "head": found.hash}))
    else:
        typer.echo(f"{file}: {found.lines} entries, the chain is whole; head {found.hash}")


@token.command("new")
def new(
    name: Annotated[str, typer.Argument(help="who bears it; stands in the audit log")],
    role: Annotated[str, typer.Argument(help="viewer, operator, engineer or admin")],
    site: Annotated[list[str] | None, typer.Option("--site", help="only this site; may be given again")] = None,
    as_json: Json = False,
) -> None:
    """Make a token, and the lines for the roles file. The token is shown once and stands nowhere else."""
    if role.upper() not in Role.__members__:
        raise typer.BadParameter(f"{role!r} is none; known: {', '.join(each.name.lower() for each in Role)}")
    made = new_token()
    try:
        lines = entry(name, Role[role.upper()], made, site or [])
    except RolesError as error:
        raise ApiError(str(error), EXIT_USAGE) from None
    if as_json:
        typer.echo(json.dumps({"token": made, "entry": lines}))
    else:
        typer.echo(f"{made}\n\nAdd to the file that [http] roles_file names:\n\n{lines}", nl=False)


def _noting(lines: Iterable[bytes], head: str | None, heads: set[str]) -> Iterator[bytes]:
    """The lines as they are; `head` goes into `heads` where a line bears it."""
    wanted = f'"hash":"{head}"}}'.encode()
    for line in lines:
        if head is not None and line.rstrip().endswith(wanted):
            heads.add(head)
        yield line


def _broken(file: Path, told: str, *, as_json: bool) -> NoReturn:
    if as_json:
        typer.echo(json.dumps({"ok": False, "problem": told}))
        raise typer.Exit(EXIT_FAILED)
    raise ApiError(f"{file}: {told}", EXIT_FAILED)
