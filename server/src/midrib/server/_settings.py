"""The configuration of the server: a TOML file, MIDRIB_ variables and flags, in rising precedence."""

from __future__ import annotations

import ipaddress
import sys
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

PREFIX = "MIDRIB_"


def _checked_device(device: str | None) -> str | None:
    """Return the name of a device. Raises ValueError for an unknown one."""
    if device is None:
        return None
    kind, colon, index = device.partition(":")
    if device in ("auto", "cpu", "cuda") or (kind == "cuda" and colon and index.isdecimal()):
        return device
    advice = "; a GPU is 'cuda'" if device.lower().startswith("gpu") else ""
    raise ValueError(f"got {device!r:.80}, expected 'auto', 'cpu', 'cuda' or 'cuda:' with a number{advice}")


class BackboneSettings(BaseModel):
    """One backbone to serve. Settings that are unset follow those of the server."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str
    """`namespace/name`, or a name that is unique in the registry."""
    aliases: tuple[str, ...] = ()
    """More names that requests may use, such as "clip"."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the loader."""
    device: str | None = None
    """As the server's `device`."""
    dtype: DType | None = None
    """As the server's `dtype`."""
    strict: bool | None = None
    """As the server's `strict`."""
    threads: int | None = Field(default=None, ge=1)
    """As the server's `threads`."""
    replicas: int | None = Field(default=None, ge=1)
    """As the server's `replicas`."""
    compile: str | None = None
    """As the server's `compile`."""
    cuda_graphs: bool | None = None
    """As the server's `cuda_graphs`."""
    pinned: bool = False
    """Never unload it to make room for another backbone."""

    _device_exists = field_validator("device")(_checked_device)


