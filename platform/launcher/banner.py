"""Texts that are printed once the product is up: its address, how to log in, a command to paste."""

import json
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
        "Model": record.get("model"),
    }
    lines = [f"  Serai is ready in {seconds:.1f} s", ""]
    lines += [f"  {name:<9} {value}" for name, value in rows.items() if value]
    if record.get("api_key") and record.get("model"):
        lines += ["", curl_command(record), ""]
    if not record.get("has_operator", True):
        lines.append(f"  {NO_OPERATOR}")
    if note:
        lines.append(f"  {note}")
    return "\n".join(lines).rstrip()


def engine_ready_text(record: Mapping) -> str:
    lines = ["  The engine is installed."]
    if record.get("api_key") and record.get("model"):
        lines = ["  The engine is installed: this line works now.", "", curl_command(record)]
    return "\n".join(lines)


def curl_command(record: Mapping) -> str:
    """A shell command that can be pasted as it is."""
    body = json.dumps({"model": record["model"], "messages": [{"role": "user", "content": QUESTION}]})
    return (
        f"  curl {record['base_url']}/v1/chat/completions -H 'Authorization: Bearer {record['api_key']}' "
        f"-H 'Content-Type: application/json' -d '{body}'"
    )


def _format_login(username: str | None, password: str | None) -> str | None:
    return f"{username} / {password}" if username and password else username
