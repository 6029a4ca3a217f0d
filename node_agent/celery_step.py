"""Runs the agent as a bootstep of the Celery worker, apart from the consumer: a lost broker does not restart it."""

import fcntl
import logging
import os
import signal
import threading

from celery import bootsteps
from celery.worker import WorkController
from django.conf import settings

from node_agent.agent import Agent
from node_agent.listener import ChangeListener
from node_agent.sampling import Sampling

logger = logging.getLogger(__name__)


class AgentAlreadyRunning(Exception):
    """Another agent already uses this data folder."""


def lock_data_folder() -> int:
    """Lock the data folder; the kernel releases the lock when this process ends. Raises AgentAlreadyRunning."""
    settings.PRIVATE_DIR.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(settings.PRIVATE_DIR / "agent.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AgentAlreadyRunning(f"A worker already runs on {settings.DATA_DIR}.") from None
    return descriptor


class AgentStep(bootsteps.StartStopStep):
    """Starts and stops the agent's threads with the worker; engines keep running."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: WorkController, **options: object) -> None:
        super().__init__(parent, **options)
        self.agent = Agent()
        self.listener = ChangeListener(self.agent.wake)
        self.sampling = Sampling(lambda: self.agent.node)
        self.thread = threading.Thread(target=self._run, name="agent", daemon=True)

    def start(self, parent: WorkController) -> None:
        self.listener.start()
        self.thread.start()
        self.sampling.start()

    def _run(self) -> None:
        """If the agent fails, the worker stops too: it would start nothing. The next worker adopts the engines."""
        try:
            self.agent.run()
        except Exception:
            logger.exception("agent: it failed, so this worker ends")
            os.kill(os.getpid(), signal.SIGTERM)
            raise

    def stop(self, parent: WorkController) -> None:
        self.sampling.stop()
        self.listener.stop()
        self.agent.stop()
        self.thread.join(10)
