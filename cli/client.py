"""A small client of the controller's HTTP API. Every failure is one `ApiError` with an exit code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_AUTH: Final = 4
EXIT_CONFLICT: Final = 5
EXIT_UNREACHABLE: Final = 6

_EXIT_BY_STATUS: Final = {
    400: EXIT_USAGE,
    401: EXIT_AUTH,
    403: EXIT_AUTH,
    404: EXIT_USAGE,
    409: EXIT_CONFLICT,
    422: EXIT_USAGE,
}


class ApiError(Exception):
    """What went wrong, in words for the terminal, and the exit code that goes with it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Api:
    """Where the controller listens and the token that opens it."""

    url: str
    token: str | None
    timeout_s: float = 10.0

    @classmethod
    def at(cls, url: str, token_file: Path | None) -> Api:
        """Reads the token; `ApiError` where the file cannot be read."""
        if token_file is None:
            return cls(url.rstrip("/"), None)
        try:
            return cls(url.rstrip("/"), token_file.read_text(encoding="utf-8").strip())
        except OSError as error:
            raise ApiError(f"--token-file {token_file}: {error.strerror}", EXIT_AUTH) from error

    async def call(self, method: str, path: str, *, body: Any = None, query: dict[str, str] | None = None) -> Any:
        """One request; the parsed JSON of the answer, None where it has none."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
                session.request(method, self.url + path, json=body, params=query) as response,
            ):
                answer = await response.json(content_type=None) if response.status != 204 else None
                if response.status < 400:
                    return answer
                raise ApiError(_problem(answer, response.status), _EXIT_BY_STATUS.get(response.status, EXIT_FAILED))
        except (aiohttp.ClientError, TimeoutError) as error:
            detail = str(error) or type(error).__name__
            hint = "is the controller running, and --url right?"
            raise ApiError(f"no answer from {self.url}: {detail}; {hint}", EXIT_UNREACHABLE) from None
        except ValueError:
            raise ApiError(
                f"{self.url}{path} did not answer JSON; is that a Wattshift controller?", EXIT_FAILED
            ) from None


def _problem(answer: Any, status: int) -> str:
    """One line from a problem+json body (RFC 9457)."""
    if not isinstance(answer, dict):
        return f"HTTP {status}"
    told = str(answer.get("detail") or answer.get("title") or f"HTTP {status}")
    field = answer.get("field")
    named = f"{field}: " if field and not told.startswith(f"{field}:") else ""
    fix = f". Fix: {answer['fix']}" if answer.get("fix") else ""
    return f"{named}{told}{fix}"
