"""Who may do what: roles, the sites they reach, and the file that names who has them.

The file is TOML. Tokens stand in it as SHA-256 only, which is enough for 256 random bits, and would not be for a word
somebody thought of. It is read again when it changes, so that a token is revoked without a restart.

    [[token]]
    name = "night-desk"                 # stands in the audit log and in `created_by`
    sha256 = "9f86d081884c7d65..."      # wattshift token new night-desk operator
    role = "operator"
    sites = ["alpha", "beta"]           # without it, every site
    expires = 2027-01-01T00:00:00Z      # without it, never

    [[group]]                           # of a trusted proxy on the Unix socket, see [http] proxy_socket
    name = "ops"
    role = "engineer"
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import tomllib
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from contract.clock import Clock
from contract.units import MS_PER_S, Name

_LOG = logging.getLogger(__name__)
ROLES_MAX_BYTES: Final = 2**20
_LOOK_AGAIN_MS: Final = 1_000
_TOKEN_BYTES: Final = 32
_WHO: Final = r"^[A-Za-z0-9][A-Za-z0-9@._+-]{0,99}$"


class Role(IntEnum):
    """Each may do what those before it may."""

    VIEWER = 1
    """Reads."""
    OPERATOR = 2
    """Imposes, extends and revokes overrides; hands in signals."""
    ENGINEER = 3
    """Withdraws signals, which are obligations to the grid."""
    ADMIN = 4
    """Lifts a lockout that is another's."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `sites` is None where every site is reached."""

    name: str
    role: Role
    sites: frozenset[str] | None = None
    via: str = "token"
    """`token`, or `proxy` where a trusted proxy vouches."""

    def reaches(self, site: str) -> bool:
        return self.sites is None or site in self.sites


class RolesError(ValueError):
    """The roles file is of no use; the text says what is wrong and the fix."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=_WHO)]
    role: Role
    sites: frozenset[Name] | None = None

    @field_validator("role", mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        names = {role.name.lower(): role for role in Role}
        if not isinstance(value, str) or value not in names:
            raise ValueError(f"is not one of {', '.join(names)}")
        return names[value]


class _Token(_Entry):
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    expires: AwareDatetime | None = None


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    token: tuple[_Token, ...] = ()
    group: tuple[_Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class _Known:
    """What a roles file says, ready to be looked up."""

    tokens: dict[str, tuple[Principal, int | None]]
    """By digest: who, and until when, wall clock ms."""
    groups: dict[str, Principal]

    @classmethod
    def of(cls, file: _File) -> Self:
        tokens: dict[str, tuple[Principal, int | None]] = {}
        for each in file.token:
            until_ms = None if each.expires is None else round(each.expires.timestamp() * MS_PER_S)
            if each.sha256 in tokens:
                raise RolesError(f"token {each.name}: its sha256 stands there twice; give each its own token")
            tokens[each.sha256] = (Principal(each.name, each.role, each.sites), until_ms)
        return cls(tokens, {each.name: Principal(each.name, each.role, each.sites) for each in file.group})


class Access:
    """Looks up who asks. `token` is the plain one of [http] token_file: its bearer is admin of every site.

    Raises `RolesError` where the roles file cannot be used at the start; one that is spoilt later is told, once, and
    what it said before stays in force.
    """

    def __init__(self, clock: Clock, token: str | None = None, roles_file: Path | None = None) -> None:
        self._clock = clock
        self._plain = None if token is None else digest(token)
        self._file = roles_file
        self._known = _Known({}, {})
        self._seen: tuple[int, int] | None = None
        self._looked_ms = clock.mono_ms()
        self._spoilt = False
        if roles_file is not None:
            self._known, self._seen = _read(roles_file), _stamp(roles_file)

    def of_token(self, token: str) -> Principal | None:
        """Who bears a token; None where nobody does, or it has expired."""
        self._look_again()
        key = digest(token)
        if self._plain is not None and secrets.compare_digest(key, self._plain):
            return Principal("admin", Role.ADMIN)
        found = self._known.tokens.get(key)
        if found is None or (found[1] is not None and found[1] <= self._clock.wall_ms()):
            return None
        return found[0]

    def of_proxy(self, user: str, groups: list[str]) -> Principal | None:
        """Who a trusted proxy says is asking: the strongest of the user's groups counts, with its sites."""
        self._look_again()
        found = [self._known.groups[name] for name in groups if name in self._known.groups]
        best = max(found, key=lambda each: (each.role, each.sites is None, each.name), default=None)
        if best is None or not user or len(user) > 100 or not user.isprintable():
            return None
        return Principal(user, best.role, best.sites, via="proxy")

    def _look_again(self) -> None:
        now_ms = self._clock.mono_ms()
        if self._file is None or now_ms - self._looked_ms < _LOOK_AGAIN_MS:
            return
        self._looked_ms = now_ms
        try:
            seen = _stamp(self._file)
            if seen == self._seen:
                return
            self._known, self._seen = _read(self._file), seen
        except (RolesError, OSError) as error:
            if not self._spoilt:
                _LOG.error("roles: %s; what it said before stays in force", error)
            self._spoilt = True
        else:
            self._spoilt = False
            _LOG.info("roles: %s read again: %d tokens", self._file, len(self._known.tokens))


def digest(token: str) -> str:
    """How a token stands in the file."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def new_token() -> str:
    """256 random bits."""
    return secrets.token_hex(_TOKEN_BYTES)


def entry(name: str, role: Role, token: str, sites: list[str]) -> str:
    """The lines for the roles file. Raises `RolesError` where they would be of no use."""
    try:
        _Token(name=name, role=role.name.lower(), sha256=digest(token), sites=frozenset(sites) or None)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise RolesError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    lines = ["[[token]]", f'name = "{name}"', f'sha256 = "{digest(token)}"', f'role = "{role.name.lower()}"']
    if sites:
        named = ", ".join(f'"{site}"' for site in sites)
        lines.append(f"sites = [{named}]")
    return "\n".join(lines) + "\n"


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _read(path: Path) -> _Known:
    try:
        if path.stat().st_mode & 0o007 and os.name == "posix":
            raise RolesError(f"{path} can be read by everyone. Fix: chmod o= {path}")
        raw = path.read_bytes()
    except OSError as error:
        raise RolesError(f"{path} cannot be read ({error.strerror}). Fix: check the path and its owner") from None
    if len(raw) > ROLES_MAX_BYTES:
        raise RolesError(f"{path} is larger than {ROLES_MAX_BYTES} bytes. Fix: give roles, not data")
    try:
        return _Known.of(_File.model_validate(tomllib.loads(raw.decode())))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RolesError(f"{path} is not TOML: {error}. Fix: correct the line it names") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise RolesError(f"{path}: {key}: {first['msg']}. Fix: see docs/api.md for what it takes") from None
