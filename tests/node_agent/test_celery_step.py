"""The agent as a part of its worker."""

import signal
import threading

from node_agent.celery_step import AgentStep


def test_a_worker_whose_agent_has_failed_ends_so_that_another_takes_over(db):
    asked_to_end, reported = threading.Event(), threading.Event()
    step = AgentStep(parent=None)
    step.agent.run = lambda: 1 / 0
    before = signal.signal(signal.SIGTERM, lambda *_: asked_to_end.set())
    hook, threading.excepthook = threading.excepthook, lambda _: reported.set()
    try:
        step.thread.start()
        assert asked_to_end.wait(30)
        assert reported.wait(30)
    finally:
        signal.signal(signal.SIGTERM, before)
        threading.excepthook = hook
