"""Rules of the whole tree that no test of a feature would catch."""

import ast
import platform
import sys
import sysconfig
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

from engines import fetching, vllm
from node_agent import shims
from training.datasets import tokens
from verification import engine_plugin

ROOT = Path(__file__).resolve().parents[1]
# Each app may import itself and the apps of earlier lines; apps of one line do not know each other.
LAYERS = [
    ["core"],
    ["launcher"],
    ["accounts"],
    ["models_app"],
    ["engines"],
    ["inference"],
    ["gateway", "node_agent"],
    ["training"],
    ["monitoring"],
    ["config"],
    ["benchmarks"],
    ["verification"],
]
APPS = [app for layer in LAYERS for app in layer]
FOLDERS = {"core": "platform/core", "accounts": "platform/accounts", "launcher": "platform/launcher"}
# Programs of their own, which other programs start: they run without Django, some in another environment.
PROGRAMS = {"shim", "launchers", "trainer", "site", "plain_trl.py"}
# Where an import inside a function is meant: the app registry must be full first, or torch takes seconds to load.
LATE_IMPORTS = {"apps.py", "manage.py", "__main__.py", "counting.py", "serai_torchvision.py"}
# Class names that may stand for several things: name → (part of the path, reason).
SHARED_CLASS_NAMES = {"Command": ("management/commands", "Django finds a management command by this name")}
MIGRATION_HELPERS = {"core.ids", "core.notify", "core.partitions"}


def modules(app):
    return [path for path in sorted((ROOT / FOLDERS.get(app, app)).rglob("*.py")) if "migrations" not in path.parts]


ALL = [path for app in APPS for path in modules(app)]


@cache
def tree_of(path):
    return ast.parse(path.read_text())


def shown(path, node):
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def imports(path):
    """(node, dotted module) of each import, `from a import b` as a.b where b is a module."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            targets = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from {(node, target if target in names() else node.module) for target in targets}


@cache
def names():
    """Dotted module → its file."""
    found = {}
    for path in ALL:
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        parts = parts[1:] if parts[0] == "platform" else parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(app, module):
    """The direct part of an app that a module lies in: a folder of it, or a file."""
    return module.split(".")[1] if module.startswith(f"{app}.") else ""


def test_platform_is_the_standard_librarys_and_no_package_of_ours():
    assert Path(platform.__file__).is_relative_to(sysconfig.get_path("stdlib"))
    assert not (ROOT / "platform/__init__.py").exists()


@pytest.mark.parametrize("app", APPS)
def test_imports_point_one_way(app):
    level = next(number for number, layer in enumerate(LAYERS) if app in layer)
    allowed = {app, *(name for layer in LAYERS[:level] for name in layer)}
    upward = [
        f"{shown(path, node)} imports {module}"
        for path in modules(app)
        for node, module in imports(path)
        if module.split(".")[0] in {*APPS} - allowed
    ]
    assert upward == []


@pytest.mark.parametrize("app", APPS)
def test_no_circle_runs_through_the_parts_of_an_app(app):
    """Parts are its folders and its files; what a circle needs is named line by line."""
    arrows, lines = defaultdict(set), defaultdict(list)
    for module, path in names().items():
        if module.split(".")[0] != app:
            continue
        for node, target in imports(path):
            start, end = room(app, module), room(app, target)
            if target.split(".")[0] == app and target in names() and start and end and start != end:
                arrows[start].add(end)
                lines[start, end].append(shown(path, node))
    circle = circle_in(arrows)
    assert circle == [], [f"{a} -> {b}: {lines[a, b]}" for a, b in zip(circle, circle[1:], strict=False)]


def circle_in(arrows):
    done = set()

    def visit(name, way):
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        found = next((circle for target in sorted(arrows.get(name, ())) if (circle := visit(target, [*way, name]))), [])
        done.add(name)
        return found

    return next((circle for name in sorted(arrows) if (circle := visit(name, []))), [])


def test_a_class_name_stands_for_one_thing():
    homes = defaultdict(list)
    for path in ALL:
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef) and not may_share_its_name(node, path):
                homes[node.name].append(shown(path, node))
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


def may_share_its_name(node, path):
    folder, _reason = SHARED_CLASS_NAMES.get(node.name, (None, ""))
    return folder is not None and folder in path.as_posix()


def test_imports_stand_at_the_top():
    late = [
        shown(path, node)
        for path in ALL
        if path.name not in LATE_IMPORTS
        for function in ast.walk(tree_of(path))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert late == []


def test_migrations_import_only_their_helpers():
    """A migration is a record of its day: one that calls today's code breaks the fresh installs of tomorrow."""
    live = [
        f"{shown(path, node)} imports {module}"
        for path in ROOT.rglob("migrations/*.py")
        if ".venv" not in path.parts
        for node, module in imports(path)
        if module.split(".")[0] in APPS and module not in MIGRATION_HELPERS
    ]
    assert live == []


def test_the_trainer_knows_nothing_of_the_tree_and_lends_it_only_what_needs_no_torch():
    trainer = {path.stem: {module.split(".")[0] for _node, module in imports(path)} for path in trainer_modules()}
    assert not set().union(*trainer.values()) & {*APPS, "django"}
    lent = {"checkpoints", "conversation", "failures", "progress", "spans", "spec"}
    assert set().union(*(trainer[name] for name in lent)) <= sys.stdlib_module_names
    outside = [path for path in modules("training") if "trainer" not in path.parts]
    borrowed = {module for path in outside for _node, module in imports(path) if module.startswith("training.trainer.")}
    assert borrowed <= {f"training.trainer.{name}" for name in lent}


def trainer_modules():
    return [path for path in modules("training") if "trainer" in path.parts]


def test_the_shim_is_of_the_standard_library():
    shim = [path for path in modules("node_agent") if "shim" in path.parts]
    own = {path.stem for path in shim}
    found = {module.split(".")[0] for path in shim for _node, module in imports(path)}
    assert found - own - {"node_agent"} <= sys.stdlib_module_names


def test_programs_that_are_started_by_their_path_exist():
    """A moved module takes its path along without an error at import."""
    programs = [vllm.LAUNCHER, fetching.SCRIPT, shims.SHIM / "__main__.py", tokens.PROGRAM, engine_plugin.ENGINE]
    assert [str(path) for path in programs if not path.is_file()] == []


def test_functions_and_modules_stay_short():
    long = []
    for path in ALL:
        lines = path.read_text().count("\n")
        if lines > 500:
            long.append(f"{path.relative_to(ROOT)} has {lines} lines")
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 50:
                long.append(f"{shown(path, node)}: {node.name}")
    assert long == []


def test_the_environment_is_read_in_the_settings_only():
    """Outside of Django are the launcher, programs of their own and what measures; the rest asks the settings."""
    outside = {"launcher", "config", "benchmarks", "verification"}
    readers = [
        str(path.relative_to(ROOT))
        for app in APPS
        if app not in outside
        for path in modules(app)
        if not PROGRAMS & {*path.parts} and any(word in path.read_text() for word in ("os.environ", "os.getenv"))
    ]
    assert readers == []
