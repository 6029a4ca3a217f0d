"""Tables of running models: nodes, devices, memory reservations, engine instances, tasks, gateways and usage."""

import socket
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar

from django.db import models
from django.db.models import Case, F, Q, When
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from core import ids
from core.tenancy import TenantModel, TenantQuerySet
from engines.crash_cause import Cause
from models_app.models import Model


class InstanceState(models.TextChoices):
    """Life cycle of an instance. Once it is placed, only the agent on its node writes it."""

    PENDING = "pending", _("Pending")
    STARTING = "starting", _("Starting")
    READY = "ready", _("Ready")
    DRAINING = "draining", _("Draining")
    STOPPED = "stopped", _("Stopped")
    FAILED = "failed", _("Failed")


RUNNING_STATES = [InstanceState.STARTING, InstanceState.READY, InstanceState.DRAINING]
ACTIVE_STATES = [InstanceState.PENDING, *RUNNING_STATES]


class Desired(models.TextChoices):
    RUNNING = "running", _("Running")
    STOPPED = "stopped", _("Stopped")


ENGINES_CHANGED = "engines"  # the word by which agents are notified that an engine was installed
NODE_TIMEOUT = timedelta(seconds=20)
DEVICE_TIMEOUT = timedelta(minutes=1)


class NodeQuerySet(models.QuerySet):
    def online(self):
        """Nodes whose agent sent a heartbeat within NODE_TIMEOUT, by the database's clock."""
        return self.filter(heartbeat_at__gt=Now() - NODE_TIMEOUT)

    def of_this_machine(self):
        return self.filter(name=socket.gethostname())


class Node(models.Model):
    """A machine, or a part of one, with its own agent; identified by host name and data folder."""

    id = models.CharField(primary_key=True, max_length=ids.LENGTH, default=ids.new_node_id, editable=False)
    name = models.CharField(max_length=200)
    data_folder = models.CharField(max_length=500)
    engines = models.JSONField(default=dict, help_text=_("Engine name → what is installed, or what is missing."))
    session = models.CharField(max_length=100, blank=True, help_text=_("Changes with each `up` or boot."))
    fence = models.PositiveBigIntegerField(default=0, help_text=_("Only the newest agent of a node may write."))
    heartbeat_at = models.DateTimeField(null=True)
    live = models.JSONField(default=dict, help_text=_("The latest sample of the host; percentages, and MiB."))
    created_at = models.DateTimeField(auto_now_add=True)

    objects = NodeQuerySet.as_manager()

    class Meta:
        ordering = ["name", "id"]
        constraints = [models.UniqueConstraint(fields=["name", "data_folder"], name="one_node_per_data_folder")]

    def __str__(self):
        return self.name


class DeviceKind(models.TextChoices):
    CPU = "cpu", "CPU"
    CUDA = "cuda", "CUDA"


class DeviceQuerySet(models.QuerySet):
    def online(self):
        """Devices that the agent of an online node measured within DEVICE_TIMEOUT: a removed one is not measured."""
        return self.filter(node__in=Node.objects.online(), measured_at__gt=Now() - DEVICE_TIMEOUT)


class Device(models.Model):
    """Memory that engines can be placed in. `reserved_bytes` is the sum of its reservations that are not leaving."""

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="devices")
    kind = models.CharField(max_length=4, choices=DeviceKind)
    index = models.PositiveSmallIntegerField(default=0)
    name = models.CharField(max_length=200)
    total_bytes = models.BigIntegerField()
    usable_bytes = models.BigIntegerField(help_text=_("What may be reserved: the total less a share for the system."))
    reserved_bytes = models.BigIntegerField(default=0, help_text=_("Claimed by those who stay or come."))
    used_bytes = models.BigIntegerField(default=0, help_text=_("As measured, by whomever."))
    foreign_bytes = models.BigIntegerField(default=0, help_text=_("Held by processes that are not ours, as measured."))
    suspect = models.CharField(max_length=300, blank=True, help_text=_("Why nothing new is placed here."))
    cores = models.PositiveSmallIntegerField(null=True, help_text=_("Of a CPU device."))
    temperature = models.SmallIntegerField(null=True, help_text=_("In °C, where the device tells it."))
    measured_at = models.DateTimeField(null=True)
    live = models.JSONField(default=dict, help_text=_("The latest sample of a GPU, with its processes."))

    objects = DeviceQuerySet.as_manager()

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["node", "kind", "index"], name="one_row_per_device"),
            models.CheckConstraint(condition=Q(reserved_bytes__gte=0), name="reservations_never_negative"),
        ]

    def __str__(self):
        return f"{self.node} {self.kind}:{self.index}"


