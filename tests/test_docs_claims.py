"""Names in the documents exist: links, commands and their options, settings, and Python names."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from midrib.server._admission.tokens import TokenEntry
from midrib.server._settings import BackboneSettings, Settings
from midrib.server.cli import app

ROOT = Path(__file__).resolve().parents[1]
GENERATED = "docs/configuration.md"
PATHS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("libs/*/README.md"), ROOT / "server/README.md"]
PAGES = sorted({str(path.relative_to(ROOT)) for path in PATHS} - {GENERATED})
COMMAND: Any = typer.main.get_command(app)
# A change log names removed things.
CURRENT_PAGES = [page for page in PAGES if page != "CHANGELOG.md"]
SETTINGS = {*Settings.model_fields, *BackboneSettings.model_fields, *TokenEntry.model_fields}
LIBRARIES = "registry|wire|backbones|task|remote|server"


def text(page: str) -> str:
    """Return the text of a page, as a reader sees it: without comments."""
    return re.sub(r"<!--.*?-->", "", (ROOT / page).read_text(), flags=re.DOTALL)


def resolved(name: str) -> object:
    """Return the module or attribute of a dotted name. Raises ImportError or AttributeError if it does not exist."""
    module, _, attribute = name.rpartition(".")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("page", PAGES)
def test_a_relative_link_leads_to_a_file(page: str) -> None:
    """A file that moves takes the links to it along."""
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text(page))
    assert [target for target in targets if not (ROOT / page).parent.joinpath(target).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_a_command_and_its_options_exist(page: str) -> None:
    """`midrib NAME --option`, wherever a page shows it."""
    lines = re.findall(r"(?:^|[\s`$/])midrib ([a-z]+)((?: [^\n`|#]*)?)", text(page), re.MULTILINE)
    shown = {(name, option) for name, rest in lines for option in ["", *re.findall(r"(--[a-z][a-z-]*)", rest)]}
    existing = {
        (name, option)
        for name, command in COMMAND.commands.items()
        for option in ["", "--help", *(option for parameter in command.params for option in parameter.opts)]
    }
    existing |= {("train", "--model"), ("train", "--trainer")}  # as in --trainer.max_epochs: LightningCLI's
    assert {(name, option) for name, option in shown if name in COMMAND.commands} <= existing
    assert {option for name, option in shown if name not in COMMAND.commands and option} == set()


@pytest.mark.parametrize("page", CURRENT_PAGES)
def test_a_setting_exists(page: str) -> None:
    """`max_..._s` and the like: settings of the server, of a backbone or of a token."""
    named = re.findall(r"`(max_\w+_(?:s|ms|bytes|items|rows|elements|chars|pixels|streams))`", text(page))
    assert set(named) - SETTINGS == set()


@pytest.mark.parametrize("page", CURRENT_PAGES)
def test_a_python_name_exists(page: str) -> None:
    """`midrib.remote.testing.serving`: a module or its public attribute."""
    for name in set(re.findall(rf"\bmidrib\.(?:{LIBRARIES})(?:\.[A-Za-z]\w*)*", text(page))):
        assert resolved(name.removesuffix(".md"))


@pytest.mark.parametrize("page", [page for page in CURRENT_PAGES if page != "docs/architecture.md"])
def test_only_the_architecture_names_private_modules(page: str) -> None:
    """A user needs none of them."""
    assert re.findall(rf"\bmidrib\.(?:{LIBRARIES})\._\w+", text(page)) == []


@pytest.mark.parametrize("page", CURRENT_PAGES)
def test_an_extra_exists(page: str) -> None:
    """`midrib-server[http]`, wherever a page installs one."""
    for library, extras in re.findall(r"midrib-([a-z]+)\[([a-z,-]+)\]", text(page)):
        build = ROOT / ("server" if library == "server" else f"libs/{library}") / "BUILD"
        assert [extra for extra in extras.split(",") if f'"{extra}": [' not in build.read_text()] == []
