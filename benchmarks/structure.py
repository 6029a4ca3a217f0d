"""Measures how the source is built: folders, the imports between them, names, and sizes of functions and modules.

It needs the standard library only. The words of its tables:

room     a folder of the top level, or a module there
part     a folder or a module directly in a folder; the parts of the top level are the rooms
arrow    one part imports another
back up  an arrow against the order of the parts. Of all orders, the one with the fewest such imports is taken.
floors   parts on the longest way along the arrows, those back up left out
circle   parts that import each other, directly or through others
"""

import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
NOT_SOURCE = {"tests", "docs", "node_modules", "build"}
SOURCE_ROOT = "platform"  # its packages are imported without its name
SHEET_LINES = 1000  # folders of so many lines get a line in the table of folders
# Names that Django or Python gives, so that they stand in many folders.
COMMON_FILES = {
    "__init__", "__main__", "admin", "apps", "asgi", "consumers", "models", "serializers", "services", "tasks", "urls",
    "urls_v1", "views",
}  # fmt: skip
COMMON_CLASSES = {"Command", "Meta", "Media"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Arrows = Counter[tuple[str, str]]  # (from part, to part) → import lines


@dataclass(frozen=True)
class Module:
    """One source file. `parts` are the names of its folders and its own, from the top."""

    path: PurePosixPath
    text: str

    @property
    def parts(self) -> tuple[str, ...]:
        return self.path.with_suffix("").parts

    @property
    def name(self) -> str:
        """As it is imported."""
        parts = self.parts[1:] if self.parts[0] == SOURCE_ROOT else self.parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    @property
    def is_migration(self) -> bool:
        return "migrations" in self.parts

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    def nodes(self, *kinds: type) -> Iterator:
        return (node for node in ast.walk(self.tree) if isinstance(node, kinds))


class Source:
    """All modules of a tree but those of the tests, and the imports between them."""

    def __init__(self, root: Path):
        self.root = root
        self.modules = list(_read_modules(root))
        self.code = [module for module in self.modules if not module.is_migration]
        self._by_name = {module.name: module for module in self.modules}
        self._by_path = {str(module.path.with_suffix("")): module for module in self.modules}

    @cached_property
    def imports(self) -> list[tuple[Module, int, Module]]:
        """(importing module, line, imported module) for each name in each import statement."""
        return [
            (module, node.lineno, target)
            for module in self.code
            for node in module.nodes(ast.Import, ast.ImportFrom)
            for name in _imported_names(node)
            if (target := self._find(module, name)) and target is not module
        ]

    def _find(self, module: Module, name: str) -> Module | None:
        """The module that `name`, or the longest beginning of it, means. In a program a bare name is a neighbour's."""
        folder = module.path.parent
        if str(folder / "__main__") in self._by_path and (near := self._by_path.get(str(folder / name.split(".")[0]))):
            return near
        while name:
            if name in self._by_name:
                return self._by_name[name]
            name = name.rpartition(".")[0]
        return None

    def below(self, folder: str) -> list[Module]:
        return [module for module in self.modules if module.path.is_relative_to(folder or ".")]

    @cached_property
    def folders(self) -> list[str]:
        """Each folder that holds source, the root as ''."""
        found = {str(parent) for module in self.code for parent in module.path.parents}
        return sorted("" if folder == "." else folder for folder in found)


def _read_modules(root: Path) -> Iterator[Module]:
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if name[0] != "." and name not in NOT_SOURCE)
        for name in sorted(files):
            if name.endswith(".py"):
                path = Path(folder) / name
                yield Module(PurePosixPath(path.relative_to(root)), path.read_text())


