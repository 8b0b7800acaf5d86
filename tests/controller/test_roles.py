"""Roles: tokens are known by their hash, expire, reach their sites, and are revoked without a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.roles import Access, Role, RolesError, digest, entry, new_token
from tests.controller.kit import WALL_MS, StubClock
from tests.controller.test_daemon import configure, ended, launch


def roles(folder: Path, text: str) -> Path:
    path = folder / "roles.toml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a_token_is_found_by_its_hash_and_stands_nowhere_in_the_file(tmp_path: Path) -> None:
    token = new_token()
    path = roles(tmp_path, entry("night-desk", Role.OPERATOR, token, ["alpha", "beta"]))
    assert token not in path.read_text()
    found = Access(StubClock(), None, path).of_token(token)
    assert found is not None
    assert (found.name, found.role, found.sites) == ("night-desk", Role.OPERATOR, frozenset({"alpha", "beta"}))
    assert not found.reaches("gamma")
    assert Access(StubClock(), None, path).of_token(token[:-1]) is None
    assert Access(StubClock(), None, path).of_token(digest(token)) is None, "the hash itself opens nothing"


def test_the_plain_token_is_admin_of_every_site() -> None:
    found = Access(StubClock(), "0123456789abcdef").of_token("0123456789abcdef")
    assert found is not None
    assert (found.role, found.sites) == (Role.ADMIN, None)
    assert Access(StubClock()).of_token("") is None


def test_a_token_expires(tmp_path: Path) -> None:
    token, clock = new_token(), StubClock()
    path = roles(tmp_path, entry("guest", Role.VIEWER, token, []) + "expires = 2023-11-14T22:30:00Z\n")
    access = Access(clock, None, path)
    assert access.of_token(token) is not None
    clock.wall = WALL_MS + 3_600_000
    assert access.of_token(token) is None


def test_a_change_of_the_file_is_seen_and_a_spoilt_one_is_not_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, clock = new_token(), new_token(), StubClock()
    path = roles(tmp_path, entry("one", Role.VIEWER, first, []))
    access = Access(clock, None, path)
    path.write_text(entry("two", Role.ENGINEER, second, []) + "# another length\n")
    clock.advance(2_000)
    assert access.of_token(first) is None, "revoked"
    assert access.of_token(second) is not None
    path.write_text("[[token")
    for _ in range(3):
        clock.advance(2_000)
        assert access.of_token(second) is not None
    assert caplog.text.count("stays in force") == 1


def test_a_proxys_user_has_the_strongest_of_their_groups(tmp_path: Path) -> None:
    text = '[[group]]\nname = "all"\nrole = "viewer"\n[[group]]\nname = "ops"\nrole = "operator"\nsites = ["alpha"]\n'
    access = Access(StubClock(), None, roles(tmp_path, text))
    found = access.of_proxy("ann@example.org", ["all", "ops", "unheard-of"])
    assert found is not None
    assert (found.name, found.role, found.sites, found.via) == (
        "ann@example.org",
        Role.OPERATOR,
        frozenset({"alpha"}),
        "proxy",
    )
    assert access.of_proxy("ann@example.org", ["unheard-of"]) is None
    assert access.of_proxy("", ["ops"]) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[token", "is not TOML"),
        ('[[token]]\nname = "x"\nrole = "viewer"\nsha256 = "abc"', "token.0.sha256"),
        (f'[[token]]\nname = "x"\nrole = "boss"\nsha256 = "{"0" * 64}"', "token.0.role"),
        (f'[[token]]\nname = "a b"\nrole = "viewer"\nsha256 = "{"0" * 64}"', "token.0.name"),
        (f'[[token]]\nname = "x"\nrole = "viewer"\nsha256 = "{"0" * 64}"\nsite = "a"', "token.0.site"),
        (f'[[token]]\nname = "x"\nrole = "viewer"\nsha256 = "{"0" * 64}"\n' * 2, "stands there twice"),
    ],
)
def test_a_mistake_in_the_file_is_told_by_key(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(RolesError, match=told):
        Access(StubClock(), None, roles(tmp_path, text))


def test_a_file_that_everyone_can_read_or_nobody_is_refused(tmp_path: Path) -> None:
    path = roles(tmp_path, "")
    path.chmod(0o604)
    with pytest.raises(RolesError, match="chmod"):
        Access(StubClock(), None, path)
    with pytest.raises(RolesError, match="cannot be read"):
        Access(StubClock(), None, tmp_path / "absent")


def test_an_entry_of_no_use_is_not_made() -> None:
    with pytest.raises(RolesError, match="name"):
        entry('x" role="admin', Role.VIEWER, new_token(), [])
    with pytest.raises(RolesError, match="sites"):
        entry("x", Role.VIEWER, new_token(), ['a"'])


async def test_the_daemon_does_not_start_with_a_roles_file_or_audit_log_of_no_use(tmp_path: Path) -> None:
    """One line with the file and the fix: status 2 for what stands in the configuration, 1 for what came of it."""
    path = configure(tmp_path)
    whole = path.read_text()
    roles(tmp_path, "[[token]]\nname = 1\n")
    path.write_text(whole.replace("[http]", '[http]\nroles_file = "roles.toml"'))
    for arguments in (("--config", str(path), "--check"), ("--config", str(path))):
        code, _, err = await ended(await launch(*arguments))
        assert code == 2
        assert "http.roles_file" in err
        assert "token.0.name" in err
        assert "Traceback" not in err
    (tmp_path / "audit.jsonl").write_text("not a log\n")
    path.write_text(whole.replace("[http]", '[http]\naudit_file = "audit.jsonl"'))
    code, _, err = await ended(await launch("--config", str(path)))
    assert code == 1
    assert "audit.jsonl does not end with an entry" in err
    assert "Traceback" not in err
