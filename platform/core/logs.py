"""Nothing secret reaches a log: keys, tokens and passwords in URLs are masked at the root handler."""

import logging
import re

SECRET = re.compile(
    r"(sk-serai-[\w-]{4})[\w-]+"  # API keys: the prefix stays, so that a line can be traced
    r"|(eyJ[\w-]{4})[\w-]+\.[\w-]+\.[\w-]+"  # JWTs
    r"|(://[^/\s:@]*:)[^/\s@]+(?=@)"  # passwords in URLs
)


def redact(text: str) -> str:
    return SECRET.sub(lambda match: f"{next(filter(None, match.groups()), '')}***", text)


class Redact(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), ()
        return True
