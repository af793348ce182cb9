"""The options of a resumed job are those of the files in its folder. Needs no Ray."""

from __future__ import annotations

import pytest

from midrib.ray._parts import Recipe
from midrib.wire import InvalidInputError

PLAIN = {"midrib.backbone": "text/embedding/minilm", "midrib.revision": "ab12", "midrib.prompt": ""}
NAMED = {**PLAIN, "midrib.prompt_name": "query"}


@pytest.mark.parametrize(("first", "second"), [(PLAIN, NAMED), (NAMED, PLAIN)], ids=["added", "left out"])
def test_an_option_of_one_job_only_is_refused(first: dict[str, str], second: dict[str, str]) -> None:
    """The folder would hold features of two functions."""
    recipe = Recipe("folder")
    recipe.check(first)
    with pytest.raises(InvalidInputError, match=r"folder was begun with another midrib\.prompt_name: use the same"):
        recipe.check(second)
