"""The console in a real Chromium, on a real server."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.tests.console.conftest import Tab
from server.tests.console.test_map_page import COLOURED

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # playwright's own pipes

WORDS, PICTURE, LINEAR = "text/embedding/words", "image/embedding/picture", "test/embedding/linear"
TEXTS = ["good morning", "good night", "la bonne nuit", "bad news"]
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR4nGM4kWKEFTEMLQkAVkZXgTy9n4kAAAAASUVORK5CYII="
)


@pytest.mark.parametrize(
    ("name", "title"),
    [("load", "Load"), ("backbones", "Backbones"), ("playground", "Playground"), ("map", "Map")],
    ids=["load", "backbones", "playground", "map"],
)
def test_a_page_opens_without_errors_and_asks_only_this_server(tab: Tab, name: str, title: str) -> None:
    """It works offline: every script, style and picture comes from the server itself."""
    page = tab.open(name)
    page.wait_for_selector("#connection.good")
    assert page.locator("h1:visible").inner_text() == title
    assert page.locator("nav a[aria-current=page]").inner_text() == title
    assert tab.errors == []
    assert {url.startswith(tab.address) for url in tab.requested} == {True}


def test_live_values_arrive(tab: Tab) -> None:
    """Each served backbone with its state, and the device with its weights."""
    page = tab.open("load")
    page.wait_for_selector("#connection.good")
    backbones = page.locator("#load .panel", has=page.get_by_role("heading", name="Backbones"))
    assert backbones.locator("tbody tr", has_text=WORDS).inner_text().split()[1:3] == ["ready", "cpu"]
    devices = page.locator("#load .panel", has=page.get_by_role("heading", name="Devices"))
    assert devices.locator("tbody tr").inner_text().split()[0] == "cpu"


def send_texts(page: Any, prefix: str, button: str) -> None:
    page.wait_for_selector(f"#{prefix}-backbone option[value='{WORDS}']", state="attached")
    page.select_option(f"#{prefix}-backbone", WORDS)
    page.fill(f"#{prefix}-texts", "\n".join(TEXTS))
    page.click(button)


def test_the_playground_embeds_texts_and_finds_the_nearest(tab: Tab) -> None:
    """Each of four texts has three others, the nearest first."""
    page = tab.open("playground")
    send_texts(page, "playground", "#embed")
    page.wait_for_selector("#playground meter")
    nearest = page.locator("#playground tbody tr", has_text=TEXTS[0]).first.locator("td div div")
    cosines = [float(line.split()[0]) for line in nearest.all_inner_texts()]
    assert len(cosines) == 3
    assert cosines == sorted(cosines, reverse=True)
    assert tab.errors == []


def test_the_playground_embeds_pictures(tab: Tab) -> None:
    """Two equal pictures have the cosine 1."""
    page = tab.open("playground")
    page.wait_for_selector(f"#playground-backbone option[value='{PICTURE}']", state="attached")
    page.select_option("#playground-backbone", PICTURE)
    files = [{"name": f"{name}.png", "mimeType": "image/png", "buffer": PNG} for name in "ab"]
    page.set_input_files("#playground-pictures", files)
    page.wait_for_selector("#playground .thumbnails img >> nth=1")
    page.click("#embed")
    assert "1.000" in page.locator("#playground tbody tr").first.inner_text()
    assert tab.errors == []


@pytest.mark.parametrize(
    ("language", "command", "answer"),
    [
        pytest.param("curl", ["sh", "-c"], '"embedding":[', id="curl"),
        pytest.param("Python", [sys.executable, "-c"], "[4]", id="Python"),
        pytest.param("TypeScript", ["node", "--input-type=module", "-e"], "4", id="TypeScript"),
    ],
)
def test_a_snippet_runs(tab: Tab, language: str, command: list[str], answer: str) -> None:
    """As copied, with a text that must be quoted."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}: install it to run this snippet")
    page = tab.open("playground")
    page.wait_for_selector(f"#playground-backbone option[value='{WORDS}']", state="attached")
    page.select_option("#playground-backbone", WORDS)
    page.fill("#playground-texts", 'it\'s "quoted" $HOME \\n')
    page.get_by_role("button", name=language, exact=True).click()
    code = page.locator("pre code").inner_text()
    done = subprocess.run([*command, code], capture_output=True, text=True, check=True)
    assert answer in done.stdout


def test_a_backbone_is_planned_loaded_and_unloaded(tab: Tab) -> None:
    """The dry run changes nothing."""
    page = tab.open("backbones")
    page.wait_for_selector("#connection.good")
    page.fill("#load-name", LINEAR)
    page.fill("#argument-num_features", "5")
    page.click("#dry-run")
    page.wait_for_selector(f"text={LINEAR} fits: 60 B on cpu")
    assert page.locator("#backbones tbody tr", has_text=LINEAR).count() == 0
    page.click("#load-now")
    page.wait_for_selector(f"text={LINEAR} is loaded on cpu")
    page.get_by_role("button", name=f"Unload {LINEAR}").click()
    page.locator("#confirm-dialog").get_by_role("button", name="Unload").click()
    page.wait_for_selector(f"text={LINEAR} is unloaded")
    page.locator("#backbones tbody tr", has_text=LINEAR).wait_for(state="detached")
    assert tab.errors == []


def test_a_refused_load_says_why(tab: Tab) -> None:
    """The message is the server's own."""
    page = tab.open("backbones")
    page.wait_for_selector("#connection.good")
    page.fill("#load-name", "unknown")
    page.click("#load-now")
    assert "unknown" in page.locator("#backbones [role=alert]").inner_text()


