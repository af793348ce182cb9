"""The load of a server: the share of the time that its devices compute, and the seconds that wait."""

from __future__ import annotations

import numpy as np
import pytest

from midrib.registry import Registry
from midrib.remote import Client
from midrib.server._observability.load import Load, LoadMeter
from midrib.server.testing import serving


def test_the_busy_share_is_of_the_time_since_the_last_reading(test_registry: Registry) -> None:
    """Each reading counts the batches since the one before."""
    now = 0.0
    with serving("gate", registry=test_registry) as running, Client(running.address) as client:
        catalogue = running.server.catalogue
        meter = LoadMeter(catalogue.served, clock=lambda: now)
        meter.read()
        computed_s = catalogue.served()[0].totals.compute_s
        client.embed("gate", np.ones((1, 2), np.float32))
        computed_s = catalogue.served()[0].totals.compute_s - computed_s
        now = 10.0
        assert meter.read().busy_share == pytest.approx(computed_s / 10)
        now = 20.0
        assert meter.read() == Load(0.0, 0.0)


def test_the_backlog_is_in_seconds_of_the_recent_batches(test_registry: Registry) -> None:
    """Before the first batch the speed of a device is not known."""
    with serving("gate", registry=test_registry) as running:
        budget = running.server.catalogue.served()[0].batcher.queue.budget
        assert budget.seconds_of(100) == 0
        budget.add(50, 2.0)
        assert budget.seconds_of(100) == pytest.approx(4.0)
