"""Options that most commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Url = Annotated[str, typer.Option("--url", envvar="WATTSHIFT_URL", help="where the controller listens")]
TokenFile = Annotated[
    Path | None, typer.Option("--token-file", envvar="WATTSHIFT_TOKEN_FILE", help="a file that holds the bearer token")
]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of words")]
DEFAULT_URL = "http://127.0.0.1:8480"


def watts(megawatts: float | None) -> int | None:
    return None if megawatts is None else round(megawatts * 1e6)