def _imported_names(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [f"{node.module}.{alias.name}" for alias in node.names] if node.module and not node.level else []


# --- arrows between the parts of a folder


def part_of(module: Module, folder: str) -> str:
    """The direct part of `folder` that the module lies in; '' for a module of elsewhere."""
    depth = len(PurePosixPath(folder).parts)
    inside = module.path.is_relative_to(folder or ".") and module.parts[depth] != "__init__"
    return module.parts[depth] if inside else ""


def arrows_in(source: Source, folder: str) -> Arrows:
    statements = {
        (part_of(module, folder), part_of(target, folder), module.path, line) for module, line, target in source.imports
    }
    return Counter((start, end) for start, end, _path, _line in statements if start and end and start != end)


def circles(arrows: Iterable[tuple[str, str]]) -> list[frozenset[str]]:
    """Groups of parts of which each reaches all others of its group."""
    targets = _targets(arrows)
    reached = {part: _reached_from(part, targets) for part in targets}
    groups = {frozenset(end for end in ends if start in reached.get(end, ())) for start, ends in reached.items()}
    return sorted((group for group in groups if len(group) > 1), key=sorted)


def back_arrows(arrows: Arrows) -> Arrows:
    """The fewest import lines against one order. Only arrows within circles can be among them."""
    found: Arrows = Counter()
    for circle in circles(arrows):
        order = _best_order(circle, arrows)
        found.update({(a, b): n for (a, b), n in arrows.items() if {a, b} <= circle and order[a] < order[b]})
    return found


def floors(arrows: Arrows) -> int:
    """Parts on the longest way down, arrows back up left out."""
    targets = _targets(arrows.keys() - back_arrows(arrows).keys())

    @cache
    def height(part: str) -> int:
        return 1 + max(map(height, targets.get(part, ())), default=0)

    return max(map(height, targets), default=1)


def _targets(arrows: Iterable[tuple[str, str]]) -> Mapping[str, set[str]]:
    targets = defaultdict(set)
    for start, end in arrows:
        targets[start].add(end)
    return targets


def _reached_from(part: str, targets: Mapping[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    left = [part]
    while left:
        new = targets.get(left.pop(), set()) - reached
        reached |= new
        left += new
    return reached


def _best_order(circle: frozenset[str], arrows: Arrows) -> dict[str, int]:
    """Part → its place, the lowest first, such that the fewest import lines point upwards."""

    @cache
    def best(placed: frozenset[str]) -> tuple[int, tuple[str, ...]]:
        if not placed:
            return 0, ()
        return min(_with_top(part, *best(placed - {part})) for part in placed)

    def _with_top(part: str, cost: int, below: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
        return cost + sum(arrows[lower, part] for lower in below), (*below, part)

    return {part: place for place, part in enumerate(best(circle)[1])}


# --- names, functions, modules


def repeated_classes(source: Source) -> list[str]:
    names = Counter(node.name for module in source.code for node in module.nodes(ast.ClassDef))
    return sorted(name for name, count in names.items() if count > 1 and name not in COMMON_CLASSES)


def repeated_files(source: Source) -> list[str]:
    names = Counter(module.path.stem for module in source.code)
    return sorted(name for name, count in names.items() if count > 1 and name not in COMMON_FILES)


def functions(source: Source) -> list[tuple[Module, Function]]:
    return [(module, node) for module in source.code for node in module.nodes(*Function.__args__)]


def is_one_statement(function: Function) -> bool:
    """Beside a docstring. A loop or a condition counts as one statement, with all that is in it."""
    return len([node for node in function.body if not _is_text(node)]) == 1


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def private_functions(source: Source) -> tuple[int, int]:
    """How many there are, and how many of them are named once in their module beside their definition."""
    total = single = 0
    for module in source.code:
        used = Counter(getattr(node, "id", getattr(node, "attr", "")) for node in module.nodes(ast.Name, ast.Attribute))
        own = [node.name for node in module.nodes(*Function.__args__) if re.match(r"_(?!_)", node.name)]
        total += len(own)
        single += sum(used[name] == 1 for name in own)
    return total, single


def docstring_lines(source: Source) -> int:
    owners = [node for module in source.code for node in module.nodes(ast.Module, ast.ClassDef, *Function.__args__)]
    first = [owner.body[0] for owner in owners if owner.body and _is_text(owner.body[0])]
    return sum((node.end_lineno or node.lineno) - node.lineno + 1 for node in first)


def modules_with_test(source: Source) -> tuple[int, int]:
    """Modules with a name of their own, and how many of these names stand in the name of a test file."""
    tests = [path.stem for path in (source.root / "tests").rglob("test_*.py")]
    stems = [module.path.stem for module in source.code if module.path.stem not in COMMON_FILES]
    return len(stems), sum(any(stem in test for test in tests) for stem in stems)


def mypy_errors(root: Path) -> int | None:
    """None where mypy is not at hand, or where the tree does not configure it."""
    candidates = [ROOT / ".venv/bin/mypy", Path(sys.executable).parent / "mypy", Path(shutil.which("mypy") or "mypy")]
    program = next((path for path in candidates if path.exists()), None)
    if program is None or "[tool.mypy]" not in (root / "pyproject.toml").read_text():
        return None
    with tempfile.TemporaryDirectory() as data:
        environment = {**os.environ, "SERAI_DATA": data}
        output = subprocess.run([program], cwd=root, env=environment, capture_output=True, text=True).stdout
    summary = re.search(r"^Found (\d+) error|^Success", output, re.MULTILINE)
    return int(summary[1] or 0) if summary else None


# --- one tree, measured


def measure(root: Path, *, types: bool) -> dict:
    source = Source(root)
    return {
        **_house(source),
        **_names_and_sizes(source),
        "mypy errors": mypy_errors(root) if types else None,
        "folders": {folder: _sheet(source, folder) for folder in source.folders if _has_sheet(source, folder)},
    }


def _house(source: Source) -> dict:
    arrows = arrows_in(source, "")
    back = back_arrows(arrows)
    found = {folder or ".": circles(arrows_in(source, folder)) for folder in source.folders}
    rooms: Counter[str] = Counter()
    for module in source.modules:
        rooms[module.parts[0]] += module.lines
    return {
        "lines": _lines(source.modules),
        "rooms": dict(rooms.most_common()),
        "floors": floors(arrows),
        "arrows": len(arrows),
        "arrows back up": {f"{start} -> {end}": lines for (start, end), lines in sorted(back.items())},
        "circles between parts": {name: list(map(sorted, groups)) for name, groups in found.items() if groups},
    }


def _names_and_sizes(source: Source) -> dict:
    every = functions(source)
    lengths = [((node.end_lineno or 0) - node.lineno + 1, f"{module.path}: {node.name}") for module, node in every]
    sizes = [module.lines for module in source.code if module.path.stem != "__init__"]
    total, single = private_functions(source)
    named, tested = modules_with_test(source)
    return {
        "class names used twice": repeated_classes(source),
        "file names used twice": repeated_files(source),
        "functions": len(every),
        "functions of one statement, %": _percent(sum(is_one_statement(node) for _module, node in every), len(every)),
        "private functions with one caller, %": _percent(single, total),
        "longest function": max(lengths),
        "modules": len(sizes),
        "modules under 30 lines": sum(size < 30 for size in sizes),
        "modules under 60 lines": sum(size < 60 for size in sizes),
        "modules named by a test file, %": _percent(tested, named),
        "docstring lines per 100": round(100 * docstring_lines(source) / _lines(source.code), 1),
    }


def _has_sheet(source: Source, folder: str) -> bool:
    return folder != "" and _lines(source.below(folder)) >= SHEET_LINES


def _sheet(source: Source, folder: str) -> dict:
    arrows = arrows_in(source, folder)
    return {
        "lines": _lines(source.below(folder)),
        "parts": len({part_of(module, folder) for module in source.code} - {""}),
        "floors": floors(arrows),
        "arrows": len(arrows),
        "back up": len(back_arrows(arrows)),
    }


def _lines(modules: Iterable[Module]) -> int:
    return sum(module.lines for module in modules)


def _percent(part: int, whole: int) -> int:
    return round(100 * part / whole) if whole else 0


# --- output


def print_tables(measured: dict[str, dict]) -> None:
    """Markdown, one column per tree."""
    _print_rows(["measure", *measured], _summary_rows(measured))
    rooms = sorted({room for figures in measured.values() for room in figures["rooms"]})
    room_rows = ([room, *(_room_cell(figures, room) for figures in measured.values())] for room in rooms)
    _print_rows(["room", *measured], room_rows)
    folders = sorted({folder for figures in measured.values() for folder in figures["folders"]})
    sheet_rows = ([folder, *(_sheet_cell(figures, folder) for figures in measured.values())] for folder in folders)
    _print_rows(["folder: parts, floors, arrows, back up", *measured], sheet_rows)


def _summary_rows(measured: dict[str, dict]) -> Iterator[list[str]]:
    first = next(iter(measured.values()))
    for measure_name in first:
        if measure_name != "folders":
            yield [measure_name, *(_summary_cell(measure_name, figures) for figures in measured.values())]
        if measure_name == "rooms":
            yield ["largest room", *(_largest(figures) for figures in measured.values())]


def _summary_cell(name: str, figures: dict) -> str:
    value = figures[name]
    if name == "longest function":
        return f"{value[0]} lines"
    if name == "arrows back up":
        return f"{len(value)} (import lines: {sum(value.values())})"
    if name == "circles between parts":
        return str(sum(map(len, value.values())))
    if value is None:
        return "not measured"
    return f"{len(value) if isinstance(value, dict | list) else value:,}"


def _largest(figures: dict) -> str:
    room = next(iter(figures["rooms"]))
    return f"{room}, {_percent(figures['rooms'][room], figures['lines'])} %"


def _room_cell(figures: dict, room: str) -> str:
    lines = figures["rooms"].get(room)
    return f"{lines:,} ({_percent(lines, figures['lines'])} %)" if lines else ""


def _sheet_cell(figures: dict, folder: str) -> str:
    sheet = figures["folders"].get(folder)
    return ", ".join(str(sheet[column]) for column in ("parts", "floors", "arrows", "back up")) if sheet else ""


def _print_rows(head: list[str], rows: Iterable[list[str]]) -> None:
    for row in [head, ["---"] * len(head), *rows]:
        print("|", *(f"{cell} |" for cell in row))
    print()


def measure_revision(revision: str, *, types: bool) -> dict:
    """Of a commit of this repository, unpacked into a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", revision], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        return measure(Path(folder), types=types)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rev", action="append", default=[], help="a git revision; several give columns side by side "
                        "(default: the files as they are)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="all figures, with the names behind them")
    parser.add_argument("--no-types", action="store_true", help="do not run mypy, which takes most of the time")
    options = parser.parse_args()
    types = not options.no_types
    measured = {revision: measure_revision(revision, types=types) for revision in options.rev}
    measured = measured or {"tree": measure(ROOT, types=types)}
    print(json.dumps(measured, indent=1)) if options.json else print_tables(measured)


if __name__ == "__main__":
    main()