class StopReason(models.TextChoices):
    EVICTED = "evicted", _("It made room for another model.")
    IDLE = "idle", _("Nobody had used it for its idle time.")
    RESTARTED = "restarted", _("Its machine or worker was started anew.")


class InstanceQuerySet(TenantQuerySet["Instance"]):
    def active(self):
        return self.filter(state__in=ACTIVE_STATES)

    def ended(self):
        return self.exclude(state__in=ACTIVE_STATES)

    def evictable(self):
        """Ready, and neither a stop nor a restart is requested."""
        return self.filter(state=InstanceState.READY, desired=Desired.RUNNING, generation=F("running_generation"))

    def serving(self):
        return self.filter(state=InstanceState.READY)

    def on(self, node):
        return self.filter(node=node)

    def wanted(self):
        return self.active().filter(desired=Desired.RUNNING)

    def request_stop(self, *, timeout: int, force: bool = False, reason: str = "") -> int:
        """Stop them after their requests in flight, but at most `timeout` seconds later; at once with `force`.

        `reason` is a StopReason, empty if a person asked. Returns how many rows changed.
        """
        return self.update(desired=Desired.STOPPED, stop_reason=reason, force_stop=force, stop_timeout=timeout)

    def foremost(self):
        """Orders instances so that the first of each model has the model's state: ready comes before starting."""
        rank = Case(
            When(state=InstanceState.READY, then=0),
            When(state__in=[InstanceState.PENDING, InstanceState.STARTING], then=1),
            When(state=InstanceState.DRAINING, then=2),
            default=3,
        )
        return self.order_by("model_id", rank, "-healthy", "-created_at")


class Instance(TenantModel):
    """One engine process tree that serves a model, from its placement to its end.

    `generation` is the number of the wanted run, `running_generation` that of the run the agent has started: a
    restart only raises the first. `endpoint` is a URL (`unix:///…`), so that other transports can be added.
    """

    id = models.CharField(primary_key=True, max_length=ids.LENGTH, default=ids.new_instance_id, editable=False)
    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="instances")
    replica = models.PositiveSmallIntegerField(default=0)
    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="instances")
    desired = models.CharField(max_length=10, choices=Desired, default=Desired.RUNNING)
    state = models.CharField(max_length=10, choices=InstanceState, default=InstanceState.PENDING)
    generation = models.PositiveIntegerField(default=1)
    running_generation = models.PositiveIntegerField(default=0)
    on_demand = models.BooleanField(default=False, help_text=_("Started by a request; not started again at boot."))
    force_stop = models.BooleanField(default=False, help_text=_("Stop without waiting for requests in flight."))
    stop_timeout = models.PositiveIntegerField(default=60, help_text=_("Seconds that draining may take."))
    start_timeout = models.PositiveIntegerField(default=300, help_text=_("Seconds that a start may take."))
    healthy = models.BooleanField(default=False)
    served_name = models.CharField(max_length=200, help_text=_("The model's name in the engine's eyes."))
    endpoint = models.CharField(max_length=300, blank=True)
    profile = models.CharField(max_length=100, blank=True, help_text=_("The device configuration that was chosen."))
    placement = models.JSONField(
        default=dict, help_text=_("Devices, estimated bytes, and why other candidates were refused.")
    )
    launch = models.JSONField(
        null=True, help_text=_("How it was started: arguments and environment, secrets left out.")
    )
    adapter_slots = models.PositiveSmallIntegerField(
        default=0, help_text=_("Adapters that this run can hold; 0: it was started without.")
    )
    adapter_rank = models.PositiveSmallIntegerField(default=0, help_text=_("The highest rank of an adapter."))
    adapters = models.JSONField(
        default=dict,
        help_text=_("Adapter version → whether this run has it loaded, lets go of it or refused it, and why."),
    )
    pid = models.PositiveIntegerField(null=True)
    memory_bytes = models.BigIntegerField(null=True, help_text=_("Of the whole process tree, as last measured."))
    peak_bytes = models.BigIntegerField(null=True, help_text=_("The most that this run was seen to hold."))
    exit_code = models.IntegerField(null=True)
    exit_signal = models.IntegerField(null=True)
    failure_reason = models.TextField(blank=True)
    failure_cause = models.CharField(max_length=20, choices=Cause, blank=True)
    stop_reason = models.CharField(max_length=20, blank=True, choices=StopReason, help_text=_("Unless a person asked."))
    log_tail = models.JSONField(default=list, help_text=_("The last lines before a failure."))
    logs_since = models.DateTimeField(null=True, help_text=_("Lines from before were cleared."))
    crashes = models.PositiveSmallIntegerField(default=0, help_text=_("Crashes since it was last stable."))
    state_since = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True)
    ready_at = models.DateTimeField(null=True)
    last_used_at = models.DateTimeField(null=True)
    retry_at = models.DateTimeField(null=True, help_text=_("When a crashed or failed one may be tried again."))

    objects: ClassVar = InstanceQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["model", "replica"],
                condition=Q(state__in=["pending", "starting", "ready", "draining"]),
                name="one_active_instance_per_replica",
            )
        ]

    def __str__(self):
        return self.id

    @property
    def reservations(self):
        return Reservation.objects.of(self.pk)

    def request_change(self, **fields) -> None:
        """Change the desired state; only the agent changes the observed state."""
        type(self).objects.filter(pk=self.pk).update(**fields)
        self.refresh_from_db()


