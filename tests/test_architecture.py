"""Rules that no single feature test would catch."""

import ast
import platform
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Each app may import itself and what stands before it.
ORDER = ["core", "accounts", "models_app", "inference", "training", "monitoring"]
FOLDERS = {"core": "platform/core", "accounts": "platform/accounts"}
SOURCES = ["platform", "models_app", "inference", "training", "monitoring"]


def modules(folder):
    return [path for path in (ROOT / folder).rglob("*.py") if "migrations" not in path.parts]


def imported(path):
    """The first parts of the names that a module imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def test_platform_is_the_standard_librarys_and_no_package_of_ours():
    assert Path(platform.__file__).is_relative_to(sysconfig.get_path("stdlib"))
    assert not (ROOT / "platform/__init__.py").exists()


@pytest.mark.parametrize("app", ORDER)
def test_imports_point_one_way(app):
    above = set(ORDER[ORDER.index(app) + 1 :])
    upward = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(FOLDERS.get(app, app))
        for name in imported(path)
        if name in above
    ]
    assert upward == []


def test_the_trainer_knows_nothing_of_the_tree_and_lends_it_only_what_needs_no_torch():
    trainer = {path.stem: set(imported(path)) for path in modules("training/trainer")}
    assert not set().union(*trainer.values()) & {*ORDER, "config", "django"}
    lent = {"checkpoints", "conversation", "failures", "progress", "spans", "spec"}
    assert set().union(*(trainer[name] for name in lent)) <= sys.stdlib_module_names
    assert {name for path in modules("training") for name in borrowed(path)} <= lent


def borrowed(path):
    """Modules of the trainer that one outside of it imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("training.trainer"):
            name = node.module.removeprefix("training.trainer").strip(".")
            yield from [name] if name else (alias.name for alias in node.names)


def test_functions_and_modules_stay_short():
    long = []
    for path in (path for folder in SOURCES for path in modules(folder)):
        text = path.read_text()
        if text.count("\n") > 500:
            long.append(f"{path.relative_to(ROOT)} has {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 50:
                long.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert long == []


def test_the_environment_is_read_in_the_settings_only():
    """Outside of Django are the launcher, the shim and what runs in engines; everything else asks the settings."""
    readers = [
        str(path.relative_to(ROOT))
        for path in (
            path
            for folder in ["models_app", "inference", "training", "monitoring", "platform/accounts", "platform/core"]
            for path in modules(folder)
        )
        if not {"shim", "launchers", "trainer"} & {*path.parts}
        and any(word in path.read_text() for word in ("os.environ", "os.getenv"))
    ]
    assert readers == []
