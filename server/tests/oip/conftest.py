"""Clients of the inference service."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from midrib.server.testing import RunningServer
from server.tests.oip.oip_client import Inference


@pytest.fixture(scope="module")
def inference(channel: grpc.Channel) -> Inference:
    """A client of the server of `gate` and `linear`."""
    return Inference(channel)


@pytest.fixture(scope="module")
def media_channel(media_server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(media_server.address) as opened:
        yield opened


@pytest.fixture(scope="module")
def media(media_channel: grpc.Channel) -> Inference:
    """A client of the server of `picture` and `words`."""
    return Inference(media_channel)
