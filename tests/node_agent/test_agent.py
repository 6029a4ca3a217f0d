"""The agent's tick: what it writes of its machine, and when."""

import uuid

import pytest

from accounts.models import Installation
from engines import registry
from inference.models import Node
from node_agent import agent as node_agent
from node_agent.agent import Agent
from tests.fakes.fake_aware_engine import FakeAwareEngine


@pytest.fixture
def agent(db, settings, monkeypatch):
    monkeypatch.setattr(node_agent, "HEARTBEAT_INTERVAL", 3600)  # none is due within a test
    settings.ENGINE_ADAPTERS = ["tests.fakes.fake_aware_engine.FakeAwareEngine"]
    registry.engines.cache_clear()
    Installation.objects.get_or_create(defaults={"cluster_id": uuid.uuid4()})
    yield Agent()
    registry.engines.cache_clear()


def test_a_new_engine_can_be_placed_at_the_next_tick_without_waiting_for_a_heartbeat(agent, monkeypatch):
    monkeypatch.setattr(FakeAwareEngine, "unavailable_reason", lambda self: "It is being installed.")
    agent.tick()
    assert Node.objects.get().engines == {"vllm": "It is being installed."}
    monkeypatch.setattr(FakeAwareEngine, "unavailable_reason", lambda self: None)
    agent.tick()
    assert Node.objects.get().engines == {"vllm": ""}