class Use(models.TextChoices):
    """What an owner's processes do with its memory. Internal: no API shows it."""

    RESERVED = "promised", "Promised"  # no process yet
    LOADING = "filling", "Filling"  # the processes are starting
    IN_USE = "held", "Held"


class ReservationQuerySet(models.QuerySet):
    def of(self, owner: str):
        return self.filter(owner=owner)

    def in_use(self):
        """Reservations whose owner has processes."""
        return self.exclude(use=Use.RESERVED)

    def leaving(self):
        return self.filter(leaving=True)

    def owners(self):
        """For a subquery."""
        return self.values("owner")


class Reservation(models.Model):
    """Reserved device memory; deleted when its owner's process tree has ended and the memory is free again.

    `owner` is the id of an instance, or of a workload of another app (a training job).
    """

    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="reservations")
    owner = models.CharField(max_length=ids.LENGTH, db_index=True)
    bytes = models.BigIntegerField()
    use = models.CharField(max_length=10, choices=Use, default=Use.RESERVED)
    leaving = models.BooleanField(
        default=False, help_text=_("Its owner is being evicted: promised to another already, though still held.")
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ReservationQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["device", "owner"], name="one_claim_per_device_and_owner")]


class MemoryPeak(models.Model):
    """The highest memory use of a model configuration on one device; the next start reserves that much."""

    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="memory_peaks")
    engine = models.CharField(max_length=20)
    device_kind = models.CharField(max_length=4, choices=DeviceKind)
    digest = models.CharField(max_length=64, help_text=_("Of the options and files that memory depends on."))
    bytes = models.BigIntegerField()
    seen_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["model", "engine", "device_kind", "digest"], name="one_peak_per_way_to_run")
        ]


class DecisionOutcome(StrEnum):
    PLACED = "placed"
    REFUSED = "refused"
    WAITING = "waiting"


WAITING_TIMEOUT = timedelta(seconds=5)  # a start that waits for room asks again more often than that


class PlacementRecordQuerySet(TenantQuerySet["PlacementRecord"]):
    def waiting(self):
        """Starts that wait for room now, the oldest first."""
        since = timezone.now() - WAITING_TIMEOUT
        return self.filter(decision__outcome=DecisionOutcome.WAITING, updated_at__gt=since).order_by("created_at", "pk")


class PlacementRecord(TenantModel):
    """One placement decision and its trace: why a start got these devices, or none."""

    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="placement_records")
    instance = models.ForeignKey(Instance, null=True, on_delete=models.SET_NULL, related_name="placement_records")
    decision = models.JSONField(
        help_text=_("Devices, profile, estimate, who had to go, and the word on each candidate.")
    )

    objects: ClassVar = PlacementRecordQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "-id"]


