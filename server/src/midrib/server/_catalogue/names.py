"""The error for a name that is not served."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from midrib.wire import BackboneNotFoundError

LONGEST_NAME = 200


def not_served(name: str, served: Collection[str]) -> BackboneNotFoundError:
    """Return the error for a name, with the served names that are nearest to it.

    served: `namespace/name` of each backbone.
    """
    if len(name) > LONGEST_NAME:  # comparing it with every name would hold the event loop
        return BackboneNotFoundError(f"no backbone {name[:LONGEST_NAME] + '...'!r} is served here")
    spellings = {spelling: key for key in served for spelling in (key, key.rpartition("/")[2])}
    near = {spellings[match] for match in difflib.get_close_matches(name, spellings, cutoff=0.5)}
    hint = (
        f"did you mean {' or '.join(sorted(near))}?"
        if near
        else f"served here: {', '.join(sorted(served)) or 'nothing'}"
    )
    return BackboneNotFoundError(f"no backbone {name!r} is served here; {hint}")
