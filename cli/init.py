"""`wattshift init`: certificates, tokens and commented configurations for a new broker, controller or site."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli.client import ApiError

if TYPE_CHECKING:
    from controller.identities import Authority

_SITE: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_RESERVED: Final = frozenset({"controller", "broker", "prices", "ca"})

init = typer.Typer(
    help="Make certificates, tokens and a commented configuration. Nothing that exists is overwritten.",
    no_args_is_help=True,
)

Folder = Annotated[Path, typer.Option("--dir", help="where the authority and all identities live; keep it safe")]
Renew = Annotated[bool, typer.Option("--renew", help="make a new certificate in place of the old one")]
Unit = Annotated[
    bool, typer.Option("--unit", help="a configuration for the package's systemd unit: its paths to secrets and state")
]
DEFAULT_FOLDER: Final = Path("wattshift-identities")


@init.command("broker")
def broker(
    host: Annotated[list[str], typer.Argument(help="names and addresses that clients will call it by")],
    folder: Folder = DEFAULT_FOLDER,
    renew: Renew = False,
) -> None:
    """The broker's certificate: copy ca.pem, broker.pem and broker.key to its host."""
    identity = _issue(folder, "broker", renew, hosts=tuple(host))
    typer.echo(f"{identity}: for Mosquitto as in deploy/mosquitto/wattshift.conf")


@init.command("controller")
def controller(
    folder: Folder = DEFAULT_FOLDER,
    broker_host: Annotated[str, typer.Option("--broker", help="the broker's name or address")] = "localhost",
    renew: Renew = False,
    unit: Unit = False,
) -> None:
    """The controller's certificate, API token and commented configuration."""
    told = _issue(folder, "controller", renew)
    token, config = folder / "controller.token", folder / "controller.toml"
    if not token.exists():
        _write_secret(token, f"{secrets.token_hex(32)}\n")
    text = _with_broker(_priced_by_message(_sample("controller")), broker_host, "controller")
    if unit:
        text = _handed_over(text, "wattshift-controller")
    _write_config(config, text)
    told = f"{told}, {token.name} and {config.name}"
    check = f"check with wattshift-controller --config {config} --check"
    typer.echo(f"{told}: {_placed('controller', config, token.name) if unit else check}")


@init.command("site")
def site(
    name: Annotated[str, typer.Argument(help="the site's id: lower case letters, digits, - and _")],
    folder: Folder = DEFAULT_FOLDER,
    broker_host: Annotated[str, typer.Option("--broker", help="the broker's name or address")] = "localhost",
    renew: Renew = False,
    unit: Unit = False,
) -> None:
    """A site's certificate and commented agent configuration: edit it, then copy the site's files to its host."""
    if not _SITE.fullmatch(name) or name in _RESERVED:
        raise ApiError(f"{name}: a site id is lower case letters, digits, - and _, and none of {sorted(_RESERVED)}", 2)
    told = _issue(folder, name, renew)
    config = folder / f"{name}.agent.toml"
    text = _sample("agent").replace('id = "north" ', f'id = "{name}" ', 1).replace('"North yard"', f'"{name}"', 1)
    text = _with_broker(text, broker_host, name)
    if unit:
        text = _handed_over(text, "wattshift-agent")
    _write_config(config, text)
    check = f"then check with wattshift-agent --config {config} --check"
    typer.echo(f"{told} and {config.name}: edit it, {_placed('agent', config) if unit else check}")


def _issue(folder: Path, name: str, renew: bool, hosts: tuple[str, ...] = ()) -> str:
    """Issue an identity; what was written, in words."""
    try:
        from controller.identities import IdentityError
    except ImportError:
        raise ApiError("needs the package cryptography: pip install 'wattshift[tls]'", 1) from None
    now = datetime.now(UTC)
    try:
        identity = _authority(folder, now).issue(name, now, hosts=hosts, renew=renew)
    except (IdentityError, OSError) as error:
        raise ApiError(str(error), 1) from None
    return f"{identity.cert} (until {identity.expires:%Y-%m-%d}), {identity.key.name}, ca.pem"


def _authority(folder: Path, now: datetime) -> Authority:
    from controller.identities import authority

    return authority(folder, now)


def _sample(daemon: str) -> str:
    return resources.files("deploy.config").joinpath(f"{daemon}.sample.toml").read_text(encoding="utf-8")


def _with_broker(text: str, host: str, name: str) -> str:
    """The sample with its [mqtt] table for TLS and a certificate."""
    table = (
        f'[mqtt]\nhost = "{host}"\nport = 8883\nidentifier = "wattshift-{name}"\n\n'
        '[mqtt.tls]                              # the certificate is the user name at the broker\nca = "ca.pem"\n'
        f'cert = "{name}.pem"\nkey = "{name}.key"\n\n'
    )
    return re.sub(r"\[mqtt\]\n.*?(?=\n\[http\])", lambda _: table.rstrip("\n") + "\n", text, count=1, flags=re.DOTALL)


def _priced_by_message(text: str) -> str:
    """The sample's replayed price file, which nobody has yet, gives way to prices over the broker."""
    told = 'kind = "mqtt"                           # PriceMessage on wattshift/v1/market/houston/price; or:\n'
    return text.replace('kind = "csv"\npath = "prices.csv"\ninterval_s = 900\n', told + '# kind = "csv"\n', 1)


def _handed_over(text: str, unit: str) -> str:
    """With secrets where systemd hands them to the unit, and state where the unit may write."""
    there = f"/run/credentials/{unit}.service/secrets_"
    text = re.sub(r'^(ca|cert|key|token_file)( *= )"([^"/]+)"', rf'\1\2"{there}\3"', text, flags=re.MULTILINE)
    text = re.sub(r'^(state_file = )"([^"/]+)"', rf'\1"/var/lib/{unit}/\2"', text, flags=re.MULTILINE)
    return re.sub(r'^(control_dir = )"([^"/]+)"', r'\1"/run/wattshift/\2"', text, flags=re.MULTILINE)


def _placed(daemon: str, config: Path, *more: str) -> str:
    files = ", ".join(("certificate", "key", "ca.pem", *more))
    return f"copy {config.name} to /etc/wattshift/{daemon}.toml; {files} to /etc/wattshift/secrets/{daemon}/"


def _write_config(path: Path, text: str) -> None:
    if not path.exists():
        path.write_text(text, encoding="utf-8")


def _write_secret(path: Path, text: str) -> None:
    from controller.identities import write_secret

    write_secret(path, text.encode())
