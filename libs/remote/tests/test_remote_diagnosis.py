"""gRPC's texts, copied from its errors, and the sentence that each becomes."""

from __future__ import annotations

import pytest

from midrib.remote._connect.diagnosis import UNREACHABLE, broken

FAILING = "connections to all backends failing; last error: "


@pytest.mark.parametrize(
    ("text", "reason", "said"),
    [
        pytest.param(
            FAILING + "UNKNOWN: ipv4:127.0.0.1:9: Failed to connect to remote host: Connection refused",
            "NO_SERVER",
            "no server answers at gpu-box:1: start one with `midrib serve`",
            id="nobody-listens",
        ),
        pytest.param(
            "errors resolving no-such-host.invalid:1: [field:hostname lookup error:Domain name not found]",
            "NO_SERVER",
            "gpu-box:1 cannot be resolved: check the name",
            id="no-such-name",
        ),
        pytest.param(
            FAILING + "UNKNOWN: Tls handshake failed: SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED: unable to get issuer",
            "TLS_FAILED",
            "not signed by the authorities trusted here: pass tls=",
            id="unknown-authority",
        ),
        pytest.param(
            FAILING + "UNKNOWN: Custom verification check failed: UNAUTHENTICATED: Hostname Verification Check failed.",
            "TLS_FAILED",
            "issued to another name",
            id="another-name",
        ),
        pytest.param(
            FAILING + "UNKNOWN: Tls handshake failed: SSL_ERROR_SSL: WRONG_VERSION_NUMBER: Invalid certificate context",
            "TLS_FAILED",
            "does not speak TLS: use grpc://",
            id="a-plain-server",
        ),
        pytest.param(
            FAILING + "UNAVAILABLE: ipv4:127.0.0.1:44131: Socket closed",
            "CLOSED_AT_ONCE",
            r"it may want TLS \(grpcs://\), or a certificate of this client",
            id="closed-at-once",
        ),
        pytest.param(
            FAILING + "UNKNOWN: ipv4:127.0.0.1:33949: HTTP proxy returned response code 403",
            "PROXY",
            "a proxy before gpu-box:1 does not let the call through",
            id="proxy-refuses",
        ),
        pytest.param(
            FAILING + "UNAVAILABLE: Failed parsing HTTP/2 (Expected SETTINGS frame as the first frame, got type 79)",
            "PROXY",
            "gpu-box:1 is not a gRPC server",
            id="http-1",
        ),
        pytest.param(
            "Received http2 header with status: 404",
            "PROXY",
            "gpu-box:1 is not a gRPC server, or is a proxy that does not pass gRPC",
            id="no-such-page",
        ),
    ],
)
def test_the_error_of_a_broken_connection_names_its_cause(text: str, reason: str, said: str) -> None:
    """The message names the cause and the remedy, with gRPC's text; waiting does not help."""
    error = broken(text, "gpu-box:1")
    assert error.reason == reason
    assert reason in UNREACHABLE
    with pytest.raises(ConnectionError, match=said):
        raise error
    assert text in str(error)


@pytest.mark.parametrize(
    "text",
    [
        *(f"Received http2 header with status: {status}" for status in (429, 502, 503, 504)),
        "Application metadata not set. Ping /ray.serve.RayServeAPIService/ListApplications for available applications.",
        "Stream removed (RST_STREAM (Received RST_STREAM with error code 11))",
    ],
)
def test_a_proxys_passing_refusal_does_not_mean_that_nobody_is_there(text: str) -> None:
    """The call is made again until its deadline."""
    error = broken(text, "gpu-box:1")
    assert error.reason == "PROXY_BUSY"
    assert error.reason not in UNREACHABLE


def test_a_proxys_limit_is_named() -> None:
    """Waiting does not help, and the error says which setting does."""
    error = broken("Received http2 header with status: 413", "gpu-box:1")
    assert (error.reason, "client_max_body_size" in str(error)) == ("PROXY_LIMIT", True)
    assert error.reason in UNREACHABLE


def test_a_connection_that_broke_later_may_be_made_again() -> None:
    """Nothing is concluded from a connection that worked."""
    assert broken("Socket closed", "gpu-box:1").reason == "CONNECTION_LOST"


def test_a_proxy_in_the_environment_is_pointed_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have refused the connection."""
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:9")
    assert "grpc_proxy is set: set no_proxy" in str(broken("Failed to connect: Connection refused", "gpu-box:1"))
