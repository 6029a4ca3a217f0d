"""manage.py scheduler: runs periodic jobs."""

import signal
from functools import partial

from django.core.management.base import BaseCommand

from accounts import configuration
from core import periodic
from core.scheduler import Duty, Scheduler
from inference.instances import retention
from inference.serving import replicas
from models_app.adapters import services as adapters
from monitoring.figures import levels, rollups
from training.jobs import queue

HOUR = 3600


class Command(BaseCommand):
    help = (
        "Runs the scheduler: replicas, queue of training, partitions, retention, roll-ups, dead gateways. "
        "Several may run; one works."
    )

    def handle(self, **options):
        scheduler = Scheduler(
            [
                Duty("usage partitions", HOUR, retention.USAGE.make),
                Duty("usage retention", HOUR, retention.USAGE.drop_old),
                Duty("figures partitions", HOUR, levels.make_partitions),
                Duty("figures retention", HOUR, levels.drop_old),
                Duty("dead gateways", 60, retention.forget_dead_gateways),
                Duty("replicas", 5, replicas.Keeper().work),
                Duty("training queue", 1, queue.work),
                Duty("adapters left behind", 300, adapters.sweep),
                Duty("new samples", rollups.LOOK_SECONDS, rollups.look),
                *(
                    Duty(f"roll-up {level.name}", level.roll_seconds, partial(rollups.roll, level))
                    for level in levels.LEVELS
                ),
            ]
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: scheduler.stop())
        configuration.follow()
        periodic.watch()
        scheduler.run()
