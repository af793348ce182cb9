"""The server's one configuration: a TOML file, MIDRIB_ variables and flags, the later over the earlier."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

MEBI = 2**20
DType = Literal["float32", "float16", "bfloat16", "float64"]


class BackboneSettings(BaseModel):
    """One backbone to serve. What is absent follows the server's own settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """`namespace/name`, or a name that is unique in the registry."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """The loader's arguments."""
    device: str | None = None
    dtype: DType | None = None
    strict: bool | None = None
    threads: int | None = Field(default=None, ge=1)
    replicas: int | None = Field(default=None, ge=1)
    compile: str | None = None
    cuda_graphs: bool | None = None
    pinned: bool = False
    """Never unloaded to make room for another."""


class Settings(BaseSettings):
    """What a server serves, where, and within which limits."""

    model_config = SettingsConfigDict(env_prefix="MIDRIB_", env_nested_delimiter="__", extra="forbid", frozen=True)

    backbones: tuple[BackboneSettings, ...] = ()
    """What to load at start. A plain string stands for its name."""
    imports: tuple[str, ...] = ()
    """Modules to import first: they register backbones of your own."""
    host: str = "127.0.0.1"
    """The address to listen on."""
    port: int = Field(default=50051, ge=0, le=65535)
    """The port to listen on; 0 lets the system choose."""
    http_port: int | None = Field(default=None, ge=0, le=65535)
    """The port for HTTP on the same address; no HTTP where absent, 0 lets the system choose."""
    insecure: bool = False
    """Allow an address other than the loopback without TLS or token."""
    admin: bool = False
    """Allow LoadBackbone and UnloadBackbone on the main port."""
    admin_port: int | None = Field(default=None, ge=0, le=65535)
    """A loopback port of its own for LoadBackbone and UnloadBackbone; none where absent."""
    tokens: Path | None = None
    """A TOML file of tokens (see `midrib token`), read again on SIGHUP; no token is asked for where absent."""
    public_health: bool = True
    """Answer health without a token."""
    tls_certificate: Path | None = None
    """A PEM file, the certificate chain; read again when it changes. No TLS where absent."""
    tls_key: Path | None = None
    """A PEM file, the certificate's private key."""
    tls_client_ca: Path | None = None
    """A PEM file; clients must show a certificate that it signed (mutual TLS)."""
    device: str = "auto"
    """"cpu", "cuda" (a replica on every GPU), "cuda:1", or "auto"."""
    dtype: DType = "float32"
    """What the forward pass computes in."""
    strict: bool = False
    """Run every row alone, so that its bits never depend on the rows beside it; slower."""
    threads: int | None = Field(default=None, ge=1)
    """Of a CPU replica, all its passes together; as many as its cores where absent, if measured to be worth it.

    With 1, the forward of a module that keeps something between its lines never runs twice at a time.
    """
    replicas: int = Field(default=1, ge=1)
    """On each device; those of one device share the weights, and those of a CPU its cores."""
    compile: str | None = None
    """The backend of torch.compile ("inductor", say), with which a load takes longer; not compiled where absent."""
    cuda_graphs: bool = False
    """On a GPU, capture the usual batches at load and replay them."""
    tf32: bool = False
    """On a GPU, let float32 matrix products and convolutions round to TF32; of the whole process."""
    workers: Literal["thread", "process"] = "thread"
    """Where replicas compute: in threads of the server, or each in a process that is replaced if it dies.

    A backbone that a fresh process cannot import (registered in a notebook, say) computes in a thread in any case.
    """
    max_batch_s: float | None = Field(default=None, gt=0)
    """A worker process whose batch takes longer is replaced; by default 30 s, or more if the backbone is slow."""
    warm_up_s: float = Field(default=2.0, ge=0)
    """How long a load may spend on batches of every usual size, the smaller ones first.

    On a CPU it may spend as long on measuring how many passes to compute side by side, and again on how many rows
    each has; with 0, batches stay whole.
    """
    max_message_bytes: int = Field(default=64 * MEBI, ge=1024)
    """Of one message, in either direction."""
    max_stream_bytes: int = Field(default=32 * MEBI, ge=1)
    """Of one stream's items in flight, decoded, and their embeddings; no more is read until some are answered."""
    max_stream_items: int = Field(default=1024, ge=1)
    """Of one stream's items in flight."""
    max_unread_s: float = Field(default=60.0, gt=0)
    """A stream whose client reads no result for so long is ended, and what it held of the limits is free again."""
    max_in_flight_bytes: int = Field(default=128 * MEBI, ge=1)
    """Of all items in flight, decoded, and their embeddings: a unary call over it is refused, a stream waits.

    Four of the largest batches: one computes, one is staged, and twice as much waits.
    """
    max_batch_rows: int = Field(default=1024, ge=1)
    """Of one forward pass, and so of one item."""
    max_batch_elements: int = Field(default=8 * MEBI, ge=1)
    """Rows x elements (padding included) of one forward pass, and so of one item."""
    max_text_chars: int = Field(default=MEBI, ge=1)
    """Of one text; its tokens beyond the backbone's own limit are cut off."""
    max_image_pixels: int = Field(default=89_478_485, ge=1)
    """Of one encoded image; decoding it takes up to 12 bytes a pixel, on each of a few threads."""
    max_queue_items: int = Field(default=4096, ge=1)
    """Items that wait for one backbone; the next unary call is refused."""
    device_memory_bytes: int | None = Field(default=None, ge=1)
    """Of all weights on one device; idle backbones that are not pinned leave for new ones. Unbounded where absent."""
    max_metadata_bytes: int = Field(default=16 * 1024, ge=1024)
    """Of one call's headers."""
    max_connection_streams: int = Field(default=1024, ge=1)
    """Calls of one connection at a time; more wait at the client."""
    max_connection_idle_s: float = Field(default=3600.0, gt=0)
    """A connection without calls is closed after this."""
    max_connection_age_s: float | None = Field(default=None, gt=0)
    """A connection is asked to go after this, with drain_grace_s for its calls; never where absent."""
    min_ping_interval_s: float = Field(default=5.0, ge=0)
    """Keepalive pings that come more often than this, a few times over, close their connection."""
    log_format: Literal["text", "json"] = "text"
    """Of what `midrib serve` logs on stderr: lines for people, or a JSON object a line."""
    drain_grace_s: float = Field(default=30.0, ge=0)
    """How long a SIGTERM lets accepted work finish."""

    @field_validator("backbones", mode="before")
    @classmethod
    def _names_are_backbones(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple({"name": entry} if isinstance(entry, str) else entry for entry in value)
        return value

    @model_validator(mode="after")
    def _nothing_is_open_by_accident(self) -> Settings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together: give both, or neither")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key: there is no mutual TLS without TLS")
        protected = self.insecure or self.tls_certificate is not None or self.tokens is not None
        if not protected and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} is reachable from other machines, and nothing protects it: "
                "keep 127.0.0.1, set tls_certificate and tls_key, or tokens, or pass --insecure if that network "
                "is trusted"
            )
        known = self.insecure or self.tls_client_ca is not None or self.tokens is not None
        if self.admin and not known and not is_loopback(self.host):
            raise ValueError(
                f"admin lets whoever reaches {self.host!r} load and unload, and TLS alone asks nobody who they are: "
                "set tokens or tls_client_ca, use admin_port, which is on the loopback, or pass --insecure if that "
                "network is trusted"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags over variables over the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(config: Path | None = None, **flags: Any) -> Settings:
    """The effective settings; a flag that is None was not given.

    Raises FileNotFoundError for a config file that is not there, pydantic.ValidationError (a ValueError) for a
    wrong value.
    """
    if config is not None and not config.is_file():
        raise FileNotFoundError(f"no config file at {config}")

    class ConfiguredSettings(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    return ConfiguredSettings(**{name: value for name, value in flags.items() if value is not None})


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
