"""Times as the APIs write them: UTC, whole seconds."""

from datetime import UTC, datetime

UTC_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def utc_timestamp(moment: datetime | None = None) -> str:
    """`moment`, or now. A `moment` must be in UTC."""
    return (moment or datetime.now(UTC)).strftime(UTC_FORMAT)
