"""Log lines as the service API and the manager API show them, with the instance and replica added."""

from dataclasses import dataclass
from datetime import UTC, datetime

from core.times import utc_timestamp
from inference.logs.lines import StoredLogLine, redact_for_tenant
from inference.logs.stream import LogEntry


def render_line(line: StoredLogLine, *, whole: bool) -> dict:
    """A line as the service API shows it. `whole`: with host paths and pids, for operators."""
    moment = datetime.fromtimestamp(line.time, UTC)
    return {
        "timestamp": utc_timestamp(moment),
        "level": line.level,
        "message": line.text if whole else redact_for_tenant(line.text),
        "instance_id": line.instance_id,
        "replica": line.replica,
    }


@dataclass(frozen=True)
class ServiceLogFormat:
    """`GET …/logs?follow=true`: one line per event."""

    whole: bool

    def line(self, entry: LogEntry, *, new: bool) -> dict:
        return render_line(entry.line, whole=self.whole)

    def caught_up(self) -> list[dict]:
        return []

    def error(self, message: str) -> dict:
        return {"error": message}

    def end(self) -> list[dict]:
        return []


@dataclass(frozen=True)
class ManagerLogFormat:
    """`GET …/logs/stream`: messages with a type; times in epoch seconds."""

    whole: bool

    def line(self, entry: LogEntry, *, new: bool) -> dict:
        line = render_line(entry.line, whole=self.whole) | {"timestamp": int(entry.line.time)}
        return {"type": "realtime" if new else "historical", "log": line}

    def caught_up(self) -> list[dict]:
        return [{"type": "historical_complete"}]

    def error(self, message: str) -> dict:
        return {"type": "error", "message": message}

    def end(self) -> list[dict]:
        return [{"type": "stream_end"}]
