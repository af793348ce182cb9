"""The number of replicas, by the load that each replica reports."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

# The share of the time that devices should compute: below it replicas are removed, above it they are added.
TARGET_BUSY_SHARE = 0.7
# The seconds of computing that may wait at one replica before another one is added.
MAX_BACKLOG_S = 1.0


def by_device_time(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """Return the number of replicas at which the devices are busy for `TARGET_BUSY_SHARE` of the time.

    Requests do not tell the load: one stream carries the items of a whole client. While a replica has more than
    `MAX_BACKLOG_S` seconds of work in its queue, there is at least one replica more than now. Without a replica, a call
    that waits at a proxy of Ray brings one. Ray applies the bounds and the delays of its autoscaling configuration to
    the result.
    """
    if context.current_num_replicas == 0:
        return max(context.target_num_replicas, int(bool(context.total_num_requests))), {}
    metrics = context.aggregated_metrics or {}
    busy = list(metrics.get("busy_share", {}).values())
    backlog = list(metrics.get("backlog_s", {}).values())
    if not busy:  # nothing is reported yet
        return context.target_num_replicas, {}
    replicas = math.ceil(sum(busy) / TARGET_BUSY_SHARE)
    if max(backlog, default=0.0) > MAX_BACKLOG_S:
        replicas = max(replicas, len(busy) + 1)
    return replicas, {}
