"""The map of the console under a pointer, in a real Chromium."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from midrib.server._console.table import MAX_ROWS
from midrib.server.testing import RunningServer
from server.tests.console.conftest import Tab

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # playwright's own pipes

MARKUP = '<img src=x onerror="window.ran=true">'
# The pixels of the canvas, from the browser's next frame.
PIXELS = """() => {
  const canvas = document.querySelector('#map canvas');
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d');
  copy.drawImage(canvas, 0, 0);
  return copy.getImageData(0, 0, canvas.width, canvas.height);
}"""
# The offset of the middle of the leftmost point in the canvas, in CSS pixels; null if nothing is drawn.
POINT = f"""() => {{
  const {{ data, width, height }} = ({PIXELS})();
  let coloured = [];
  for (let x = 0; x < width; x += 1)
    for (let y = 0; y < height; y += 1)
      if (data[4 * (y * width + x) + 3] > 99) coloured.push([x + 0.5, y + 0.5]);
  if (!coloured.length) return null;
  coloured = coloured.filter(([x, y]) => Math.hypot(x - coloured[0][0], y - coloured[0][1]) < 10);
  const mean = (axis) => coloured.reduce((sum, place) => sum + place[axis], 0) / coloured.length;
  return [mean(0) / devicePixelRatio, mean(1) / devicePixelRatio];
}}"""
# Each frame takes a tenth of a second longer.
SLOW_FRAMES = """
const frame = window.requestAnimationFrame.bind(window);
window.requestAnimationFrame = (draw) => frame(() => setTimeout(() => draw(performance.now()), 100));
"""
# Moves the map until `window.pressing` is cleared.
PRESS_RIGHT = """() => { window.pressing = setInterval(() => document.querySelector('#map canvas')
  .dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight' })), 50); }"""
COLOURED = f"() => ({PIXELS})().data.filter((value, at) => at % 4 === 3 && value).length"


def send(tab: Tab, *texts: str) -> Any:
    """Return the page, to which a file of as many vectors as texts was given."""
    rows = [{"embedding": [index, 0.0, 0.1 * index**2], "text": text} for index, text in enumerate(texts)]
    page = tab.open("map")
    page.wait_for_selector("#connection.good")
    content = "\n".join(map(json.dumps, rows)).encode()
    page.set_input_files("#file", {"name": "x.jsonl", "mimeType": "application/octet-stream", "buffer": content})
    return page


def draw(tab: Tab, *texts: str) -> Any:
    """Return the page with a map of as many points as texts, in a row."""
    page = send(tab, *texts)
    page.wait_for_selector("#drawn")
    page.wait_for_function(f"() => ({POINT})() && document.querySelector('#map canvas').height > 300")
    page.locator("#map canvas").scroll_into_view_if_needed()
    return page


def point_at(page: Any, place: list[float]) -> None:
    """Move the pointer to a place of the canvas."""
    box = page.locator("#map canvas").bounding_box()
    page.mouse.move(box["x"] + place[0], box["y"] + place[1])


def test_the_pointer_shows_a_point_and_hides_it_beside(tab: Tab) -> None:
    """Its text is in a box beside it."""
    page = draw(tab, "same", "same", "same", "same")
    point_at(page, page.evaluate(POINT))
    page.wait_for_selector("#map .tooltip:visible")
    assert "same" in page.locator("#map .tooltip").inner_text()
    point_at(page, [3, 3])
    page.wait_for_selector("#map .tooltip", state="hidden")
    assert tab.errors == []


def test_the_wheel_zooms_about_the_pointer(tab: Tab) -> None:
    """The point under it stays, the others leave the view; "Show all" brings them back."""
    page = draw(tab, *"abcd")
    coloured, place = page.evaluate(COLOURED), page.evaluate(POINT)
    point_at(page, place)
    page.wait_for_selector("#map .tooltip:visible")
    text = page.locator("#map .tooltip").inner_text()
    page.mouse.wheel(0, -800)  # doubles the distances
    page.mouse.wheel(0, -800)
    page.wait_for_function(f"() => ({COLOURED})() < {coloured} / 2")
    point_at(page, [place[0] + 1, place[1]])
    page.wait_for_selector("#map .tooltip:visible")
    assert page.locator("#map .tooltip").inner_text() == text
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function(f"() => ({COLOURED})() > {coloured} / 2")
    assert tab.errors == []


def test_a_lasso_by_the_shift_key_selects_and_moves_nothing(tab: Tab) -> None:
    """A lasso around the leftmost point; the points stay where they are."""
    page = draw(tab, *"abcd")
    x, y = place = page.evaluate(POINT)
    page.keyboard.down("Shift")
    point_at(page, [x - 9, y - 9])
    page.mouse.down()
    for corner in ([x + 9, y - 9], [x + 9, y + 9], [x - 9, y + 9]):
        point_at(page, corner)
    page.mouse.up()
    assert page.locator("#selected").inner_text() == "1 selected"
    assert page.evaluate(POINT) == pytest.approx(place, abs=1)
    assert tab.errors == []


def test_as_many_points_as_a_file_may_have_are_drawn(tab: Tab) -> None:
    """The pointer finds a point of 100,000, the lasso too."""
    rows = np.random.default_rng(0).normal(size=(MAX_ROWS, 2)).astype(np.float32)
    np.save(content := io.BytesIO(), rows)
    page = tab.open("map")
    page.wait_for_selector("#connection.good")
    page.set_input_files("#file", {"name": "x.npy", "mimeType": "a/b", "buffer": content.getvalue()})
    page.wait_for_selector(f"text={MAX_ROWS} vectors of 2 numbers by PCA")
    page.locator("#map canvas").scroll_into_view_if_needed()
    middle = page.evaluate(
        "() => { const { clientWidth, clientHeight } = document.querySelector('#map canvas');"
        " return [clientWidth / 2, clientHeight / 2]; }"
    )
    point_at(page, middle)
    page.wait_for_selector("#map .tooltip:visible")
    assert re.fullmatch("row [0-9]+", page.locator("#map .tooltip").inner_text())
    assert tab.errors == []


def test_fewer_points_are_drawn_while_a_slow_map_moves(tab: Tab) -> None:
    """A sample of them if a frame takes long, as of 100,000 points without a GPU; all of them once it rests."""
    tab.page.add_init_script(SLOW_FRAMES)
    rows = np.random.default_rng(0).normal(size=(12_000, 2)).astype(np.float32)
    np.save(content := io.BytesIO(), rows)
    page = tab.open("map")
    page.wait_for_selector("#connection.good")
    page.set_input_files("#file", {"name": "x.npy", "mimeType": "a/b", "buffer": content.getvalue()})
    page.wait_for_selector("#map canvas[data-points='12000']")
    page.locator("#map canvas").focus()
    page.evaluate(PRESS_RIGHT)
    page.wait_for_selector("#map canvas[data-points='2000']")
    page.evaluate("() => clearInterval(window.pressing)")
    page.wait_for_selector("#map canvas[data-points='12000']")
    assert tab.errors == []


def test_a_browser_without_webgl_says_that_the_map_needs_it(
    chromium: Callable[..., Any], console_server: RunningServer
) -> None:
    """The error names a remedy."""
    browser = chromium(args=["--no-sandbox", "--disable-3d-apis"])
    page = send(Tab(browser.new_page(), console_server), "a", "b", "c")
    assert "WebGL2" in page.locator("#map [role=alert]").inner_text()
    browser.close()


def test_markup_in_a_file_is_shown_as_text(tab: Tab) -> None:
    """In the box, in the legend and in the choice of columns; the policy would also forbid such a script."""
    page = draw(tab, MARKUP, MARKUP, MARKUP, MARKUP)
    point_at(page, page.evaluate(POINT))
    page.wait_for_selector("#map .tooltip:visible")
    assert MARKUP in page.locator("#map .tooltip").inner_text()
    assert MARKUP in page.locator("#map .legend").inner_text()
    assert page.evaluate("window.ran") is None
    assert tab.errors == []
