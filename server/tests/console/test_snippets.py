"""The shell snippet of the playground quotes every name."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest

from server.tests.console.conftest import Tab

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # playwright's own pipes

LARGE_PICTURE = bytes(200_000)  # more than an argument of a command may have
SNIPPET = """async (model) => {
  const { snippets } = await import('./files/snippets.js');
  return snippets({ url: 'http://localhost', model, media: 'image', inputs: [], token: false }).curl;
}"""


@pytest.mark.parametrize("name", ["$(echo ran)", "`echo ran`", '"; echo ran; "', "\\", "$HOME", "plain/name"])
def test_a_name_of_a_backbone_runs_nothing_in_a_shell(tab: Tab, tmp_path: Path, name: str) -> None:
    """The snippet is copied to a terminal; the model in its body is the name itself."""
    (tmp_path / "picture.png").write_bytes(LARGE_PICTURE)
    page = tab.open("playground")
    code = page.evaluate(SNIPPET, name)
    printing = "curl() { cat; }\n" + code
    done = subprocess.run(["sh", "-c", printing], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout) == {"model": name, "input": base64.b64encode(LARGE_PICTURE).decode()}
