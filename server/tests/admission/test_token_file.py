"""A token file that cannot be used: the error names the file and the next step, and quotes no secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from midrib.server._admission.tokens import AccessTokens

ENTRY = '[[tokens]]\nname = "a"\nscopes = ["read"]\nsha256 = "{}"\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", r"tokens.toml holds no \[\[tokens\]\]: `midrib token NAME` makes an entry", id="empty"),
        pytest.param(b"my-secret\n", r"tokens.toml is not valid TOML \(.*\): `midrib token NAME`", id="a token alone"),
        pytest.param(b"\xff\xfe", r"tokens.toml is not valid TOML \(.*\): `midrib token NAME`", id="not text"),
        pytest.param(
            ENTRY.format("my-secret").encode(),
            r"tokens.toml is not a token file \(tokens.0.sha256: .*\): `midrib token NAME`",
            id="the token in place of its hash",
        ),
    ],
)
def test_a_wrong_token_file_is_named_without_its_content(tmp_path: Path, content: bytes, message: str) -> None:
    """The settings name several files, and an operator may have written a token into this one."""
    path = tmp_path / "tokens.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        AccessTokens(path)
    assert "my-secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [pytest.param("none.toml", "No such file or directory", id="absent"), pytest.param(".", "Is a", id="a folder")],
)
def test_a_token_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, reason: str) -> None:
    """With the setting that names it."""
    with pytest.raises(OSError, match=rf"the token file .* cannot be read \({reason}.*\): check the setting `tokens`"):
        AccessTokens(tmp_path / name)
