"""manage.py scheduler: runs the scheduled jobs."""

import signal

from django.core.management.base import BaseCommand

from accounts import configuration
from config.scheduled_jobs import scheduled_jobs
from core import periodic
from core.scheduler import Scheduler


class Command(BaseCommand):
    help = (
        "Runs the scheduler: replicas, queue of training, partitions, retention, roll-ups, dead gateways. "
        "Several may run; one works."
    )

    def handle(self, **options):
        scheduler = Scheduler(scheduled_jobs())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: scheduler.stop())
        configuration.watch_changes()
        periodic.watch_loops()
        scheduler.run()
