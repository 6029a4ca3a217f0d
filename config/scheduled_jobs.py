"""All work by the clock, which `manage.py scheduler` runs: one line for each job, with its interval in seconds."""

from functools import partial

from core.scheduler import ScheduledJob
from inference import table_cleanup
from inference.serving import replicas
from models_app.adapters import services as adapters
from monitoring.figures import levels, rollups
from training.jobs import queue

HOUR = 3600


def scheduled_jobs() -> list[ScheduledJob]:
    return [
        ScheduledJob("usage partitions", HOUR, table_cleanup.USAGE_PARTITIONS.make),
        ScheduledJob("usage retention", HOUR, table_cleanup.USAGE_PARTITIONS.drop_old),
        ScheduledJob("figures partitions", HOUR, levels.make_partitions),
        ScheduledJob("figures retention", HOUR, levels.drop_old_partitions),
        ScheduledJob("dead gateways", 60, table_cleanup.delete_dead_gateways),
        ScheduledJob("replicas", 5, replicas.ReplicaReconciler().work),
        ScheduledJob("training queue", 1, queue.place_jobs),
        ScheduledJob("adapters left behind", 300, adapters.remove_orphans),
        ScheduledJob("new samples", rollups.MARK_INTERVAL, rollups.mark_stale_minutes),
        *(
            ScheduledJob(f"roll-up {level.name}", level.roll_interval, partial(rollups.roll_up, level))
            for level in levels.LEVELS
        ),
    ]
