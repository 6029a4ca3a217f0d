"""manage.py worker: this machine's Celery worker, with the node agent in the same process."""

import socket
import warnings

from celery.exceptions import SecurityWarning
from django.core.management.base import BaseCommand, CommandError

from accounts import configuration
from config.celery import app
from core import periodic
from node_agent.celery_step import AgentAlreadyRunning, AgentStep, lock_data_folder


class Command(BaseCommand):
    help = "Runs this machine's worker: the node agent, which starts and stops engines, and Celery's short jobs."

    def add_arguments(self, parser):
        parser.add_argument("--concurrency", type=int, default=4, help="Threads for short jobs (default 4).")

    def handle(self, *, concurrency, **options):
        try:
            self._lock = lock_data_folder()
        except AgentAlreadyRunning as error:
            raise CommandError(str(error)) from None
        # Celery warns against root because of pickled messages; we accept JSON only
        warnings.filterwarnings("ignore", category=SecurityWarning)
        configuration.watch_changes()
        periodic.watch_loops()
        app.steps["worker"].add(AgentStep)
        name = f"worker@{socket.gethostname()}"
        queues = f"celery,node.{socket.gethostname()}"
        app.worker_main(
            [
                "--quiet",
                "worker",
                "--pool",
                "threads",
                "--concurrency",
                str(concurrency),
                "--loglevel",
                "WARNING",
                "--hostname",
                name,
                "--queues",
                queues,
                "--without-gossip",
                "--without-mingle",
            ]
        )
