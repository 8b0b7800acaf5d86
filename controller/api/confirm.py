"""Confirm tokens: proof that somebody has seen the preview of this very override, and just now."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from typing import Any, Final

CONFIRM_S: Final = 30.0


class ConfirmTokens:
    """Makes and checks them. Nothing is stored: a token names its own end and is signed. `now_s` is monotonic, and not
    site time, for it is a person who reads. None outlives the process."""

    def __init__(self, now_s: Callable[[], float], valid_s: float = CONFIRM_S) -> None:
        self._now_s = now_s
        self._key = secrets.token_bytes(32)
        self.valid_s = valid_s

    def make(self, who: str, ask: dict[str, Any]) -> str:
        """For what `who` was shown."""
        until = f"{self._now_s() + self.valid_s:.3f}"
        return f"{until}.{self._sign(until, who, ask)}"

    def problem(self, token: str, who: str, ask: dict[str, Any]) -> str | None:
        """Why a token does not do; None where it does."""
        until, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature.encode("utf-8", "replace"), self._sign(until, who, ask).encode()):
            return "is not that of a preview of this very override by the same token"
        if float(until) < self._now_s():
            return f"is older than {self.valid_s:.0f} s"
        return None

    def _sign(self, until: str, who: str, ask: dict[str, Any]) -> str:
        return hmac.new(self._key, f"{until}\n{who}\n{digest(ask)}".encode(), hashlib.sha256).hexdigest()


def digest(ask: dict[str, Any]) -> str:
    """Of what was asked, whatever the order of its fields."""
    text = json.dumps(ask, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
