"""Fields of log lines, such as request id and tenant, and redaction of keys, tokens and passwords.

`bound` and `bind` set the fields of everything that the same task or thread logs.
"""

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import orjson

SECRETS = re.compile(
    r"(sk-serai-[\w-]{4})[\w-]+"  # API keys: the prefix stays, so that the key can be found
    r"|(eyJ[\w-]{4})[\w-]+\.[\w-]+\.[\w-]+"  # JWTs
    r"|(://[^/\s:@]*:)[^/\s@]+(?=@)"  # passwords in URLs
    r"|([?&]ticket=)[\w-]+"
    r"|(\bBearer )[\w.~+/=-]+"
    r"|\b(hf_|ghp_|AKIA)\w{8,}"  # of Hugging Face, GitHub and AWS
    r"|\b((?i:api_?key|secret|passw(?:or)?d|access_?token|auth_?token)['\"]?\s*[=:]\s*['\"]?)(?!None\b)[^\s'\",;&)]+"
)


def redact(text: str) -> str:
    return SECRETS.sub(lambda match: f"{next(filter(None, match.groups()), '')}***", text)


_fields: ContextVar[dict[str, str] | None] = ContextVar("log_fields", default=None)


def bind(**fields: str) -> None:
    """Holds until the surrounding `bound` or the task ends."""
    _fields.set({**(_fields.get() or {}), **fields})


@contextmanager
def bound(**fields: str) -> Iterator[None]:
    token = _fields.set({**(_fields.get() or {}), **fields})
    try:
        yield
    finally:
        _fields.reset(token)


class FieldsFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        vars(record)["fields"] = _fields.get() or {}
        return True


def _fields_of(record: logging.LogRecord) -> dict[str, str]:
    """What FieldsFilter wrote."""
    fields: dict[str, str] = vars(record)["fields"]
    return fields


class PlainFormatter(logging.Formatter):
    """`INFO node_agent: message [tenant=… instance=…]`"""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{record.levelname} {record.name}: {record.getMessage()}"
        if fields := _fields_of(record):
            line += f" [{' '.join(f'{name}={value}' for name, value in fields.items())}]"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One object per line: time (UTC), level, logger, message, the bound fields, and the traceback if there is one."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields_of(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


class RedactFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), ()
        return True
