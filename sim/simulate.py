"""`python -m sim.simulate --seed N`: run one seed of the simulation and print what came of it.

Exit code 0 where no invariant was violated, else 1.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from sim.simulation import Options, draw, simulate


def main(arguments: Sequence[str] | None = None) -> int:
    """The module's entry; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sim.simulate", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="so many seeds from there on")
    parser.add_argument("--minutes", type=int, default=40, help="of site time")
    parser.add_argument("--sites", type=int, default=None, help="one or two; otherwise the seed draws it")
    parser.add_argument("--no-faults", action="store_true", help="nothing goes wrong")
    parser.add_argument("--trace", action="store_true", help="say what happens as it happens")
    parser.add_argument("--log-level", default="critical", choices=["debug", "info", "warning", "error", "critical"])
    options = parser.parse_args(arguments)
    logging.basicConfig(level=options.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    violations = 0
    for seed in range(options.seed, options.seed + options.seeds):
        asked = Options(seed=seed, minutes=options.minutes, sites=options.sites, faults=not options.no_faults)
        scene = draw(asked)

        def say(at_ms: int, text: str, begin_ms: int = scene.begin_ms) -> None:
            sys.stdout.write(f"{(at_ms - begin_ms) / 1_000:9.3f} s  {text}\n")

        outcome = simulate(scene, trace=say if options.trace else None)
        sys.stdout.write(f"{outcome}\n")
        sys.stdout.flush()
        violations += len(outcome.violations)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
