"""The error for a name that is not served."""

from __future__ import annotations

from collections.abc import Collection

from midrib.registry import nearest
from midrib.wire import BackboneNotFoundError

LONGEST_NAME = 200


def not_served(name: str, served: Collection[str]) -> BackboneNotFoundError:
    """Return the error for a name, with the served names that are nearest to it.

    served: `namespace/name` of each backbone.
    """
    if len(name) > LONGEST_NAME:  # comparing it with every name would hold the event loop
        return BackboneNotFoundError(f"no backbone {name[:LONGEST_NAME] + '...'!r} is served here")
    keys: dict[str, list[str]] = {}
    for key in sorted(served):
        keys.setdefault(key.rpartition("/")[2], []).append(key)
    near = [key for word in nearest(name.rpartition("/")[2], keys) for key in keys[word]]
    hint = f"did you mean {' or '.join(near)}?" if near else f"served here: {', '.join(sorted(served)) or 'nothing'}"
    return BackboneNotFoundError(f"no backbone {name!r} is served here; {hint}")
