"""manage.py scheduler: runs periodic jobs."""

import signal
from functools import partial

from django.core.management.base import BaseCommand

from accounts import configuration
from core import periodic
from core.scheduler import ScheduledJob, Scheduler
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
                ScheduledJob("usage partitions", HOUR, retention.USAGE_PARTITIONS.make),
                ScheduledJob("usage retention", HOUR, retention.USAGE_PARTITIONS.drop_old),
                ScheduledJob("figures partitions", HOUR, levels.make_partitions),
                ScheduledJob("figures retention", HOUR, levels.drop_old_partitions),
                ScheduledJob("dead gateways", 60, retention.delete_dead_gateways),
                ScheduledJob("replicas", 5, replicas.ReplicaReconciler().work),
                ScheduledJob("training queue", 1, queue.place_jobs),
                ScheduledJob("adapters left behind", 300, adapters.remove_orphans),
                ScheduledJob("new samples", rollups.MARK_INTERVAL, rollups.mark_stale_minutes),
                *(
                    ScheduledJob(f"roll-up {level.name}", level.roll_interval, partial(rollups.roll_up, level))
                    for level in levels.LEVELS
                ),
            ]
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: scheduler.stop())
        configuration.watch_changes()
        periodic.watch_loops()
        scheduler.run()
