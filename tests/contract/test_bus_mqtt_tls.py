"""Certificates on the bus: what docs/security promises of a fleet's broker, against a real Mosquitto."""

from __future__ import annotations

import datetime
import ipaddress
import logging
from pathlib import Path
from random import Random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from contract.bus_mqtt import MqttBus, MqttSettings, MqttTls
from sim.broker import LocalBroker
from tests.contract.links import linked, until


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        cert = self._sign(self._name, self._key, is_authority=True)
        self.path = self._write(f"{name}.pem", cert.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate and key for a broker or a client, good for `localhost`."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert = self._sign(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key, is_authority=False)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = cert.public_bytes(serialization.Encoding.PEM)
        return self._write(f"{name}.crt", public), self._write(f"{name}.key", private)

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_authority: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _write(self, name: str, content: bytes) -> Path:
        path = self._folder / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        return path


@pytest.mark.mosquitto
async def test_certificates_name_the_site_and_fence_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The certificate's name is the user, the ACL holds it to its site; a stranger's authority is refused."""
    ours, strangers = Authority(tmp_path, "ours"), Authority(tmp_path, "strangers")
    broker_cert, broker_key = ours.issue("broker")
    config = (
        f"cafile {ours.path}\ncertfile {broker_cert}\nkeyfile {broker_key}\n"
        "require_certificate true\nuse_identity_as_username true\n"
    )
    acl = "user controller\ntopic readwrite #\npattern write sites/%u/report\n"
    async with LocalBroker(kind="mosquitto", acl=acl, more_config=config) as broker:

        def bus(name: str, authority: Authority = ours, trusts: Authority = ours) -> MqttBus:
            cert, key = authority.issue(name)
            settings = broker.settings(name, tls=MqttTls(ca=trusts.path, cert=cert, key=key))
            return MqttBus(settings.model_copy(update={"timeout_s": 1.0}), Random(1))

        async with linked(bus("controller"), ["sites/#"]) as controller, linked(bus("site-a")) as site:
            assert site.bus.publish("sites/site-b/report", b"forged")
            assert site.bus.publish("sites/site-a/report", b"own")
            await until(lambda: controller.payloads == [b"own"], "the site's own report, and that alone")
        with caplog.at_level(logging.WARNING):
            async with (
                linked(bus("liar", authority=strangers), wait_up=False) as liar,
                linked(bus("deceived", trusts=strangers), wait_up=False) as deceived,
            ):
                await until(lambda: len(caplog.records) == 2, "both are told")
                assert "certificate verify failed" in caplog.text
                assert (liar.ups, deceived.ups) == (0, 0)


async def test_unreadable_certificate_is_a_fault_and_not_a_crash(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = Authority(tmp_path, "ours").issue("a")
    settings = MqttSettings(host="localhost", identifier="a", tls=MqttTls(cert=cert, key=key))
    key.write_text("not a key")
    with caplog.at_level(logging.WARNING):
        async with linked(MqttBus(settings, Random(1)), wait_up=False) as a:
            await until(lambda: bool(caplog.records), "it is said")
    assert "cannot read the password or certificates" in caplog.text
    assert a.ups == 0


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"identifier": "a"}, "host"),
        ({"host": "a b", "identifier": "a"}, "host"),
        ({"host": "a..b", "identifier": "a"}, "host"),
        ({"host": "a", "identifier": ""}, "identifier"),
        ({"host": "a", "identifier": "a", "port": 0}, "port"),
        ({"host": "a", "identifier": "a", "password_file": __file__}, "password_file needs a username"),
        ({"host": "a", "identifier": "a", "username": "u", "password_file": "/nowhere"}, "password_file"),
        ({"host": "a", "identifier": "a", "tls": {"cert": __file__}}, "cert and key go together"),
        ({"host": "a", "identifier": "a", "tls": {"ca": "/nowhere"}}, "ca"),
        ({"host": "a", "identifier": "a", "keepalive": 5}, "keepalive"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        MqttSettings.model_validate(settings)
