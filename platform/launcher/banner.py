"""What a person reads when the product is up: where it is, how to log in, and a line to paste."""

import json
from collections.abc import Mapping

QUESTION = "What is the capital of France?"


def ready(record: Mapping, seconds: float, note: str) -> str:
    """`record` is what `manage.py first_run` says; parts that it no longer knows are left out."""
    rows = {
        "Address": record["base_url"],
        "Console": f"{record['login_link']}   (logs in once)" if record.get("login_link") else record["console_url"],
        "Login": _pair(record.get("username"), record.get("password")),
        "API key": record.get("api_key"),
        "Model": record.get("model"),
    }
    lines = [f"  Serai is ready in {seconds:.1f} s", ""]
    lines += [f"  {name:<9} {value}" for name, value in rows.items() if value]
    if record.get("api_key") and record.get("model"):
        lines += ["", curl(record), ""]
    if note:
        lines.append(f"  {note}")
    return "\n".join(lines).rstrip()


def engine_ready(record: Mapping) -> str:
    lines = ["  The engine is installed."]
    if record.get("api_key") and record.get("model"):
        lines = ["  The engine is installed: this line works now.", "", curl(record)]
    return "\n".join(lines)


def curl(record: Mapping) -> str:
    """A line that can be pasted into a shell as it stands."""
    body = json.dumps({"model": record["model"], "messages": [{"role": "user", "content": QUESTION}]})
    return (
        f"  curl {record['base_url']}/v1/chat/completions -H 'Authorization: Bearer {record['api_key']}' "
        f"-H 'Content-Type: application/json' -d '{body}'"
    )


def _pair(username: str | None, password: str | None) -> str | None:
    return f"{username} / {password}" if username and password else username
