"""Servers with the console, and a real Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from midrib.registry import Registry
from midrib.server._admission.tokens import Scope, new_token
from midrib.server.testing import RunningServer, serving


@pytest.fixture(scope="module")
def console_server(test_registry: Registry) -> Iterator[RunningServer]:
    """A server of `words` and `picture` with the console, where everyone may load; it needs no token."""
    with serving("words", "picture", registry=test_registry, http_port=0, console=True, admin=True) as running:
        yield running


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Path]:
    """A token for each scope, by the name of the scope, and one of all; and the file of their hashes."""
    pairs = {scope.value: new_token(scope.value, [scope]) for scope in Scope}
    pairs["all"] = new_token("all", list(Scope))
    path = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    path.write_text("".join(entry for _, entry in pairs.values()))
    return {name: token for name, (token, _) in pairs.items()}, path


@pytest.fixture(scope="module")
def guarded_server(tokens: tuple[dict[str, str], Path], test_registry: Registry) -> Iterator[RunningServer]:
    """A server of `words` with the console, where calls need a token and its scope."""
    with serving("words", registry=test_registry, http_port=0, console=True, admin=True, tokens=tokens[1]) as running:
        yield running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Callable[..., Any]]:
    """A function that starts Debian's Chromium, without a window.  args: its command-line arguments."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        yield partial(started.chromium.launch, executable_path=path)


@pytest.fixture(scope="module")
def browser(chromium: Callable[..., Any]) -> Iterator[Any]:
    """A browser that draws by WebGL2, on a machine without a GPU too."""
    launched = chromium(args=["--no-sandbox", "--enable-unsafe-swiftshader"])
    yield launched
    launched.close()


class Tab:
    """A tab of the browser, and the errors that it reported.

    requested: the addresses of all requests.
    """

    def __init__(self, page: Any, server: RunningServer) -> None:
        self.page = page
        self.address = f"http://{server.server.http_address}"
        self.errors: list[str] = []
        self.requested: list[str] = []
        page.set_default_timeout(20_000)
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requested.append(request.url))

    def open(self, name: str) -> Any:
        """Return one page of the console, opened."""
        self.page.goto(f"{self.address}/console/#/{name}")
        return self.page


@pytest.fixture()
def tab(browser: Any, console_server: RunningServer) -> Iterator[Tab]:
    """A new tab on the server that needs no token."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield Tab(context.new_page(), console_server)
    context.close()


@pytest.fixture()
def guarded_tab(browser: Any, guarded_server: RunningServer) -> Iterator[Tab]:
    """A new tab on the server that needs a token."""
    context = browser.new_context()
    yield Tab(context.new_page(), guarded_server)
    context.close()
