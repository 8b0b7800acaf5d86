"""`wattshift init` makes identities and configurations that the daemons and Mosquitto take."""

from __future__ import annotations

import stat
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner

from agent.daemon import main as agent_main
from cli.client import ApiError
from cli.init import init
from controller.config import load_config
from controller.identities import IdentityError, authority

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def run(*words: str) -> str:
    result = CliRunner().invoke(init, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_a_site_gets_a_certificate_in_its_name_and_a_configuration_that_checks(tmp_path: Path) -> None:
    told = run("site", "pecos", "--dir", str(tmp_path), "--broker", "broker.example")
    assert "pecos.agent.toml" in told
    cert = x509.load_pem_x509_certificate((tmp_path / "pecos.pem").read_bytes())
    ca = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes())
    cert.verify_directly_issued_by(ca)
    assert cert.subject.rfc4514_string() == "CN=pecos"
    for secret in ("pecos.key", "ca.key"):
        assert stat.S_IMODE((tmp_path / secret).stat().st_mode) == 0o600
    assert agent_main(["--config", str(tmp_path / "pecos.agent.toml"), "--check"]) == 0
    text = (tmp_path / "pecos.agent.toml").read_text()
    assert 'host = "broker.example"' in text
    assert 'id = "pecos"' in text


def test_a_controller_gets_a_token_and_a_configuration_that_loads(tmp_path: Path) -> None:
    run("controller", "--dir", str(tmp_path))
    config = load_config(tmp_path / "controller.toml")
    assert config.mqtt.tls is not None
    assert config.mqtt.port == 8883
    token = tmp_path / "controller.token"
    assert len(token.read_text().strip()) == 64
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_what_exists_is_kept_unless_renewal_is_asked_for(tmp_path: Path) -> None:
    run("site", "pecos", "--dir", str(tmp_path))
    first, edited = (tmp_path / "pecos.pem").read_bytes(), tmp_path / "pecos.agent.toml"
    edited.write_text("edited")
    with pytest.raises(ApiError, match="--renew"):
        run("site", "pecos", "--dir", str(tmp_path))
    assert (tmp_path / "pecos.pem").read_bytes() == first
    run("site", "pecos", "--dir", str(tmp_path), "--renew")
    assert (tmp_path / "pecos.pem").read_bytes() != first
    assert edited.read_text() == "edited"


@pytest.mark.parametrize("name", ["Pecos", "a/b", "controller", "ca", ""])
def test_a_name_that_cannot_be_a_site_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="site id"):
        run("site", name, "--dir", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_half_an_authority_is_not_replaced_by_a_new_one(tmp_path: Path) -> None:
    authority(tmp_path, NOW)
    (tmp_path / "ca.key").unlink()
    with pytest.raises(IdentityError, match="one of them is missing"):
        authority(tmp_path, NOW)
    other = authority(tmp_path / "other", NOW)
    (tmp_path / "ca.key").write_bytes((other.folder / "ca.key").read_bytes())
    with pytest.raises(IdentityError, match="does not belong"):
        authority(tmp_path, NOW)
    (tmp_path / "ca.key").write_text("garbage")
    with pytest.raises(IdentityError, match="no certificate or key"):
        authority(tmp_path, NOW)


def test_a_broker_answers_to_names_and_addresses(tmp_path: Path) -> None:
    run("broker", "broker.example", "10.1.0.9", "--dir", str(tmp_path))
    cert = x509.load_pem_x509_certificate((tmp_path / "broker.pem").read_bytes())
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["broker.example"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.1.0.9"]


def test_a_configuration_for_the_unit_names_secrets_and_state_where_systemd_puts_them(tmp_path: Path) -> None:
    """The folder that each unit loads, under the names it hands its files over by."""
    run("controller", "--unit", "--dir", str(tmp_path))
    run("site", "pecos", "--unit", "--dir", str(tmp_path))
    units = Path(__file__).parents[2] / "deploy/systemd"
    for daemon, file, names in (
        ("controller", "controller.toml", ("ca.pem", "controller.pem", "controller.key", "controller.token")),
        ("agent", "pecos.agent.toml", ("ca.pem", "pecos.pem", "pecos.key")),
    ):
        unit = f"wattshift-{daemon}.service"
        assert f"LoadCredential=secrets:/etc/wattshift/secrets/{daemon}\n" in (units / unit).read_text()
        text = (tmp_path / file).read_text()
        for name in names:
            assert f'"/run/credentials/{unit}/secrets_{name}"' in text
            assert (tmp_path / name).exists()
    agent = tomllib.loads((tmp_path / "pecos.agent.toml").read_text())
    assert agent["state_file"] == "/var/lib/wattshift-agent/agent-state.json"
    assert agent["control_dir"] == "/run/wattshift/control"
