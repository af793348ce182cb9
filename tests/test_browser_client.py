"""The browser client of clients/typescript in a real Chromium, on a page of another origin than the server's."""

from __future__ import annotations

import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from midrib.backbones import load_backbone
from midrib.server.testing import RunningServer, serving

ROOT = Path(__file__).resolve().parents[1]
CLIENT = ROOT / "clients/build/typescript/node_modules/midrib-client/dist/browser.js"
BACKBONE = "text/embedding/wordllama-256"
TEXTS = ["The cat sleeps.", "The bakery opens at six."]
PAGE = """<!doctype html><pre id="out"></pre><script type="module">
import { BrowserClient } from "./browser.js";
const client = new BrowserClient("http://SERVER/");
const texts = { texts: TEXTS };
const seen = {};
try {
  const { rows, revision } = await client.embed("BACKBONE", texts, { normalize: false });
  seen.rows = rows.map((row) => [...row]);
  seen.revision = revision;
  seen.short = (await client.embed("BACKBONE", texts, { dimensions: 8 })).rows[0].length;
  seen.names = await client.list();
  seen.refusal = await client.embed("absent", texts).catch(({ name, status, reason }) => [name, status, reason]);
  const busy = new BrowserClient(location.origin);
  seen.busy = await busy.list().catch((error) => [error.status, error.reason, error.retryAfterSeconds]);
} catch (error) {
  seen.error = String(error);
}
document.getElementById("out").textContent = JSON.stringify(seen);
</script>"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a log. To calls it answers as a busy proxy does, without the form of a server's error."""

    def do_POST(self) -> None:  # noqa: N802 - the name in the base class
        """Refuse a call, with a hint when to try again."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(503)
        self.send_header("Retry-After", "7")
        self.end_headers()
        self.wfile.write(b"null")

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the name in the base class
        pass


@pytest.fixture(scope="module")
def chromium() -> str:
    """The browser, if it and the built client are on this machine."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None or not CLIENT.exists():
        pytest.skip("needs Chromium and a built client: apt-get install chromium, clients/conformance typescript")
    return program


@pytest.fixture()
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The origin of a web server, and its folder, which has the client."""
    folder = tmp_path / "site"
    folder.mkdir()
    shutil.copy(CLIENT, folder)
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


def shown(chromium: str, site: tuple[str, Path], running: RunningServer, profile: Path) -> dict[str, Any]:
    """Return the object that the page shows after its calls."""
    origin, folder = site
    page = PAGE.replace("SERVER", str(running.server.http_address)).replace("BACKBONE", BACKBONE)
    (folder / "index.html").write_text(page.replace("TEXTS", json.dumps(TEXTS)))
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=20000",
        f"--user-data-dir={profile}",
    ]
    command = [chromium, *options, "--dump-dom", f"{origin}/index.html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    [content] = re.findall(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    result: dict[str, Any] = json.loads(content)
    return result


def test_a_page_embeds_texts(chromium: str, site: tuple[str, Path], tmp_path: Path) -> None:
    """Its rows, its revision, the list of backbones, a refusal by its reason, and the hint of a busy proxy."""
    with serving(BACKBONE, http_port=0, cors_origins=[site[0]]) as running:
        content = shown(chromium, site, running, tmp_path / "profile")
    backbone = load_backbone(BACKBONE)
    assert "error" not in content, content
    np.testing.assert_allclose(content["rows"], backbone.embed_texts(TEXTS).numpy(), atol=1e-5)
    assert (content["revision"], content["short"], content["names"]) == (backbone.revision(), 8, [BACKBONE])
    assert content["busy"] == [503, "UNKNOWN", 7]
    assert content["refusal"] == ["MidribHttpError", 404, "BACKBONE_NOT_FOUND"]


def test_a_page_of_an_origin_that_is_not_listed_gets_nothing(
    chromium: str, site: tuple[str, Path], tmp_path: Path
) -> None:
    """The browser refuses, since the server does not allow the origin."""
    with serving(BACKBONE, http_port=0, cors_origins=["http://other.example"]) as running:
        content = shown(chromium, site, running, tmp_path / "profile")
    assert content == {"error": "TypeError: Failed to fetch"}
