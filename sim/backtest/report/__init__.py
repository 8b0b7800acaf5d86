"""The backtest as one self-contained HTML file: what each policy earned, where the difference comes from, and why.

No script, no font, no image from anywhere: it opens from a mail attachment and prints. Every figure is from the books
and traces it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources
from typing import Final

from sim.backtest.report.sections import site_section
from sim.backtest.report.story import Judged, verdict

__all__ = ["Judged", "report", "verdict"]


def report(judged: Sequence[Judged], *, title: str, notes: Sequence[str] = ()) -> str:
    """The whole page. `notes` are sentences on the data: files, gaps filled, what was left out."""
    sections = [site_section(one, several=len(judged) > 1) for one in judged]
    style = resources.files("sim.backtest.report").joinpath("report.css").read_text(encoding="utf-8")
    noted = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}</style></head><body><main><header><h1>{escape(title)}</h1></header>"
        f"{''.join(sections)}<footer><h2>How to read this</h2>{_METHOD}"
        f"{f'<h3>Data</h3><ul>{noted}</ul>' if noted else ''}</footer></main></body></html>\n"
    )


_METHOD: Final = """
<p>All policies ran on the same simulated plant, interval by interval, and saw only what was known at the time. The
books are the plant's, not the policies': energy at the real-time price and its adder with cooling and losses at the
ambient temperature of the hour, hashing by each bank's efficiency curve at the day's hash price, jobs by the useful
hour, less what was not done by the deadline, starts, shed firm load, missed obligations and coincident peaks.</p>
<p><b>Flex capture</b> is (profit - always-on) / (perfect foresight - always-on). <b>Perfect foresight is a bound, not a
policy</b>: no dispatch of this plant can earn more, and nobody can know what it takes to reach it. Simple rules were
tuned on the time before the window, never on it.</p>
"""
