"""The response header that tells a client of a foreign protocol which of its wishes were left out."""

from collections.abc import Iterable
from itertools import islice
from urllib.parse import quote

HEADER = "Serai-Ignored"
MAX_NAMES, MAX_NAME_LENGTH = 20, 60


def header_value(names: Iterable[str]) -> str:
    """Names separated by commas; what a header must not hold is percent-encoded. At most 20, each cut to 60."""
    return ", ".join(quote(name[:MAX_NAME_LENGTH], safe="[]():@$") for name in islice(dict.fromkeys(names), MAX_NAMES))
