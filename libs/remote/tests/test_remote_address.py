"""Addresses and URLs are split, or refused with a sentence that says how to write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from midrib.remote._connect.address import Tls, endpoint_from, split_url
from midrib.wire import InvalidInputError


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        pytest.param("gpu-box:4000", ("gpu-box:4000",), id="plain"),
        pytest.param("gpu-box", ("gpu-box:50051",), id="default-port"),
        pytest.param("grpc://a:1,b,c:3", ("a:1", "b:50051", "c:3"), id="several"),
        pytest.param("[::1]:4000", ("[::1]:4000",), id="ipv6"),
        pytest.param("[::1]", ("[::1]:50051",), id="ipv6-default-port"),
        pytest.param("grpc://a:1/", ("a:1",), id="trailing-slash"),
    ],
)
def test_an_address_names_every_server(text: str, addresses: tuple[str, ...]) -> None:
    """host:port, a scheme before it, several by commas; 50051 where no port is given."""
    assert endpoint_from(text).addresses == addresses


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("http://a:1", "scheme 'http': use grpc://", id="scheme"),
        pytest.param("a:port", "not host:port", id="port-word"),
        pytest.param("a:0", "not host:port", id="port-zero"),
        pytest.param("a:1,,b:2", "not host:port", id="empty-host"),
        pytest.param("", "not host:port", id="empty"),
        pytest.param("::1", r"write an IPv6 address as \[::1\]:50051", id="ipv6 without brackets"),
        pytest.param("fe80::1:5", "several colons", id="ipv6 and a port without brackets"),
        pytest.param("a:1?connections=0", "'connections=0', expected connections=1 to 64", id="no-connections"),
        pytest.param("a:1?connections=65", "expected connections=1 to 64", id="too-many-connections"),
        pytest.param("a:1?connections=two", "expected connections=1 to 64", id="connections-word"),
        pytest.param("a:1?timeout=3", "'timeout=3', expected connections=.*: pass everything else as", id="query"),
    ],
)
def test_an_address_that_cannot_be_read_is_refused(text: str, said: str) -> None:
    """The error shows what to write instead."""
    with pytest.raises(InvalidInputError, match=said):
        endpoint_from(text)


@pytest.mark.parametrize("address", ["a:1,b:2", "grpc://a:1,b:2", "grpcs://a:1,b:2"])
def test_an_address_may_ask_for_several_connections(address: str) -> None:
    """Of each of its hosts; one by default."""
    endpoint = endpoint_from(f"{address}?connections=3")
    assert (endpoint.addresses, endpoint.connections) == (("a:1", "b:2"), 3)
    assert endpoint_from(address).connections == 1


def test_a_url_asks_for_several_connections_behind_the_name() -> None:
    """As the arguments of a local backbone's loader follow its name."""
    assert split_url("grpc://a:1/n/m?connections=3") == ("grpc://a:1?connections=3", "n/m")


def test_the_scheme_decides_about_tls() -> None:
    """grpcs:// is TLS by the system's roots, grpc:// is not."""
    assert (endpoint_from("grpcs://a:1").tls, endpoint_from("grpc://a:1").tls) == (Tls(), None)


def test_roots_come_from_a_file(tmp_path: Path) -> None:
    """tls= may name a PEM file, which also turns TLS on."""
    (tmp_path / "roots.pem").write_bytes(b"PEM")
    assert endpoint_from("a:1", tls=tmp_path / "roots.pem").tls == Tls(tmp_path / "roots.pem")


def test_a_missing_file_is_an_error_at_construction(tmp_path: Path) -> None:
    """The error comes before any call."""
    with pytest.raises(FileNotFoundError, match=r"roots\.pem"):
        endpoint_from("a:1", tls=tmp_path / "roots.pem")


def test_contradictory_tls_is_refused() -> None:
    """grpcs:// together with tls=False is a mistake, not a preference."""
    with pytest.raises(InvalidInputError, match="tls=False forbids it"):
        endpoint_from("grpcs://a:1", tls=False)


def test_the_token_defaults_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """$MIDRIB_TOKEN stands in for token=, which wins over it, and neither shows in the repr."""
    monkeypatch.setenv("MIDRIB_TOKEN", "from-environment")
    endpoints = (endpoint_from("a:1"), endpoint_from("a:1", token="given"))
    assert [endpoint.token for endpoint in endpoints] == ["from-environment", "given"]
    assert "from-environment" not in repr(endpoints[0])


def test_a_url_holds_the_backbones_name() -> None:
    """The name begins after the address and may hold slashes."""
    assert split_url("grpc://a:1,b:2/image/classification/timm/x") == (
        "grpc://a:1,b:2",
        "image/classification/timm/x",
    )


@pytest.mark.parametrize("url", ["grpc://a:1", "grpc://a:1/", "a:1/name", "grpc:///name"])
def test_a_url_without_a_name_is_refused(url: str) -> None:
    """The client does not guess a backbone."""
    with pytest.raises(InvalidInputError, match="write grpc://host:port/namespace/name"):
        split_url(url)
