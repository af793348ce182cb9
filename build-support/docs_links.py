"""A hook of MkDocs: links to a folder lead to its README, as on the pages of the repository."""

from __future__ import annotations

import posixpath
import re
from typing import Any

_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)[^)#\s]+(?=[)#])")


def on_page_markdown(markdown: str, page: Any, files: Any, **_: Any) -> str:
    """Return the page with `README.md` added to links that name a folder."""
    folder = posixpath.dirname(page.file.src_uri)

    def completed(link: re.Match[str]) -> str:
        readme = posixpath.normpath(posixpath.join(folder, link.group(), "README.md"))
        return link.group() if files.get_file_from_path(readme) is None else f"{link.group().rstrip('/')}/README.md"

    return _LINK.sub(completed, markdown)
