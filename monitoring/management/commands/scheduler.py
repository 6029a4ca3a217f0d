"""manage.py scheduler: work by the clock."""

import signal

from django.core.management.base import BaseCommand

from accounts import configuration
from inference import housekeeping
from monitoring.scheduler import Duty, Scheduler

HOUR = 3600


class Command(BaseCommand):
    help = "Runs the scheduler: partitions, retention, forgetting dead gateways. Several may run; one works."

    def handle(self, **options):
        scheduler = Scheduler(
            [
                Duty("usage partitions", HOUR, housekeeping.make_usage_partitions),
                Duty("usage retention", HOUR, housekeeping.drop_old_usage),
                Duty("dead gateways", 60, housekeeping.forget_dead_gateways),
            ]
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: scheduler.stop())
        configuration.follow()
        scheduler.run()
