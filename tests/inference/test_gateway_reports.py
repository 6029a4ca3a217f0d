"""When an instance counts as drained or idle, by what gateways said and by what is known of those that are silent."""

import os
import subprocess
import sys
import uuid
from datetime import timedelta

import pytest
from django.utils import timezone

from core import process_identity
from inference.instances import gateway_reports
from inference.models import Desired, GatewayHeartbeat, Instance, InstanceState
from models_app.models import Model
from tests.support import instance_rows

NOW = timezone.now()
BEFORE, AFTER = NOW - timedelta(seconds=5), NOW + timedelta(seconds=1)
MODEL = "model-1"


def draining(pk: str = "instance-1") -> Instance:
    return Instance(pk=pk, state=InstanceState.DRAINING, state_since=NOW)


def heartbeat(at=AFTER, **fields) -> GatewayHeartbeat:
    return GatewayHeartbeat(id=uuid.uuid4(), host="box", pid=1, beat_at=at, **fields)


def drained(*live, silent=()) -> bool:
    return gateway_reports.GatewayReports(list(live), list(silent), {}).is_drained(draining())


def test_a_drain_is_over_when_every_gateway_has_looked_since_and_let_go():
    assert drained()
    assert drained(heartbeat(), heartbeat(routes=["instance-2"], inflight={"instance-2": 3}))
    assert not drained(heartbeat(), heartbeat(BEFORE))
    assert not drained(heartbeat(), heartbeat(routes=["instance-1"]))
    assert not drained(heartbeat(), heartbeat(inflight={"instance-1": 1}))


def test_silence_is_no_proof_of_letting_go():
    assert not drained(heartbeat(), silent=[heartbeat(BEFORE)])
    assert not drained(silent=[heartbeat(inflight={"instance-1": 1})])
    assert drained(silent=[heartbeat()])  # its last word was that it had


def ready(pk: str = "instance-1", seconds: float = 100, **fields) -> Instance:
    since = timezone.now() - timedelta(seconds=seconds)
    return Instance(**{"pk": pk, "state": InstanceState.READY, "ready_at": since, "state_since": since, **fields})


def idle(beats, *instances) -> float | None:
    return gateway_reports.GatewayReports(list(beats), [], {MODEL: list(instances)}).idle_seconds(MODEL)


def test_a_model_is_idle_as_a_whole():
    assert 100 <= idle([], ready()) < 160
    assert idle([heartbeat(idle={"instance-1": 30})], ready(), ready("instance-2")) == 30
    assert idle([heartbeat(inflight={"instance-2": 1})], ready(), ready("instance-2")) is None
    assert idle([heartbeat(waiting={MODEL: 1})], ready()) is None
    assert idle([], ready(), ready("instance-2", state=InstanceState.STARTING)) is None
    assert idle([], ready(), ready("instance-2", seconds=3)) < 60
    leaving = ready("instance-2", seconds=3, desired=Desired.STOPPED)
    assert idle([], ready(), leaving) >= 100


def test_requests_are_counted_by_model_over_the_gateways_that_speak():
    seen = gateway_reports.GatewayReports(
        [
            heartbeat(inflight={"instance-1": 2, "instance-9": 1}),
            heartbeat(inflight={"instance-2": 1}, waiting={MODEL: 4}),
        ],
        [heartbeat(inflight={"instance-1": 5})],
        {MODEL: [ready(), ready("instance-2")]},
    )
    assert seen.pending()[MODEL] == 7


# --- who is silent and who is gone


@pytest.fixture
def written(db):
    """written(seconds, **fields): a heartbeat of that age."""

    def write(age: float, **fields) -> GatewayHeartbeat:
        row = heartbeat(timezone.now() - timedelta(seconds=age), **fields)
        row.save()
        return row

    return write


@pytest.fixture
def ended_process() -> str:
    code = "from core.process_identity import identity; print(identity())"
    folders = os.pathsep.join(["platform", "."])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": folders}, capture_output=True)
    return done.stdout.decode().strip()


def test_a_silent_gateway_counts_until_its_process_is_known_to_be_gone(written, ended_process):
    here, elsewhere, unknown = process_identity.identity(), "another-boot pid:[1] 77 12345", ""
    kept = {written(30, process=who).pk for who in (here, elsewhere, unknown)}
    written(30, process=ended_process)
    seen = gateway_reports.read_reports()
    assert (seen.online, {row.pk for row in seen.stale}) == ([], kept)


def test_after_five_minutes_no_gateway_serves_from_an_old_snapshot_any_more(written):
    written(301)
    speaking = written(1)
    seen = gateway_reports.read_reports()
    assert ([row.pk for row in seen.online], seen.stale) == ([speaking.pk], [])


def test_processes_are_told_apart_by_boot_namespace_pid_and_start(ended_process):
    here = process_identity.identity()
    assert not process_identity.has_ended(here)
    assert process_identity.has_ended(ended_process)
    world, pid, start = here.rsplit(" ", 2)
    assert process_identity.has_ended(f"{world} {pid} {int(start) - 1}")  # the pid was given to another one
    assert not process_identity.has_ended(f"elsewhere {pid} {int(start) - 1}")
    assert not process_identity.has_ended("")


def test_only_what_is_active_is_looked_at(tenant):
    model = Model.objects.create(tenant=tenant, name="m")
    active = instance_rows.instance(model, InstanceState.READY)
    instance_rows.instance(model, InstanceState.STOPPED, replica=1)
    assert [row.pk for row in gateway_reports.read_reports().instances[model.pk]] == [active.pk]
