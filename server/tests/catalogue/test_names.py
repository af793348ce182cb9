"""The names that the error for a backbone that is not served suggests."""

from __future__ import annotations

import pytest

from midrib.server._catalogue.names import not_served

SERVED = ["image/classification/efficientnet-lite0", "text/embedding/all-minilm-l6-v2"]
TEXT = "did you mean text/embedding/all-minilm-l6-v2?"


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        pytest.param("text/classification/all-minilm-l6-v2", TEXT, id="another namespace"),
        pytest.param("minilm", TEXT, id="a part"),
        pytest.param("all-minilm-l6", TEXT, id="a beginning"),
        pytest.param("efficientnet_lite1", f"did you mean {SERVED[0]}?", id="another letter"),
        pytest.param("resnet50", f"served here: {', '.join(SERVED)}", id="unlike any"),
    ],
)
def test_the_error_suggests_the_served_backbone_that_is_meant(name: str, advice: str) -> None:
    """By the name after the namespace: a wrong namespace does not bring in the other backbones."""
    assert str(not_served(name, SERVED)) == f"no backbone {name!r} is served here; {advice}"
