"""What the benches' command lines have in common."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import sys
from collections.abc import Awaitable, Callable, Sequence

from bench.process import BenchError
from sim.broker import BrokerError


def arguments(name: str, about: str | None, *, repeats: int) -> argparse.ArgumentParser:
    """A parser whose `--help` is the bench's own docstring."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {name}",
        description=about,
        epilog="The last line printed is one JSON object: medians over the runs, with KEY_min and KEY_max beside each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=_positive, default=repeats, help=f"runs to take (default {repeats})")
    uvloop = importlib.util.find_spec("uvloop") is not None
    parser.add_argument(
        "--miners-loop",
        choices=("asyncio", "uvloop"),
        default="uvloop" if uvloop else "asyncio",
        help="the event loop of the simulated miners, who are not what is measured (default: uvloop if installed)",
    )
    return parser


def main_of(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    bench: Callable[[argparse.Namespace], Awaitable[None]],
) -> int:
    """Parse and run. Exit status 1 where a run failed, 2 where something is missing on this machine."""

    async def run() -> None:
        await bench(options)

    options = parser.parse_args(argv)
    try:
        asyncio.run(run())
    except BrokerError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 2
    except (BenchError, TimeoutError) as error:
        sys.stderr.write(f"{parser.prog}: {str(error) or 'a step took too long'}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number
