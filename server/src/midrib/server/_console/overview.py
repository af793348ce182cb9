"""The load of a server as JSON for the page: backbones, tenants, devices, and the process."""

from __future__ import annotations

from typing import Any

from midrib.registry import in_words
from midrib.server._admission.tokens import UNBOUNDED, Tenant
from midrib.server._calls.embedder import RequestEmbedder
from midrib.server._catalogue.catalogue import Catalogue
from midrib.server._catalogue.entry import CatalogueEntry
from midrib.server._catalogue.loading import Loaded
from midrib.server._console.measures import MeasuredInterval


def overview(embedder: RequestEmbedder, window: MeasuredInterval) -> dict[str, Any]:
    """Return the load within a window. A rate, a mean or a quantile without any observation is None."""
    catalogue = embedder.catalogue
    return {
        "ready": catalogue.ready,
        "backbones": [backbone(catalogue, entry, window) for _, entry in sorted(catalogue.entries.items())],
        "tenants": tenants(window),
        "devices": devices(catalogue, window),
        "refusals": refusals(window),
        "in_flight_bytes": embedder.in_flight.held,
        "max_in_flight_bytes": embedder.in_flight.limit,
        "resident_bytes": window.after.value("process_resident_memory_bytes"),
    }


def backbone(catalogue: Catalogue, entry: CatalogueEntry, window: MeasuredInterval) -> dict[str, Any]:
    """Return a served name, its state, and the load of its backbone. Times are in seconds."""
    name = entry.name
    return {
        "name": name,
        "aliases": sorted(alias for alias, target in catalogue.aliases.items() if target == name),
        "state": entry.state.value,
        "error": entry.error,
        "queue_items": window.after.value("midrib_queue_items", name),
        "rows_per_s": window.rate("midrib_rows_total", name),
        "failed_items": window.after.value("midrib_items_total", name, "failed"),
        "batch_rows": window.mean("midrib_batch_rows", name),
        "queue_p50_s": window.quantile(0.5, "midrib_queue_seconds", name),
        "item_p50_s": window.quantile(0.5, "midrib_item_seconds", name),
        "item_p99_s": window.quantile(0.99, "midrib_item_seconds", name),
        **({} if entry.loaded is None else _loaded(entry.loaded)),
    }


def _loaded(loaded: Loaded) -> dict[str, Any]:
    described = loaded.served.description
    return {
        "revision": described.revision,
        "num_features": described.num_features,
        "input": in_words(described.input),
        "media": type(described.input).__name__.removesuffix("Input").lower(),
        "device": described.device,
        "dtype": described.dtype,
        "license": described.license,
        "weight_bytes": loaded.weight_bytes,
        "pinned": loaded.pinned,
        "workers": [
            {"running": worker.running, "memory_bytes": worker.memory_bytes()} for worker in loaded.worker_states()
        ],
        "worker_restarts": loaded.served.worker_restarts(),
    }


def tenants(window: MeasuredInterval) -> list[dict[str, Any]]:
    """Return the load of each token that has sent items; none on a server without tokens."""
    names = sorted({labels[1] for labels in window.after.values.get("midrib_token_items_total", {})})
    return [_tenant_load(window, name) for name in names]


def seen_by(overview: dict[str, Any], tenant: Tenant | None) -> dict[str, Any]:
    """Return an overview without the load of other tokens, unless this one may see them, and with its own limits."""
    if tenant is None:
        return {**overview, "token": None}
    visible = overview["tenants"]
    if not tenant.sees_tenants:
        visible = [load for load in visible if load["name"] == tenant.name]
    return {**overview, "tenants": visible, "token": _limits(tenant)}


def _limits(tenant: Tenant) -> dict[str, Any]:
    """Return the quotas of a token, and how much its requests hold of them; a limit that is not set is None."""
    limits = {
        "max_in_flight_bytes": tenant.in_flight_bytes.limit,
        "max_in_flight_items": tenant.in_flight_items.limit,
        "max_requests_per_s": tenant.requests.limit,
        "max_bytes_per_s": tenant.bytes.limit,
    }
    return {
        "name": tenant.name,
        "in_flight_bytes": tenant.in_flight_bytes.held,
        "in_flight_items": tenant.in_flight_items.held,
        **{name: None if limit == UNBOUNDED else limit for name, limit in limits.items()},
    }


def _tenant_load(window: MeasuredInterval, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "rows_per_s": window.rate("midrib_token_rows_total", name),
        "rows": window.after.value("midrib_token_rows_total", name),
        "items": window.after.value("midrib_token_items_total", "answered", name),
        "failed_items": window.after.value("midrib_token_items_total", "failed", name),
    }


def devices(catalogue: Catalogue, window: MeasuredInterval) -> list[dict[str, Any]]:
    """Return each device with the weights on it, in bytes; allocated_bytes is known of GPUs only."""
    weights: dict[str, int] = {}
    for entry in catalogue.entries.values():
        if entry.loaded is not None:
            device = entry.loaded.served.description.device
            weights[device] = weights.get(device, 0) + entry.loaded.weight_bytes
    allocated = {
        labels[0]: value for labels, value in window.after.values.get("midrib_device_memory_bytes", {}).items()
    }
    return [
        {
            "name": device,
            "weight_bytes": weights.get(device, 0),
            "max_weight_bytes": catalogue.settings.device_memory_bytes,
            "allocated_bytes": allocated.get(device),
        }
        for device in sorted(weights.keys() | allocated.keys())
    ]


def refusals(window: MeasuredInterval) -> list[dict[str, Any]]:
    """Return how many calls ended in an error since the server started, by protocol and reason; the most first."""
    counts = window.after.values.get("midrib_refusals_total", {})
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return [{"protocol": protocol, "reason": reason, "count": count} for (protocol, reason), count in ordered]
