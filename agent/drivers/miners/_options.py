"""A device's options from the agent's config: typed, bounded, and refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

Options = Mapping[str, str | int | float]

DEADLINE_S: Final = 3.0
"""The total deadline of one operation where the config names none."""

MAX_DEVICE_W: Final = 200_000
"""No single miner draws more; a larger figure in a config or an answer is a mistake."""


class OptionError(ValueError):
    """An option that cannot be used. `option` is its name as the config spells it."""

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(f"option '{option}': {problem}")
        self.option = option
        self.problem = problem


def only(options: Options, known: Iterable[str]) -> None:
    """Raise `OptionError` for the first option that this firmware does not have."""
    names = sorted(known)
    for name in options:
        if name not in names:
            has = f"it has {', '.join(names)}" if names else "it has none"
            raise OptionError(name, f"unknown to this firmware; {has}")


def text(options: Options, name: str, default: str) -> str:
    """A text option. A number is refused: a password of digits must be quoted, or its zeros are lost."""
    value = options.get(name, default)
    if not isinstance(value, str):
        raise OptionError(name, f"must be text in quotes, got {value!r}")
    return value


def whole(options: Options, name: str, default: int, *, least: int, most: int) -> int:
    """A whole number within bounds."""
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise OptionError(name, f"must be a whole number from {least} to {most}, got {value!r}")
    return value


def power_range_w(options: Options) -> tuple[int, int] | None:
    """`min_power_w` and `max_power_w`: both together switch power limiting on, neither leaves it off."""
    given = [name for name in ("min_power_w", "max_power_w") if name in options]
    if not given:
        return None
    if len(given) == 1:
        missing = "max_power_w" if given == ["min_power_w"] else "min_power_w"
        raise OptionError(missing, f"must stand beside {given[0]}")
    most = whole(options, "max_power_w", 0, least=1, most=MAX_DEVICE_W)
    least = whole(options, "min_power_w", 0, least=1, most=MAX_DEVICE_W)
    if least > most:
        raise OptionError("min_power_w", f"must not exceed max_power_w, got {least} and {most}")
    return least, most


def port_or(port: int | None, default: int) -> int:
    """The port to use: the protocol's own unless the config names one."""
    if port is None:
        return default
    if isinstance(port, bool) or not 1 <= port <= 65_535:
        raise OptionError("port", f"must be a whole number from 1 to 65535, got {port!r}")
    return port
