"""Cleans the tables of this app: partitions of the usage ledger, rows of dead gateways."""

from datetime import timedelta

from django.db.models.functions import Now

from core.partitions import Partitioned
from inference.models import GatewayHeartbeat

USAGE_PARTITIONS = Partitioned("inference_usagerecord", "started_on", keep_days=400)  # a year of bills and a margin
GATEWAY_TIMEOUT = timedelta(minutes=5)


def delete_dead_gateways() -> None:
    GatewayHeartbeat.objects.filter(beat_at__lt=Now() - GATEWAY_TIMEOUT).delete()
