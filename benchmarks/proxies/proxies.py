"""The proxies: nginx, HAProxy, Envoy and Traefik, each with its snippet of docs/proxies.md."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from setup import ROOT, Process, free_port

SETTINGS: Final = ("snippet", "defaults", "tls", "small")
_NGINX: Final = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{
}}
http {{
    access_log off;
    client_body_temp_path {folder}/client_body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{snippet}
}}
"""


class _Kind(NamedTuple):
    """How one proxy is started and configured.

    blocks: the names of its blocks in docs/proxies.md.  command: with {folder}, which holds the blocks as files.
    not_default: patterns of the settings that differ from the proxy's defaults, and the defaults.
    small: patterns of the snippet, and their replacements: four streams on a connection, and time-outs of two seconds.
    tls: the text that TLS replaces, and its replacement, which stands in docs/proxies.md as well.
    """

    blocks: tuple[str, ...]
    command: tuple[str, ...]
    version: tuple[str, ...]
    not_default: dict[str, str]
    small: dict[str, str]
    tls: dict[str, str]


_KINDS: Final = {
    "nginx": _Kind(
        ("nginx",),
        ("nginx", "-c", "{folder}/nginx"),
        ("nginx", "-v"),
        {r" *(client_max_body_size|client_body_timeout|grpc_\w+_timeout).*\n": ""},
        {r"timeout 1h": "timeout 2s", r"(client_max_body_size)": r"http2_max_concurrent_streams 4;\n    \1"},
        {
            "listen 50051 http2;": "listen 50051 ssl http2;\n"
            "    ssl_certificate /etc/midrib-tls/tls.crt;\n"
            "    ssl_certificate_key /etc/midrib-tls/tls.key;"
        },
    ),
    "haproxy": _Kind(
        ("haproxy",),
        ("haproxy", "-f", "{folder}/haproxy"),
        ("haproxy", "-v"),
        # HAProxy has no default time-outs: these are Debian's.
        {r"timeout (client|server) 1h": r"timeout \1 50s", r" *option redispatch.*\n": ""},
        {
            r"timeout (client|server) 1h": r"timeout \1 2s",
            r"\Adefaults": "global\n    tune.h2.max-concurrent-streams 4\ndefaults",
        },
        {"bind :50051 proto h2": "bind :50051 ssl crt /etc/midrib-tls/tls.pem alpn h2"},
    ),
    "envoy": _Kind(
        ("envoy.yaml",),
        ("envoy", "-c", "{folder}/envoy.yaml", "--use-dynamic-base-id", "--log-level", "error", "--concurrency", "2"),
        ("envoy", "--version"),
        {r" *(stream_idle_timeout|common_lb_config|timeout: 0s).*\n": ""},
        {r"( *)(stream_idle_timeout:) 3600s": r"\1\2 2s\n\1http2_protocol_options: {max_concurrent_streams: 4}"},
        {"      filter_chains:\n        - filters:\n": """\
      filter_chains:
        - transport_socket:
            name: envoy.transport_sockets.tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              common_tls_context:
                alpn_protocols: [h2]
                tls_certificates:
                  - certificate_chain: {filename: /etc/midrib-tls/tls.crt}
                    private_key: {filename: /etc/midrib-tls/tls.key}
          filters:
"""},
    ),
    "traefik": _Kind(
        ("traefik.yaml", "midrib.yaml"),
        ("traefik", "--configFile={folder}/traefik.yaml"),
        ("traefik", "version"),
        {r" *transport:\n *respondingTimeouts.*\n": ""},
        {r"( *)(transport:)": r"\1http2: {maxConcurrentStreams: 4}\n\1\2", r"readTimeout: 0": "readTimeout: 2s"},
        {"http:\n  routers:\n    midrib: {rule: PathPrefix(`/`), service: midrib}\n": """\
tls:
  certificates:
    - {certFile: /etc/midrib-tls/tls.crt, keyFile: /etc/midrib-tls/tls.key}
http:
  routers:
    midrib: {rule: PathPrefix(`/`), service: midrib, tls: {}}
"""},
    ),
}
PROXIES: Final = tuple(_KINDS)


