"""Names of fields that a client chose, safe to repeat: in an error, and in the header that tells what was left out."""

from collections.abc import Iterable
from itertools import islice
from urllib.parse import quote

IGNORED_HEADER = "Serai-Ignored"
MAX_NAMES, MAX_NAME_LENGTH = 20, 60  # that are repeated


def printable_name(name: str) -> str:
    return name[:MAX_NAME_LENGTH].encode("ascii", "backslashreplace").decode("ascii")


def ignored_value(names: Iterable[str]) -> str:
    """The header's value: names separated by commas; what a header must not hold is percent-encoded."""
    return ", ".join(quote(name[:MAX_NAME_LENGTH], safe="[]():@$") for name in islice(dict.fromkeys(names), MAX_NAMES))
