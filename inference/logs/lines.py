"""A line of an engine's output: how it is cleaned before it is stored, and what of it a tenant may see."""

import re
from dataclasses import dataclass

from core.logs import redact

MAX_LINE_LENGTH = 4000  # characters; the rest is cut off
CONTROL = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])|[\x00-\x08\x0a-\x1f\x7f-\x9f]"
)
LEVEL = re.compile(r"\b(DEBUG|INFO|WARN(?:ING)?|ERROR|CRITICAL|FATAL)\b")
LEVEL_WITHIN = 80  # characters: after these such a word is part of the message
LEVELS = {"WARN": "WARNING", "FATAL": "CRITICAL"}
DEFAULT_LEVEL = "INFO"

# Any path of two or more parts, except URLs (`http://host/…`) and the routes that engines list (`/v1/…`).
HOST_PATH = re.compile(r"(?:(?<=://)|(?<![\w/.]))/(?!v\d+/)(?:[^/\s'\":,;()<>\[\]{}|]+/)+([^/\s'\":,;()<>\[\]{}|]*)")
PROCESS_ID = re.compile(r"\b((?:p?pid|process(?: id)?)[ =:]{0,2}[\[(]?)\d+", re.IGNORECASE)


@dataclass(frozen=True)
class StoredLogLine:
    """`time` is in epoch seconds, when the shim read it; `instance_id` and `replica` name the source."""

    time: float
    instance_id: str
    replica: int
    text: str

    @property
    def level(self) -> str:
        found = LEVEL.search(self.text, 0, LEVEL_WITHIN)
        return LEVELS.get(found[1], found[1]) if found else DEFAULT_LEVEL


def clean_line(text: str) -> str:
    """Without secrets and control characters, of bounded length."""
    text = redact(CONTROL.sub("", text.expandtabs(4)))
    return (
        text
        if len(text) <= MAX_LINE_LENGTH
        else f"{text[:MAX_LINE_LENGTH]}… ({len(text) - MAX_LINE_LENGTH} more characters)"
    )


def redact_for_tenant(text: str) -> str:
    """Without pids, and with only the last part of host paths."""
    return PROCESS_ID.sub(r"\1…", HOST_PATH.sub(r"…/\1", text))
