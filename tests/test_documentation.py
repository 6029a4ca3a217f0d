"""The reference names every route, setting and command, the glossary every term's home; every message is translated."""

import re
from importlib import import_module
from pathlib import Path

import pytest
from django.core.management import get_commands
from django.urls import URLResolver, get_resolver

from launcher.commands import LAUNCHER_COMMANDS
from monitoring.figures.catalogue import CATALOGUE
from tests.support.message_catalogue import marked, read_po

ROOT = Path(__file__).resolve().parents[1]
APPS = {"accounts", "benchmarks", "config", "inference", "models_app"}
REFERENCE = (ROOT / "docs/reference.md").read_text()


def routes(patterns, prefix="/"):
    """Every route, those of the console as one."""
    for pattern in patterns:
        route = prefix + re.sub(r"\(\?P<(\w+)>[^)]*\)", r"<\1>", str(pattern.pattern).strip("^$").replace("\\Z", ""))
        if not isinstance(pattern, URLResolver) or route == "/console/":
            yield route
        else:
            yield from routes(pattern.url_patterns, route)


def test_every_route_is_in_the_reference():
    found = set(routes(get_resolver().url_patterns))
    mirrored = {route for route in found if route.replace("/api/v1/", "/api/") in found - {route}}
    assert len(found - mirrored) > 25
    assert [route for route in found - mirrored if f"`{route}`" not in REFERENCE] == []


def test_every_setting_is_in_the_reference():
    code = (ROOT / "config/settings.py").read_text()
    names = set(re.findall(r'env\.\w+\(\s*"(\w+)"', code))
    assert len(names) > 20
    assert {name for name in names if f"`{name}`" not in REFERENCE} == set()


def test_every_command_is_in_the_reference():
    ours = {name for name, app in get_commands().items() if app in APPS} | set(LAUNCHER_COMMANDS)
    assert {"up", "test", "worker", "scheduler", "engine"} <= ours
    assert {name for name in ours if f"`manage.py {name}`" not in REFERENCE} == set()


def test_every_message_is_translated():
    """docs/development.md says how, under "A message"."""
    translated = {text for text, translation in read_po().items() if translation}
    assert len(marked()) > 200
    assert sorted(marked() - translated) == []


def test_every_metric_is_listed_with_unit_and_kind():
    listed = set(
        re.findall(r"^\| `(\w+)` \| (\S+) \| (\w+) \| (.+) \|$", (ROOT / "docs/monitoring.md").read_text(), re.M)
    )
    assert listed == {(metric.name, metric.unit, metric.kind.value, metric.description) for metric in CATALOGUE}


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_the_locks_name_no_host_and_hash_every_package(name):
    text = (ROOT / name).read_text()
    assert "://" not in text
    packages = re.findall(r"^[\w.\[\]-]+==", text, re.MULTILINE)
    assert len(packages) > 20
    assert text.count("--hash=sha256:") >= len(packages)


def test_both_readmes_begin_with_the_two_commands():
    for name in ("README.md", "README.zh-CN.md"):
        head = (ROOT / name).read_text()[:1500]
        assert head.index("manage.py up") < head.index("manage.py test")


def test_links_between_the_documents_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "README.zh-CN.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_files_that_the_documents_name_exist():
    """In backticks, with a folder, relative to the tree or to platform/; names with a placeholder are left out."""
    missing = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        named = re.findall(r"`([\w.-]+/[\w./-]+\.(?:py|po|md|sh))`", page.read_text())
        found = [any((folder / name).exists() for folder in (ROOT, ROOT / "platform")) for name in named]
        missing += [f"{page.name}: {name}" for name, exists in zip(named, found, strict=True) if not exists]
    assert missing == []


def glossary():
    """(term, home) of each row."""
    return re.findall(r"^\| ([a-z].*?) \| .+ \| `(.+?)` \|$", (ROOT / "docs/glossary.md").read_text(), re.M)[1:]


def exists(home):
    """`home` is a path of the tree, or a dotted name of a module or of something in a module."""
    if "/" in home:
        return (ROOT / home).exists()
    module, _, name = home.rpartition(".")
    return hasattr(import_module(module), name)


def test_every_home_in_the_glossary_exists():
    found = glossary()
    assert len(found) > 80
    assert [f"{term}: {home}" for term, home in found if not exists(home)] == []


def test_the_glossary_is_in_alphabetical_order_and_names_each_term_once():
    terms = [term for term, _home in glossary()]
    assert terms == sorted(set(terms))