def test_the_map_draws_texts_and_shows_one_on_hover(tab: Tab) -> None:
    """The pointer and the keyboard both select a point."""
    page = tab.open("map")
    send_texts(page, "map", "#draw")
    page.wait_for_selector("#drawn")
    page.wait_for_function("() => document.querySelector('#map canvas').height > 300")
    page.locator("#map canvas").focus()
    page.keyboard.press("n")
    assert TEXTS[0] in page.locator("#map .tooltip").inner_text()
    page.wait_for_function(f"() => ({COLOURED})() > 100")
    page.keyboard.press("Space")
    assert page.locator("#selected").inner_text() == "1 selected"
    assert tab.errors == []


def parquet_file(path: Path) -> Path:
    """Return a file of 40 vectors around two centres, with columns for their class and a number."""
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'midrib-remote[parquet]'")
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(centre, 0.1, (20, 8)) for centre in (0, 5)]).astype(np.float32)
    columns = {
        "id": [f"row-{index}" for index in range(40)],
        "kind": ["low"] * 20 + ["high"] * 20,
        "score": list(range(40)),
        "embedding": list(vectors),
    }
    from pyarrow import parquet  # type: ignore[import-untyped] # it has no types

    parquet.write_table(pa.table(columns), path)
    return path


def test_a_file_is_drawn_coloured_and_exported_by_a_lasso(tab: Tab, tmp_path: Path) -> None:
    """A lasso around everything exports every id."""
    page = tab.open("map")
    page.wait_for_selector("#connection.good")
    page.set_input_files("#file", parquet_file(tmp_path / "vectors.parquet"))
    page.wait_for_selector("#drawn")
    assert page.locator("#map .legend").inner_text().split() == ["low", "(20)", "high", "(20)"]
    page.click("#lasso")
    box = page.locator("#map canvas").bounding_box()
    page.locator("#map canvas").scroll_into_view_if_needed()
    box = page.locator("#map canvas").bounding_box()
    left, top, right, bottom = box["x"] + 3, box["y"] + 3, box["x"] + box["width"] - 3, box["y"] + box["height"] - 3
    page.mouse.move(left, top)
    page.mouse.down()
    for corner in [(right, top), (right, bottom), (left, bottom), (left, top)]:
        page.mouse.move(*corner)
    page.mouse.up()
    assert page.locator("#selected").inner_text() == "40 selected"
    with page.expect_download() as saved:
        page.click("#export-json")
    assert [row["id"] for row in json.loads(Path(saved.value.path()).read_text())] == [f"row-{i}" for i in range(40)]
    with page.expect_download() as saved:
        page.click("#export-csv")
    assert Path(saved.value.path()).read_text().splitlines()[:2] == ["row,id,kind,score", "0,row-0,low,0"]
    assert tab.errors == []


def test_a_broken_file_says_why(tab: Tab) -> None:
    """The page shows the message of the server."""
    page = tab.open("map")
    page.wait_for_selector("#connection.good")
    page.set_input_files("#file", {"name": "x.npy", "mimeType": "application/octet-stream", "buffer": b"nothing"})
    assert "cannot be read as .npy" in page.locator("#map [role=alert]").inner_text()


def test_without_a_token_the_page_asks_for_one(guarded_tab: Tab, tokens: tuple[dict[str, str], Path]) -> None:
    """It is kept in the tab; a wrong one is asked for again."""
    page = guarded_tab.open("load")
    page.fill("#token", "mistyped")
    page.click("#token-save")
    page.wait_for_selector("text=the token is not known here")
    page.fill("#token", tokens[0]["all"])
    page.click("#token-save")
    page.wait_for_selector("#connection.good")
    assert page.locator("#account").inner_text() == "all"
    assert page.evaluate("sessionStorage.getItem('midrib-token')") == tokens[0]["all"]
    assert page.evaluate("localStorage.length + document.cookie.length") == 0


def test_a_token_that_only_reads_cannot_load(guarded_tab: Tab, tokens: tuple[dict[str, str], Path]) -> None:
    """The page says so before the server has to."""
    page = guarded_tab.open("backbones")
    page.fill("#token", tokens[0]["read"])
    page.click("#token-save")
    page.wait_for_selector("#connection.good")
    assert page.locator("#load-now").is_disabled()
    assert "the scope admin" in page.locator("#backbones .notice").inner_text()


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param("const s = document.createElement('script'); s.text = '1'; document.head.append(s)", id="inline"),
        pytest.param(
            "const s = document.createElement('script'); s.src = 'http://127.0.0.1:1/x.js'; document.head.append(s)",
            id="foreign script",
        ),
        pytest.param("fetch('http://127.0.0.1:1/').catch(() => 0)", id="foreign call"),
        pytest.param("new Image().src = 'http://127.0.0.1:1/x.png'", id="foreign picture"),
    ],
)
def test_the_policy_forbids_other_code_and_other_servers(tab: Tab, attack: str) -> None:
    """Even a script that ran in the page could not send the token elsewhere."""
    page = tab.open("load")
    violated = page.evaluate(
        "(attack) => new Promise((resolve) => {"
        " addEventListener('securitypolicyviolation', (event) => resolve(event.disposition));"
        " setTimeout(() => resolve('allowed'), 10000);"
        f" {attack}; }})",
        attack,
    )
    assert violated == "enforce"


def test_a_narrow_dark_screen_shows_every_page(browser: Any, tab: Tab) -> None:
    """Nothing is cut off at the width of a telephone, and the theme follows the system."""
    tab.page.set_viewport_size({"width": 390, "height": 800})
    tab.page.emulate_media(color_scheme="dark")
    page = tab.open("load")
    page.wait_for_selector("#connection.good")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
