"""`wattshift`: the command line. Parses and prints; nothing else.

Exit codes: 0 ok, 1 failed, 2 usage, 3 degraded, 4 authorisation, 5 conflict, 6 controller unreachable.
"""

from __future__ import annotations

import sys

import typer

from cli import backtest, demo, init, ops, replay
from cli.client import ApiError

app = typer.Typer(
    name="wattshift",
    help="Decides, minute by minute, what every megawatt of a hybrid bitcoin and HPC site does, and proves it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Where the controller is: --url or WATTSHIFT_URL, its token: --token-file or WATTSHIFT_TOKEN_FILE.",
)
app.command("demo")(demo.demo)
app.command("status")(ops.status)
app.command("explain")(ops.explain)
app.command("signal")(ops.signal)
app.add_typer(ops.override, name="override")
app.command("replay")(replay.replay)
app.command("backtest", help=backtest.HELP)(backtest.backtest_command)
app.add_typer(init.init, name="init")


def main() -> None:
    """Entry point."""
    try:
        app()
    except ApiError as error:
        sys.stderr.write(f"wattshift: {error}\n")
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
