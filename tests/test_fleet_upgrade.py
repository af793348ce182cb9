"""The upgrade of docs/scale.md, "Upgrade to a new revision": servers of an old and a new revision behind one URL."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from midrib.remote import Client, RemoteBackbone
from midrib.remote.testing import serving
from midrib.wire import RevisionMismatchError

NAME = "template/classification/mlp-128"
SERVED = {"name": NAME, "arguments": {"num_features": 4}}  # random weights: each server has another revision
ROWS = torch.arange(12.0).reshape(3, 4)


def test_pinned_clients_stay_with_the_old_revision_until_its_last_server_leaves() -> None:
    """A trainer's rows are of one revision throughout; then its error names the way on."""
    with serving(SERVED) as new:
        with serving(SERVED) as old:
            pinned = RemoteBackbone(old.url(NAME))
            url = f"grpc://{new.address},{old.address}/{NAME}"
            trainer = RemoteBackbone(url, revision=pinned.revision, timeout=10.0)  # the error comes when it is over
            torch.testing.assert_close(trainer(ROWS), pinned(ROWS))
            torch.testing.assert_close(trainer(ROWS), pinned(ROWS))
        with pytest.raises(RevisionMismatchError, match="connect again to accept the new one"):
            trainer(ROWS)


def test_clients_without_a_pin_follow_the_servers() -> None:
    """A call has the rows of one revision: the old one, and the new one after the last old server left."""
    with serving(SERVED) as new:
        with serving(SERVED) as old:
            expected = Client(new.address).embed(NAME, ROWS)
            client = Client(f"{old.address},{new.address}")
            before = client.embed(NAME, ROWS)
            np.testing.assert_allclose(before, Client(old.address).embed(NAME, ROWS), atol=1e-6)
        np.testing.assert_allclose(client.embed(NAME, ROWS), expected, atol=1e-6)