def version(name: str) -> str:
    """Return a proxy's name and version."""
    done = subprocess.run(_KINDS[name].version, capture_output=True, text=True, check=True)  # noqa: S603
    number = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    return f"{name} {number.group() if number else '?'}"


def make_certificate(folder: Path) -> None:
    """Write tls.crt and tls.key, which are for 127.0.0.1, and tls.pem with both."""
    key, certificate = folder / "tls.key", folder / "tls.crt"
    subject = ["-subj", "/CN=midrib", "-addext", "subjectAltName=IP:127.0.0.1"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command = ["openssl", "req", "-x509", *curve, *subject, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603
    (folder / "tls.pem").write_text(certificate.read_text() + key.read_text())


class Proxy(Process):
    """A proxy in front of servers, given by their addresses.

    settings: "snippet" for that of docs/proxies.md, "defaults" without its settings, "tls" for TLS at the proxy,
    "small" for few streams and short time-outs.
    """

    def __init__(self, name: str, servers: list[str], settings: str, folder: Path) -> None:
        super().__init__()
        kind = _KINDS[name]
        self._hosts = servers
        self._listener = f"127.0.0.1:{free_port()}"
        self.address = f"grpcs://{self._listener}" if settings == "tls" else self._listener
        self.roots = folder / "tls.crt" if settings == "tls" else None
        self._folder = folder / f"{name}-{settings}"
        self._folder.mkdir()
        make = _MAKERS[settings]
        for block in kind.blocks:
            text = self._at_these_addresses(make(kind, _block(block)), folder)
            (self._folder / block).write_text(text)
        self._command = [part.format(folder=self._folder) for part in kind.command]

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(self._command, text=True, stdout=log, stderr=log)  # noqa: S603
        host, _, port = self._listener.rpartition(":")
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(f"{self._command[0]} ended: {(self._folder / 'log').read_text()[-2000:]}")
            with suppress(OSError), socket.create_connection((host, int(port))):
                return
            time.sleep(0.05)

    def _at_these_addresses(self, text: str, folder: Path) -> str:
        port = self._listener.rpartition(":")[2]
        for index, server in enumerate(self._hosts, 1):
            text = text.replace(f"gpu-{index}:50051", server)
            text = text.replace(
                f"address: gpu-{index}, port_value: 50051",
                f"address: 127.0.0.1, port_value: {server.rpartition(':')[2]}",
            )
        for before in ("listen 50051", "bind :50051", "address: :50051"):
            text = text.replace(before, f"{before[:-6]} {self._listener}")
        text = text.replace("address: 0.0.0.0, port_value: 50051", f"address: 127.0.0.1, port_value: {port}")
        text = text.replace("/etc/midrib-tls/", f"{folder}/").replace("/etc/traefik/", f"{self._folder}/")
        return _NGINX.format(folder=self._folder, snippet=text) if "grpc_pass" in text else text


def _defaults(kind: _Kind, text: str) -> str:
    for pattern, default in kind.not_default.items():
        text = re.sub(pattern, default, text)
    return text


def _small(kind: _Kind, text: str) -> str:
    for pattern, replacement in kind.small.items():
        text = re.sub(pattern, replacement, text)
    return text


def _tls(kind: _Kind, text: str) -> str:
    page = (ROOT / "docs" / "proxies.md").read_text()
    for before, after in kind.tls.items():
        if after not in page:
            raise ValueError(f"docs/proxies.md does not show how to set TLS: expected {after!r}")
        text = text.replace(before, after)
    return text


def _snippet(_: _Kind, text: str) -> str:
    return text


_MAKERS: Final[dict[str, Callable[[_Kind, str], str]]] = {
    "snippet": _snippet,
    "defaults": _defaults,
    "tls": _tls,
    "small": _small,
}


def _block(name: str) -> str:
    """Return the block of docs/proxies.md in a language, or with a title."""
    fence = f'yaml title="{name}"' if name.endswith(".yaml") else name
    match = re.search(rf"```{fence}\n(.*?)```", (ROOT / "docs" / "proxies.md").read_text(), re.S)
    if match is None:
        raise ValueError(f"docs/proxies.md has no block ```{fence}")
    return match.group(1)
