"""The product's translatable messages, found in its code and templates, and the catalogue of their translations."""

import ast
import re
from pathlib import Path

from django.conf import settings
from django.utils.translation.template import templatize

FOLDER = settings.LOCALE_PATHS[0] / "zh_Hans" / "LC_MESSAGES"
CODE = (
    "platform", "models_app", "engines", "inference", "gateway", "node_agent", "training", "monitoring", "config",
)  # fmt: skip


def read_po() -> dict[str, str]:
    """msgid → msgstr of django.po; for plurals the first form."""
    found = {}
    for block in (FOLDER / "django.po").read_text().split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if start := re.match(r'(msg\w+(?:\[0\])?) (".*")$', line):
                name, line = start.groups()
            if line.startswith('"'):
                fields[name] = fields.get(name, "") + ast.literal_eval(line)
        found[fields["msgid"]] = fields.get("msgstr") or fields.get("msgstr[0]", "")
    return found


def sources() -> list[Path]:
    """The product's own modules, without migrations, whose texts no user reads."""
    return [
        path for folder in CODE for path in (settings.BASE_DIR / folder).rglob("*.py") if "migrations" not in path.parts
    ]


def texts(call: ast.Call) -> list[str]:
    """The literal texts among a call's arguments."""
    return [node.value for node in call.args if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def calls(tree: ast.AST, names: set[str]) -> list[ast.Call]:
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in found if getattr(call.func, "id", getattr(call.func, "attr", None)) in names]


def messages_in(path: Path) -> set[str]:
    """The messages that a module marks as translatable, under any name by which it imports gettext."""
    tree = ast.parse(path.read_text())
    names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "django.utils.translation"
        for alias in node.names
        if "gettext" in alias.name
    }
    return {texts(call)[0] for call in calls(tree, names) if texts(call)}


def messages_of_template(path: Path) -> set[str]:
    marked = re.findall(r"gettext\(u?(\'(?:[^\'\\]|\\.)*\'|\"(?:[^\"\\]|\\.)*\")", templatize(path.read_text()))
    return {ast.literal_eval(text) for text in marked}


def marked() -> set[str]:
    """Every message of the product."""
    pages = (settings.BASE_DIR / "templates").rglob("*.html")
    return set().union(*map(messages_in, sources()), *map(messages_of_template, pages))
