"""Where the broker is and who we are, as both daemons' configurations state it. Imports no MQTT library."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, FilePath, model_validator


class MqttTls(BaseModel):
    """Certificates, PEM. The broker's name is always verified; TLS 1.2 or later."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ca: FilePath | None = None
    """Who signed the broker's certificate; None takes the system's authorities."""
    cert: FilePath | None = None
    key: FilePath | None = None

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key go together: give both or neither")
        return self


class MqttSettings(BaseModel):
    """Where the broker is, who we are, and the bounds of the link."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9_:-]+(\.[A-Za-z0-9_-]+)*\.?$")]
    port: Annotated[int, Field(ge=1, le=65_535)] = 1_883
    identifier: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:-]+$")]
    """The MQTT client id: fixed, and one per daemon. Two clients with one id throw each other out."""
    username: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    password_file: FilePath | None = None
    """Read at every connect; surrounding white space is not part of the password."""
    tls: MqttTls | None = None
    keepalive_s: Annotated[int, Field(ge=1, le=60)] = 5
    """A silent broker is noticed within twice this."""
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    """The longest wait for any acknowledgement before the link counts as lost."""
    backoff_base_s: Annotated[float, Field(gt=0, le=60)] = 0.5
    backoff_cap_s: Annotated[float, Field(gt=0, le=600)] = 15.0
    inbox_messages: Annotated[int, Field(ge=1, le=1_000_000)] = 8_192
    inbox_bytes: Annotated[int, Field(ge=1_024)] = 64 * 2**20
    outbox_messages: Annotated[int, Field(ge=1, le=1_000_000)] = 16_384
    outbox_bytes: Annotated[int, Field(ge=1_024)] = 64 * 2**20

    @model_validator(mode="after")
    def _password_has_a_user(self) -> Self:
        if self.password_file is not None and self.username is None:
            raise ValueError("password_file needs a username")
        return self


@dataclass(frozen=True, slots=True)
class Secrets:
    """What is read from files anew for every connection, so that a renewed certificate needs no restart."""

    password: str | None
    tls: ssl.SSLContext | None


def read_secrets(settings: MqttSettings) -> Secrets:
    """Blocks on files. Raises `OSError` or `ValueError` where one is missing or is not what it should be."""
    password = settings.password_file.read_text(encoding="utf-8").strip() if settings.password_file else None
    if settings.tls is None:
        return Secrets(password, None)
    context = ssl.create_default_context(cafile=settings.tls.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.tls.cert is not None:
        context.load_cert_chain(settings.tls.cert, settings.tls.key)
    return Secrets(password, context)
