"""How long the data plane serves from its last snapshot."""

import time

import pytest

from core import errors
from gateway.routing.snapshot import SnapshotSource
from tests.support.gateway_server import snapshot


def test_the_last_snapshot_serves_for_five_minutes_without_postgres(monkeypatch):
    world = snapshot()
    source = SnapshotSource(world)
    with pytest.raises(errors.ServiceUnavailable):
        SnapshotSource().current()
    start = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: start + 299)
    assert source.current() is world
    monkeypatch.setattr(time, "monotonic", lambda: start + 301)
    with pytest.raises(errors.ServiceUnavailable):
        source.current()
