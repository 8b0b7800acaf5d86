"""md5crypt and HTTP digest against published vectors."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from agent.drivers.miners._digest import DigestAuth
from agent.drivers.miners._md5crypt import md5crypt


@pytest.mark.parametrize(
    ("password", "salt", "hashed"),
    [
        ("admin", "5QAHiKMb", "x5JSSQzqF0lEACIGSL0Ld1"),
        ("x5JSSQzqF0lEACIGSL0Ld14459", "kowEj187", "iwyNpr4rFZwTAgZWn6Qgh."),
        ("", "12345678", "xek.CpjQUVgdf/P2N9KQf/"),
        ("x", "ab", "e2KlfqG5YBMTjSz7XF.Eu1"),
        ("a-much-longer-password-than-sixteen-bytes", "saltsalt", "yirOnogIzSYiEEGoWkkjL0"),
    ],
)
def test_md5crypt_agrees_with_what_openssl_printed(password: str, salt: str, hashed: str) -> None:
    assert md5crypt(password, salt) == hashed


def test_md5crypt_agrees_with_openssl_itself() -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on this machine: install the package openssl")
    for length in range(0, 40, 3):
        password, salt = "pässwort!0123456789abcdefghijklmnopqrstuv"[:length], f"s{length}./Zz"
        command = [openssl, "passwd", "-1", "-salt", salt, password]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        assert f"$1${salt}${md5crypt(password, salt)}" == printed


def digest(username: str, password: str, cnonce: str, challenge: str) -> DigestAuth:
    auth = DigestAuth(username, password, make_cnonce=lambda: cnonce)
    assert auth.learn([challenge])
    return auth


def test_the_example_of_rfc_2617() -> None:
    auth = digest(
        "Mufasa",
        "Circle Of Life",
        "0a4f113b",
        'Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
        'opaque="5ccc069c403ebaf9f0171e9517f40e41"',
    )
    value = auth.authorization("GET", "/dir/index.html")
    assert value is not None
    assert 'response="6629fae49393a05397450978507c4ef1"' in value
    assert 'opaque="5ccc069c403ebaf9f0171e9517f40e41"' in value
    assert "nc=00000001" in value


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_examples_of_rfc_7616(algorithm: str, response: str) -> None:
    auth = digest(
        "Mufasa",
        "Circle of Life",
        "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
        f'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={algorithm}, '
        'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"',
    )
    value = auth.authorization("GET", "/dir/index.html")
    assert value is not None
    assert f'response="{response}"' in value


def test_the_nonce_count_rises_and_begins_again_with_a_new_challenge() -> None:
    auth = digest("u", "p", "c", 'Digest realm="r", nonce="one", qop="auth"')
    counts = [auth.authorization("GET", "/") for _ in range(3)]
    assert [f"nc=0000000{i}" in (value or "") for i, value in enumerate(counts, 1)] == [True] * 3
    assert auth.learn(['digest realm="r",nonce="two",qop="auth"'])
    assert "nc=00000001" in (auth.authorization("GET", "/") or "")


def test_a_server_without_qop_gets_the_old_form() -> None:
    auth = digest("u", "p", "c", 'Digest realm="r", nonce="n"')
    value = auth.authorization("GET", "/") or ""
    assert "qop" not in value
    assert "cnonce" not in value


@pytest.mark.parametrize(
    "challenges",
    [
        [],
        ["Basic realm=x"],
        ['Digest realm="r"'],
        ['Digest nonce="n"'],
        ['Digest realm="r", nonce="n", qop="auth-int"'],
        ['Digest realm="r", nonce="n", algorithm=TIGER'],
        [""],
        ["Digest"],
    ],
)
def test_a_challenge_that_cannot_be_met_is_not_learnt(challenges: list[str]) -> None:
    auth = DigestAuth("u", "p")
    assert not auth.learn(challenges)
    assert auth.authorization("GET", "/") is None


def test_quotes_in_names_are_escaped_and_understood() -> None:
    auth = digest('u"x', "p", "c", r'Digest realm="r\"q\\", nonce="n", qop="auth"')
    value = auth.authorization("GET", "/") or ""
    assert r'username="u\"x"' in value
    assert r'realm="r\"q\\"' in value
