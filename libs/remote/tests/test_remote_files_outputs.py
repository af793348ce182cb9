"""The files of an output replace nothing by mistake, and belong together."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from midrib.remote import embed_files
from midrib.wire import Array, InvalidInputError


class Lengths:
    """Embeds a value as the length of its text."""

    name, revision, num_features = "test/lengths", "r1", 1

    def __call__(self, kind: str, values: list[Any]) -> Array:
        return np.array([[len(str(value))] for value in values], np.float32)


@pytest.mark.parametrize("link", [False, True], ids=["itself", "a link"])
def test_an_output_that_is_an_input_is_refused(tmp_path: Path, link: bool) -> None:
    """The run would replace the data by their features."""
    np.save(tmp_path / "t.npy", np.ones((2, 3), np.float32))
    out = tmp_path / ("link.npy" if link else "t.npy")
    os.link(tmp_path / "t.npy", tmp_path / "link.npy")
    with pytest.raises(InvalidInputError, match=r"output .*t\.npy is one of the inputs: name another file"):
        embed_files(Lengths(), [tmp_path / "t.npy"], out)
    assert np.load(tmp_path / "t.npy").shape == (2, 3)


@pytest.mark.parametrize(("full", "left"), [("out.npy", ["a"]), ("out.npy.json", [])], ids=["rows", "ids"])
def test_ids_never_name_the_rows_of_another_array(tmp_path: Path, full: str, left: list[str]) -> None:
    """The disk is full while one of the two files of an earlier output is replaced."""
    path, beside = tmp_path / "t.jsonl", tmp_path / "out.npy.json"
    path.write_text('{"id": "a", "text": "one"}\n')
    embed_files(Lengths(), [path], tmp_path / "out.npy")
    path.write_text('{"id": "b", "text": "eleven"}\n')
    (tmp_path / f".{full}.unfinished").symlink_to("/dev/full")
    with pytest.raises(OSError, match="cannot write"):
        embed_files(Lengths(), [path], tmp_path / "out.npy")
    assert [item_id for file in tmp_path.glob(beside.name) for item_id in json.loads(file.read_text())["ids"]] == left
