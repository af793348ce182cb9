"""Replicas of both kinds, for tests that hold for each."""

from __future__ import annotations

from midrib.registry import Registry
from midrib.server._catalogue.local import load_local
from midrib.server._catalogue.processes import host_in_processes
from midrib.server._engine.compute import BatchRunner
from midrib.server._engine.replica import Replica
from midrib.server._settings import BackboneSettings, Settings


def build_replica(kind: str, requested: BackboneSettings, settings: Settings, registry: Registry) -> BatchRunner:
    """Return a replica of a backbone, which is to be started. kind: "thread" or "process"."""
    if kind == "thread":
        return Replica(load_local(requested, settings, registry).device_setups[0].prepare, name="test")
    return host_in_processes(requested, settings, registry).workers[0].replica("test")