class Settings(BaseSettings):
    """Which backbones a server serves, on which address, and within which limits."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    backbones: tuple[BackboneSettings, ...] = ()
    """The backbones to load at start. A plain string is a name without arguments."""
    imports: tuple[str, ...] = ()
    """Modules to import first; they register backbones of your own."""
    host: str = "127.0.0.1"
    """The address to listen on."""
    port: int = Field(default=50051, ge=0, le=65535)
    """The gRPC port; 0 takes a free one."""
    front: Literal["asyncio", "grpcio"] = "asyncio"
    """The implementation of gRPC: Midrib's own on asyncio, or grpcio, which is slower."""
    fronts: int = Field(default=1, ge=1, le=64)
    """Processes that carry the gRPC connections; one engine serves their calls. More than 1 needs front "asyncio"."""
    http_port: int | None = Field(default=None, ge=0, le=65535)
    """The HTTP port on the same address; 0 takes a free one. If unset, HTTP is off."""
    http_token_ids: bool = False
    """Accept token ids over HTTP. Set it only if every caller uses the tokenizer of the backbone."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may call the HTTP port, such as "https://app.example.org"; "*" allows any."""
    console: bool = False
    """Serve the console, pages for people, on the HTTP port at /console/."""
    insecure: bool = False
    """Allow an address beyond the loopback without TLS and without tokens."""
    admin: bool = False
    """Allow LoadBackbone and UnloadBackbone on the main port."""
    admin_port: int | None = Field(default=None, ge=0, le=65535)
    """A separate loopback port for LoadBackbone and UnloadBackbone. If unset, there is none."""
    tokens: Path | None = None
    """A TOML file of tokens (see `midrib token`), read again on SIGHUP. If unset, calls need no token."""
    public_health: bool = True
    """Answer health checks without a token."""
    tls_certificate: Path | None = None
    """A PEM file with the certificate chain, read again when it changes. If unset, TLS is off."""
    tls_key: Path | None = None
    """A PEM file with the certificate's private key."""
    tls_client_ca: Path | None = None
    """A PEM file; clients must show a certificate signed by it (mutual TLS)."""
    device: str = "auto"
    """ "cpu", "cuda" (a replica on every GPU), "cuda:1", or "auto" (CUDA if there is any)."""
    dtype: DType = "float32"
    """The type that the forward pass computes in."""
    strict: bool = False
    """Compute every row alone, so that its bits never depend on the rows beside it. Slower."""
    threads: int | None = Field(default=None, ge=1)
    """Threads per CPU replica, shared by its parallel passes. If unset, the fastest measured count is used.

    With 1, the forward method of a module never runs in two threads at the same time.
    """
    replicas: int = Field(default=1, ge=1)
    """Replicas on each device. Replicas on one device share the weights, and on a CPU also the cores."""
    compile: str | None = None
    """The backend of torch.compile, such as "inductor"; loading takes longer. If unset, modules are not compiled."""
    cuda_graphs: bool = False
    """On a GPU, capture the usual batches at load and replay them."""
    tf32: bool = False
    """On a GPU, allow TF32 in float32 matrix products and convolutions, for the whole process."""
    workers: Literal["process", "thread"] = "process"
    """Where replicas compute: each in a process, which is replaced if it dies, or in threads of the server.

    A backbone that a new process cannot import (registered in a notebook, for example) always computes in a thread.
    """
    max_batch_s: float | None = Field(default=None, gt=0)
    """Seconds after which a worker process whose batch does not end is replaced. If unset, at least 30."""
    max_load_s: float = Field(default=900.0, gt=0)
    """Seconds after which a worker process that has not loaded its backbone is ended; the same again to warm up."""
    warm_up_s: float = Field(default=2.0, ge=0)
    """Seconds that a load may spend on warm-up batches of every usual size, the smaller ones first.

    On a CPU a load may spend the same time again on measuring how many passes run in parallel, and once more on the
    size of a micro-batch; on a busy machine up to three times as long. With 0 and a number of `threads` nothing is
    measured, so that the plan is the same after every load: whole batches, one pass at a time.
    """
    recalibrate_after_idle_s: float = Field(default=10.0, ge=0)
    """Seconds without any item after which a CPU's compute plan is measured again if the load found the machine busy.

    The plan is the number of threads, of parallel passes, and the size of micro-batches. A new plan is used if it is
    clearly faster. An item that arrives ends the measurement and waits for one pass at most. With 0, in strict mode,
    with `compile`, or with `warm_up_s = 0`, the first plan stays.
    """
    max_message_bytes: int = Field(default=64 * MEBI, ge=1024)
    """The largest message, in bytes, in either direction."""
    max_stream_bytes: int = Field(default=32 * MEBI, ge=1)
    """Bytes in flight per stream: decoded inputs and their embeddings. Above it, the stream is not read."""
    max_stream_items: int = Field(default=1024, ge=1)
    """Items in flight per stream. Above it, the stream is not read."""
    max_stream_age_s: float | None = Field(default=None, gt=0)
    """Seconds, 20 % more or less, after which a client is asked to open its stream again. If unset, never."""
    max_unread_s: float = Field(default=60.0, gt=0)
    """Seconds after which a stream whose client reads no results is closed, which frees its quota."""
    max_in_flight_bytes: int = Field(default=128 * MEBI, ge=1)
    """Bytes in flight in total: decoded inputs and their embeddings. Unary calls above it are refused, streams wait.

    One client alone may have as many; all clients together may have a sixteenth more, so that others still find room.
    The default holds four of the largest batches: one that computes, one that is staged, and two that wait. A single
    backbone has at most four of its largest inputs with their embeddings for each replica, and 8 MiB.
    """
    shared_memory: bool = True
    """Exchange tensors through shared memory with clients on this machine that run as the server's user (Linux)."""
    max_shared_memory_bytes: int = Field(default=256 * MEBI, ge=0)
    """Bytes of shared memory of all streams together, up to 24 MiB each. Further streams send their inputs in messages.

    A token's streams have at most its max_in_flight_bytes.
    """
    max_batch_rows: int = Field(default=1024, ge=1)
    """Rows per forward pass, and therefore per item."""
    max_batch_elements: int = Field(default=8 * MEBI, ge=1)
    """Elements (rows x elements of a row, padding included) per forward pass, and therefore per item."""
    max_delay_ms: float = Field(default=2.0, ge=0)
    """Milliseconds that a small batch waits for more items while requests arrive together; lone requests never wait."""
    max_text_chars: int = Field(default=MEBI, ge=1)
    """Characters per text. Tokens beyond the backbone's limit are cut off."""
    max_image_pixels: int = Field(default=89_478_485, ge=1)
    """Pixels per encoded image. Decoding takes up to 12 bytes a pixel in each of a few threads."""
    max_queue_items: int = Field(default=4096, ge=1)
    """Items of one client that may wait for one backbone. Above it, its unary calls are refused."""
    device_memory_bytes: int | None = Field(default=None, ge=1)
    """Bytes of weights per device; idle backbones that are not pinned make room. If unset, unlimited."""
    max_metadata_bytes: int = Field(default=16 * 1024, ge=1024)
    """Bytes of the headers of one call."""
    max_connection_streams: int = Field(default=1024, ge=1)
    """Concurrent calls per connection. Further calls wait at the client."""
    max_connection_idle_s: float = Field(default=3600.0, gt=0)
    """Seconds without a call after which a connection is closed."""
    max_connection_age_s: float | None = Field(default=None, gt=0)
    """Seconds after which a connection is asked to close; its calls then have drain_grace_s. If unset, never."""
    min_ping_interval_s: float = Field(default=5.0, ge=0)
    """Seconds between keepalive pings. A connection that pings more often several times is closed."""
    log_format: Literal["text", "json"] = "text"
    """The format of the log on stderr: lines for people, or one JSON object per line."""
    access_log: bool = False
    """Log every gRPC call and HTTP request on stderr: method, status, seconds, bytes, and the name of the token."""
    drain_grace_s: float = Field(default=30.0, ge=0)
    """Seconds that accepted work has to finish after SIGTERM."""

    _device_exists = field_validator("device")(_checked_device)

    @field_validator("backbones", mode="before")
    @classmethod
    def _names_are_backbones(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple({"name": entry} if isinstance(entry, str) else entry for entry in value)
        return value

    @model_validator(mode="after")
    def _aliases_are_unique(self) -> Settings:
        """Raise ValueError for an alias that is empty, has an @, or names two backbones."""
        aliases = [alias for backbone in self.backbones for alias in backbone.aliases]
        names = {backbone.name for backbone in self.backbones}
        for alias in aliases:
            if not alias or "@" in alias or aliases.count(alias) > 1 or alias in names:
                raise ValueError(f"alias {alias!r} is empty, has an @, or names two backbones: choose another")
        return self

    @model_validator(mode="after")
    def _fronts_can_run(self) -> Settings:
        """Raise ValueError for several fronts where only one can run."""
        if self.fronts > 1 and self.front != "asyncio":
            raise ValueError(
                f"fronts is {self.fronts}, and front {self.front!r} runs in the server's process only: "
                "set front to 'asyncio', or fronts to 1"
            )
        if self.fronts > 1 and sys.platform != "linux":
            raise ValueError(f"fronts is {self.fronts}, and more than one needs Linux: set fronts to 1")
        return self

    @model_validator(mode="after")
    def _nothing_is_open_by_accident(self) -> Settings:
        """Raise ValueError for incomplete TLS settings, and for a server that other machines reach without a check."""
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError(
                f"tls_key is {self.tls_key} and tls_certificate {self.tls_certificate}, which go together: give both"
            )
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError(
                f"tls_client_ca = {self.tls_client_ca} needs tls_certificate and tls_key: no mutual TLS without TLS"
            )
        protected = self.insecure or self.tls_certificate is not None or self.tokens is not None
        if not protected and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} is reachable from other machines without TLS or tokens: "
                "keep 127.0.0.1, set tls_certificate and tls_key, or tokens, or pass --insecure if that network "
                "is trusted"
            )
        identified = self.insecure or self.tls_client_ca is not None or self.tokens is not None
        if self.admin and not identified and not is_loopback(self.host):
            raise ValueError(
                f"admin lets anyone who reaches {self.host!r} load and unload, and TLS alone identifies no client: "
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


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
