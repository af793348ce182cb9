"""One configuration from three places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from midrib.remote.cli import parse_backbone
from midrib.server import load_settings
from midrib.server._command.configuration import document, render_config
from midrib.server._settings import Settings


@pytest.fixture()
def config(tmp_path: Path) -> Path:
    path = tmp_path / "midrib.toml"
    path.write_text('port = 1111\ndevice = "cpu"\nbackbones = ["mlp-128", {name = "vit", dtype = "bfloat16"}]\n')
    return path


def test_flags_go_over_variables_over_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place overrules the one before it."""
    monkeypatch.setenv("MIDRIB_PORT", "2222")
    monkeypatch.setenv("MIDRIB_MAX_BATCH_ROWS", "7")
    settings = load_settings(config, max_batch_rows=9, device=None)
    assert (settings.device, settings.port, settings.max_batch_rows) == ("cpu", 2222, 9)


def test_a_backbone_is_a_name_or_a_table(config: Path) -> None:
    """A table's missing values are the server's."""
    first, second = load_settings(config).backbones
    assert (first.name, first.dtype, second.name, second.dtype) == ("mlp-128", None, "vit", "bfloat16")


def test_the_printed_config_gives_the_same_settings(config: Path, tmp_path: Path) -> None:
    """`--print-config` can be saved and used."""
    settings = load_settings(config, threads=2)
    printed = tmp_path / "printed.toml"
    printed.write_text(render_config(settings))
    assert load_settings(printed).model_dump() == settings.model_dump()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        pytest.param({"host": "0.0.0.0"}, "reachable from other machines.*--insecure", id="open address"),
        pytest.param(
            {"host": "0.0.0.0", "admin": True, "tls_certificate": "c.pem", "tls_key": "k.pem"},
            "TLS alone identifies no client.*admin_port",
            id="open admin",
        ),
        pytest.param({"tls_certificate": "c.pem"}, "go together", id="a certificate without its key"),
        pytest.param({"tls_client_ca": "ca.pem"}, "no mutual TLS without TLS", id="client CA without TLS"),
        pytest.param({"host": "127.0.0.1.example.org"}, "reachable from other machines", id="a name like loopback"),
        pytest.param({"host": ""}, "reachable from other machines", id="every address"),
        pytest.param({"host": "::"}, "reachable from other machines", id="every IPv6 address"),
        pytest.param({"port": 70000}, "port is 70000, expected at most 65535", id="port"),
        pytest.param({"device": "gpu"}, "device: got 'gpu', expected 'auto', 'cpu', 'cuda' or", id="device"),
        pytest.param({"backbones": [{"name": "a", "device": "cuda:x"}]}, "got 'cuda:x'", id="device of a backbone"),
        pytest.param({"dtype": "int8"}, "'float32', 'float16', 'bfloat16' or 'float64'", id="dtype"),
        pytest.param({"prot": 1}, "prot is unknown: did you mean 'port'", id="misspelt"),
        pytest.param(
            {"backbones": [{"name": "a", "argument": 1}]},
            "backbones.0.argument is unknown: did you mean 'arguments'",
            id="misspelt in a backbone",
        ),
    ],
)
def test_a_wrong_setting_is_refused(flags: dict[str, Any], words: str) -> None:
    """No value is guessed or ignored."""
    with pytest.raises(ValueError, match=words):
        load_settings(**flags)


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param({"insecure": True, "admin": True}, id="insecure"),
        pytest.param({"tokens": "tokens.toml", "admin": True}, id="tokens"),
        pytest.param({"tls_certificate": "c.pem", "tls_key": "k.pem"}, id="TLS"),
        pytest.param(
            {"tls_certificate": "c.pem", "tls_key": "k.pem", "tls_client_ca": "ca.pem", "admin": True}, id="mutual TLS"
        ),
    ],
)
def test_an_open_address_can_be_meant(flags: dict[str, Any]) -> None:
    """It needs `--insecure`, or a check of the callers."""
    assert load_settings(host="0.0.0.0", **flags).host == "0.0.0.0"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "localhost", "::1", "[::1]"])
def test_the_loopback_needs_no_protection(host: str) -> None:
    """Only this machine reaches it."""
    assert load_settings(host=host, admin=True).host == host


def test_a_missing_config_file_is_said(tmp_path: Path) -> None:
    """A misspelt path must not lead to the defaults."""
    with pytest.raises(FileNotFoundError, match="no config file at"):
        load_settings(tmp_path / "missing.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("prot = 3", "midrib.toml: prot is unknown: did you mean 'port'", id="misspelt"),
        pytest.param("port = = 3", "midrib.toml is not valid TOML: Invalid value", id="not TOML"),
        pytest.param("\udcff", "midrib.toml is not valid TOML: 'utf-8' codec", id="not UTF-8"),
        pytest.param("quota = 3", "quota is unknown to this version: `midrib serve --print-config` shows", id="newer"),
        pytest.param('port = "x"', "midrib.toml: port is 'x', expected a whole number", id="kind"),
        pytest.param(
            "backbones = [3]", "midrib.toml: backbones.0 is 3, expected an object with", id="kind of an entry"
        ),
        pytest.param('device = "gpu"', "midrib.toml: device: got 'gpu', expected .*; a GPU is 'cuda'", id="device"),
        pytest.param("[[backbones]]\ndtype = 3", "midrib.toml: backbones.0.name is missing: add it", id="no name"),
    ],
)
def test_a_wrong_config_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    """The sentence says which file to change."""
    config = tmp_path / "midrib.toml"
    config.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match=message):
        load_settings(config)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(("MIDRIB_PORT", "x"), "^MIDRIB_PORT: port is 'x', expected a whole number$", id="kind"),
        pytest.param(("MIDRIB_IMPORTS", "x"), "^an environment variable MIDRIB_.*imports.*are JSON$", id="not JSON"),
    ],
)
def test_a_wrong_environment_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, value: tuple[str, str], message: str
) -> None:
    """A variable that was set elsewhere is hard to find."""
    monkeypatch.setenv(*value)
    with pytest.raises(ValueError, match=message):
        load_settings()


def test_loader_arguments_follow_the_name() -> None:
    """As in a URL's query; values are JSON where they can be."""
    assert parse_backbone("a/b/mlp?num_features=784&pretrained=false&kind=x") == {
        "name": "a/b/mlp",
        "arguments": {"num_features": 784, "pretrained": False, "kind": "x"},
    }


def test_every_unset_setting_is_a_comment_of_the_printed_config() -> None:
    """The printed file shows which settings exist."""
    printed = render_config(load_settings())
    assert [name for name in Settings.model_fields if name not in printed] == []
    assert "\n# threads = ...  # Threads per CPU replica" in printed


def test_the_page_of_settings_is_generated_from_them() -> None:
    """After a change: `python -m midrib.server._command.configuration > docs/configuration.md`."""
    assert (Path(__file__).parents[2] / "docs" / "configuration.md").read_text() == document()


def test_every_setting_has_a_description() -> None:
    """One sentence at least, on the page and in the printed file."""
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
