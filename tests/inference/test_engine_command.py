"""manage.py engine: a product that runs can use a new engine once the command has ended."""

import socket
import threading
import time

import psycopg
import pytest
from django.db import connection

from core.notify import CHANNEL
from inference.management.commands import engine
from inference.models import ENGINES_CHANGED, Node
from tests.support import instance_rows


@pytest.fixture
def here():
    return instance_rows.node(socket.gethostname(), engines={"vllm": "", "llama.cpp": "It is not installed."})


@pytest.mark.django_db
def test_without_an_agent_on_this_machine_nobody_is_waited_for(here):
    Node.objects.update(name="another-machine")
    began = time.monotonic()
    engine.wait_until_noticed("llama.cpp")
    assert time.monotonic() - began < engine.NOTICE_TIMEOUT / 2


@pytest.mark.django_db(transaction=True)
def test_agents_are_notified_and_waited_for(here):
    heard = []

    def agent() -> None:
        with psycopg.connect(**connection_parameters(), autocommit=True) as link:
            link.execute(f"LISTEN {CHANNEL}")
            listening.set()
            heard.extend(notice.payload for notice in link.notifies(timeout=10, stop_after=1))
            link.execute("UPDATE inference_node SET engines = '{}'")

    listening = threading.Event()
    thread = threading.Thread(target=agent)
    thread.start()
    listening.wait()
    engine.wait_until_noticed("llama.cpp")
    assert Node.objects.get().engines == {}
    thread.join()
    assert heard == [ENGINES_CHANGED]


@pytest.mark.django_db
def test_an_agent_that_stays_silent_holds_the_command_up_for_a_while_only(here, monkeypatch):
    monkeypatch.setattr(engine, "NOTICE_TIMEOUT", 0.3)
    engine.wait_until_noticed("llama.cpp")
    assert Node.objects.get().engines["llama.cpp"]


def connection_parameters() -> dict:
    found = connection.get_connection_params()
    return {name: value for name, value in found.items() if name not in ("cursor_factory", "context")}
