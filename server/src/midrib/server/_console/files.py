"""The files of the console: one page, its scripts and its styles, all in the wheel."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable

from aiohttp import web

_TYPES = {
    "css": "text/css",
    "html": "text/html",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data: blob:",  # pictures that the user drops, and those in an embedding file
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # a newer server may answer under the same address
}


class Files:
    """Serves the files of the console, which it reads once."""

    def __init__(self) -> None:
        self._files = dict(_read(files("midrib.server._console") / "static", ""))

    async def page(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        """Answer the page."""
        return self._answer("index.html")

    async def file(self, request: web.Request) -> web.Response:
        """Answer a script, a style or a picture. Raises HTTPNotFound for any other name."""
        return self._answer(request.match_info["name"])

    def _answer(self, name: str) -> web.Response:
        """Answer with a file of the console. Raises HTTPNotFound for an unknown name."""
        if name not in self._files:
            raise web.HTTPNotFound
        content, media = self._files[name]
        return web.Response(body=content, content_type=media, charset="utf-8", headers=HEADERS)


async def redirect(request: web.Request) -> web.Response:  # noqa: ARG001 - aiohttp's signature
    """Answer the address of the page, which ends in a slash."""
    return web.Response(status=308, headers={"Location": "console/"})


def _read(folder: Traversable, prefix: str) -> Iterator[tuple[str, tuple[bytes, str]]]:
    """Yield the path of each file that pages may load, with its content and media type."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _read(entry, f"{prefix}{entry.name}/")
        elif (ending := entry.name.rpartition(".")[2]) in _TYPES:
            yield prefix + entry.name, (entry.read_bytes(), _TYPES[ending])