class CrashDossier(TenantModel):
    """What was known when an engine ended unexpectedly, so that the cause can be found later."""

    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="crash_dossiers")
    instance = models.ForeignKey(Instance, null=True, on_delete=models.SET_NULL, related_name="crash_dossiers")
    generation = models.PositiveIntegerField()
    cause = models.CharField(max_length=20, choices=Cause, default=Cause.UNKNOWN)
    reason = models.TextField(blank=True)
    exit_code = models.IntegerField(null=True)
    exit_signal = models.IntegerField(null=True)
    log_tail = models.JSONField(default=list)
    launch = models.JSONField(null=True, help_text=_("How it was started; operators only."))
    memory = models.JSONField(default=dict, help_text=_("Bytes of the tree and of its devices at the end."))
    started_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [models.UniqueConstraint(fields=["instance", "generation"], name="one_dossier_per_run")]


class TaskKind(models.TextChoices):
    START = "start", _("Start")
    STOP = "stop", _("Stop")
    RESTART = "restart", _("Restart")


class TaskStatus(models.TextChoices):
    RUNNING = "running", _("Running")
    SUCCEEDED = "succeeded", _("Succeeded")
    FAILED = "failed", _("Failed")


class Task(TenantModel):
    """A requested start, stop or restart, and its result."""

    id = models.CharField(primary_key=True, max_length=ids.LENGTH, default=ids.new_task_id, editable=False)
    kind = models.CharField(max_length=10, choices=TaskKind)
    status = models.CharField(max_length=10, choices=TaskStatus, default=TaskStatus.RUNNING)
    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="tasks")
    targets = models.JSONField(
        default=dict, help_text=_("Instance id → the run that is to be ready, or, of a stop, to have ended.")
    )
    warning = models.TextField(blank=True, help_text=_("Why fewer replicas than wanted were placed."))
    error = models.TextField(blank=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at", "id"]


class GatewayHeartbeat(models.Model):
    """The requests in flight of one gateway process; it writes them every second, so that agents can drain."""

    id = models.UUIDField(primary_key=True)
    host = models.CharField(max_length=200)
    pid = models.PositiveIntegerField()
    process = models.CharField(
        max_length=200, blank=True, help_text=_("Boot, pid namespace, pid and start time: one process for ever.")
    )
    beat_at = models.DateTimeField(help_text=_("When it looked at what it reports, by the database's clock."))
    routes = models.JSONField(default=list, help_text=_("Ids of the instances it may send requests to."))
    inflight = models.JSONField(default=dict, help_text=_("Instance id → requests in flight."))
    idle = models.JSONField(default=dict, help_text=_("Instance id → seconds since its last request ended."))
    waiting = models.JSONField(default=dict, help_text=_("Model id → requests that wait for it to start."))
    adapters = models.JSONField(
        default=dict, help_text=_("The same of adapter versions: routes, in flight and idle by instance, and waiting.")
    )


class UsageRecord(models.Model):
    """One request, metered. Partitioned by day; written by the gateways' flushers in batches."""

    pk = models.CompositePrimaryKey("started_on", "request_id")
    started_on = models.DateField()
    request_id = models.UUIDField()
    started_at = models.DateTimeField()
    tenant_id = models.CharField(max_length=ids.LENGTH)
    key_id = models.CharField(max_length=ids.LENGTH, null=True)
    user_id = models.CharField(max_length=ids.LENGTH, null=True)
    model_id = models.CharField(max_length=ids.LENGTH)
    model_name = models.CharField(max_length=200)
    instance_id = models.CharField(max_length=ids.LENGTH, null=True)
    generation = models.IntegerField(default=0)
    route = models.CharField(max_length=80)
    stream = models.BooleanField()
    status = models.CharField(max_length=20)
    http_status = models.SmallIntegerField()
    prompt_tokens = models.IntegerField(default=0)
    completion_tokens = models.IntegerField(default=0)
    cached_tokens = models.IntegerField(default=0)
    queue_ms = models.IntegerField(default=0)
    ttft_ms = models.IntegerField(null=True)
    duration_ms = models.IntegerField(default=0)

    class Meta:
        managed = False
        db_table = "inference_usagerecord"


class EngineTokens(models.Model):
    """An engine run's own token counters, as last read; the usage ledger is compared with them."""

    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="token_counts")
    generation = models.PositiveIntegerField()
    prompt_tokens = models.BigIntegerField(default=0)
    generation_tokens = models.BigIntegerField(default=0)
    read_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["instance", "generation"], name="one_count_per_run")]
