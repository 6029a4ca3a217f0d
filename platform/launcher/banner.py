"""Texts that are printed once the product is up: its address, how to log in, a command to paste."""

import json
import shlex
from collections.abc import Mapping

QUESTION = "What is the capital of France?"
NO_OPERATOR = "Nobody is an operator, so nobody can enter the console. To make one: python3 manage.py operator add NAME"


def ready_text(record: Mapping, seconds: float, note: str) -> str:
    """`record` is the output of `manage.py first_run`; fields without a value are left out."""
    rows = {
        "Address": record["base_url"],
        "Console": f"{record['login_link']}   (logs in once)" if record.get("login_link") else record["console_url"],
        "Login": _format_login(record.get("username"), record.get("password")),
        "API key": record.get("api_key"),
        "Secrets": _place_of_secrets(record),
        "Model": record.get("model"),
    }
    lines = [f"  Serai is ready in {seconds:.1f} s", ""]
    lines += [f"  {name:<9} {value}" for name, value in rows.items() if value]
    if command := curl_command(record):
        lines += ["", command, ""]
    if not record.get("has_operator", True):
        lines.append(f"  {NO_OPERATOR}")
    if note:
        lines.append(f"  {note}")
    return "\n".join(lines).rstrip()


def engine_ready_text(record: Mapping) -> str:
    """The key is not shown a second time."""
    if command := curl_command({**record, "api_key": None}):
        return "\n".join(["  The engine is installed: this line works now.", "", command])
    return "  The engine is installed."


def curl_command(record: Mapping) -> str | None:
    """A shell command that can be pasted as it is; it reads a hidden key from its file. None without key or model."""
    key = record.get("api_key") or _key_in_file(record.get("record_file"))
    if not key or not record.get("model"):
        return None
    body = json.dumps({"model": record["model"], "messages": [{"role": "user", "content": QUESTION}]})
    return (
        f'  curl {record["base_url"]}/v1/chat/completions -H "Authorization: Bearer {key}" '
        f"-H 'Content-Type: application/json' -d '{body}'"
    )


def _format_login(username: str | None, password: str | None) -> str | None:
    return f"{username} / {password}" if username and password else username


def _place_of_secrets(record: Mapping) -> str | None:
    """Where the first password and key lie, if they are not shown."""
    if record.get("password") or not record.get("record_file"):
        return None
    return f"the first password and key are in {record['record_file']}"


def _key_in_file(file: str | None) -> str | None:
    return f'$(sed -n \'s/.*"api_key": "\\(.*\\)".*/\\1/p\' {shlex.quote(file)})' if file else None
