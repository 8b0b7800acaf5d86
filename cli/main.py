"""`wattshift`: the command line. Parses and prints; nothing else.

Exit codes: 0 ok, 1 failed, 2 usage, 3 degraded, 4 authorisation, 5 conflict, 6 controller unreachable,
130 interrupted.

Only what the command that is asked for needs is imported, and for `status` not even typer: it answers before the rest
were loaded.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cli import status
from cli.client import EXIT_INTERRUPTED, ApiError

if TYPE_CHECKING:
    import typer

_HELP: Final = "Decides, minute by minute, what every megawatt of a hybrid bitcoin and HPC site does, and proves it."
_EPILOG: Final = (
    "Where the controller is: --url or WATTSHIFT_URL, its token: --token-file or WATTSHIFT_TOKEN_FILE. "
    "Exit codes: 0 ok, 1 failed, 2 usage, 3 degraded, 4 authorisation, 5 conflict, 6 controller unreachable."
)


class _Command(NamedTuple):
    """Where a command stands. `group` where it has commands of its own; `help` names its long help there, if any."""

    module: str
    attribute: str
    short: str
    group: bool = False
    help: str | None = None


_COMMANDS: Final[dict[str, _Command]] = {
    "demo": _Command("cli.demo", "demo", "Run broker, controller and simulated sites here and now."),
    "status": _Command("cli.main", "_status", "What every site draws, may draw and does."),
    "sites": _Command("cli.ops", "sites", "The sites, whether they are heard, and in what mode."),
    "explain": _Command("cli.ops", "explain", "Why this, now: decisions in a sentence each."),
    "signal": _Command("cli.ops", "signal", "Hand a curtailment signal to a site."),
    "override": _Command("cli.override", "override", "Impose, list, extend and revoke overrides.", group=True),
    "doctor": _Command("cli.doctor", "doctor", "What is wrong, and the fix."),
    "audit": _Command("cli.audit", "audit", "Verify an audit log.", group=True),
    "token": _Command("cli.audit", "token", "Make tokens for the API.", group=True),
    "replay": _Command("cli.replay", "replay", "Decide a journal all over again and compare byte for byte."),
    "backtest": _Command("cli.backtest", "backtest_command", "Judge policies on a year of real prices.", help="HELP"),
    "init": _Command("cli.init", "init", "Make certificates, tokens and configurations.", group=True),
}


def build(only: str | None = None) -> typer.Typer:
    """The whole command line, or only the command of that name."""
    made = _empty()
    for name, command in _COMMANDS.items():
        if only in (None, name):
            _add(made, name, command)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    words = list(sys.argv[1:] if argv is None else argv)
    named = words[0] if words and words[0] in _COMMANDS else None
    try:
        if named == "status":
            raise SystemExit(status.main(words[1:]))
        (build(named) if named else _overview())(args=words, prog_name="wattshift")
    except ApiError as error:
        sys.stderr.write(f"wattshift: {error}\n")
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:  # before the command could see to it itself: while what it needs was imported
        sys.stderr.write("wattshift: interrupted\n")
        raise SystemExit(EXIT_INTERRUPTED) from None


def __getattr__(name: str) -> typer.Typer:
    """`app` is all of it, made when it is asked for."""
    if name == "app":
        return build()
    raise AttributeError(name)


def _overview() -> typer.Typer:
    """What `wattshift --help` lists: every command by its short help, none of them imported."""
    made = _empty()
    for name, command in _COMMANDS.items():
        made.command(name, help=command.short)(_stub)
    return made


def _stub() -> None:
    raise AssertionError("main() builds the command that is named")


def _status() -> None:
    raise SystemExit(status.main(sys.argv[2:]))


def _empty() -> typer.Typer:
    import typer

    made = typer.Typer(
        name="wattshift",
        help=_HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=_EPILOG,
    )
    made.callback()(_root)  # with it, a lone command is still called by its name
    return made


def _root() -> None:
    pass


def _add(made: typer.Typer, name: str, command: _Command) -> None:
    module = importlib.import_module(command.module)
    found: Any = getattr(module, command.attribute)
    if command.group:
        made.add_typer(found, name=name)
    elif command.help is not None:
        made.command(name, help=getattr(module, command.help))(found)
    else:
        made.command(name)(found)


if __name__ == "__main__":
    main()
