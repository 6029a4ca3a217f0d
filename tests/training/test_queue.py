"""The queue of training jobs: whose turn it is, what is placed where, and what those are told who wait."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from core.units import GIB
from inference import memory_ledger
from inference.models import Desired, Device, Instance, InstanceState, Reservation
from models_app.models import Model
from tests.support import instance_rows, job_rows
from tests.support.job_rows import order
from training.jobs import queue
from training.jobs.queue import WaitingJob, WaitQueue
from training.models import DesiredJobState, JobState, TrainingJob

JOBS = "/api/training/jobs"
LONG_AGO = timedelta(hours=1)


@pytest.fixture(autouse=True)
def folders(settings, tmp_path):
    settings.DATA_DIR = tmp_path
    return tmp_path


@pytest.fixture(autouse=True)
def things(tenant, stranger):
    """A base and a data set of both tenants."""
    for owner in (tenant, stranger.default_tenant):
        job_rows.base(owner)
        job_rows.dataset(owner)


@pytest.fixture
def box(folders):
    return machine(folders)


def machine(folder, name: str = "box", gib: float = 64):
    node = instance_rows.node(name, usable=int(gib * GIB))
    node.data_folder = str(folder)
    node.save()
    return node


def start(client, **recipe) -> TrainingJob:
    reply = client.post(JOBS, order(recipe={**job_rows.SMALL, **recipe}))
    assert reply.status_code == 201, reply.json()
    return TrainingJob.objects.get(pk=reply.json()["id"])


def need(job: TrainingJob) -> int:
    return job.estimate["cpu"]["total"]


def room_for(box, size: int) -> None:
    box.devices.update(usable_bytes=size)


def placed() -> set[str]:
    return set(TrainingJob.objects.placed().values_list("pk", flat=True))


def shown(client, job: TrainingJob) -> dict | None:
    return client.get(f"{JOBS}/{job.pk}").json()["waiting"]


# --- whose turn it is


def turns(names: str, running: dict | None = None) -> str:
    """The order of those who wait, each a letter of its tenant, the first comer first."""
    waiting = [
        WaitingJob(f"{tenant}{number}", tenant, datetime(2026, 1, 1, 0, number, tzinfo=UTC))
        for number, tenant in enumerate(names)
    ]
    found, line = [], WaitQueue(waiting, Counter(running))
    for job in line:
        found.append(job.pk)
        line.running[job.tenant_id] += 1
    return " ".join(found)


def test_tenants_take_turns_and_within_one_the_oldest_goes_first():
    assert turns("aaabb") == "a0 b3 a1 b4 a2"


def test_who_has_least_running_goes_first():
    assert turns("ab", {"a": 1}) == "b1 a0"
    assert turns("aab", {"b": 2}) == "a0 a1 b2"


def test_of_equals_the_oldest_goes_first():
    assert turns("ba") == "b0 a1"
    assert turns("") == ""


# --- placing


def test_a_job_that_finds_room_gets_a_node_and_its_memory(api, member, box):
    job = start(api(member))
    queue.place_jobs()
    job.refresh_from_db()
    assert (job.state, job.node, job.waits) == (JobState.QUEUED, box, {})
    assert job.placement["device_kind"] == "cpu"
    claim = Reservation.objects.get(owner=job.pk)
    assert (claim.device, claim.bytes) == (box.devices.get(), need(job))
    assert shown(api(member), job) is None
    queue.place_jobs()
    assert Reservation.objects.filter(owner=job.pk).count() == 1


def test_nobody_is_placed_beyond_the_limit_of_a_tenant(api, member, stranger, box, settings):
    settings.JOBS_PER_TENANT = 1
    mine = [start(api(member)) for _ in range(3)]
    theirs = start(api(stranger))
    queue.place_jobs()
    assert placed() == {mine[0].pk, theirs.pk}
    assert shown(api(member), mine[2]) == {
        "position": 2, "reason": "Your tenant runs as many training jobs as it may at once (1).",
    }  # fmt: skip


def test_the_last_room_goes_to_who_has_nothing_running(api, member, stranger, box):
    first, second = start(api(member)), start(api(member))
    late = start(api(stranger))
    room_for(box, 2 * need(first))
    queue.place_jobs()
    assert placed() == {first.pk, late.pk}
    assert shown(api(member), second)["position"] == 1


def test_who_finds_no_room_is_told_so_without_names(api, member, stranger, box):
    first = start(api(stranger))
    room_for(box, need(first))
    queue.place_jobs()
    second = start(api(member))
    queue.place_jobs()
    reason = shown(api(member), second)["reason"]
    assert reason.startswith("No device has enough free memory")
    assert "box" not in reason
    status = api(member).get(f"/api/v1/training/status/{second.pk}").json()
    assert (status["status"], status["message"]) == ("queued", reason)


def test_of_those_who_find_no_room_the_first_hears_why_and_the_rest_wait_for_it(api, member, stranger, box):
    runs = start(api(stranger))
    room_for(box, need(runs))
    queue.place_jobs()
    first, second = start(api(member)), start(api(member))
    queue.place_jobs()
    assert shown(api(member), first)["reason"].startswith("No device has enough free memory")
    assert shown(api(member), second) == {"position": 2, "reason": "It waits for its turn."}


def test_a_small_job_passes_a_large_one_but_not_for_ever(api, member, stranger, box):
    runs = start(api(member))
    queue.place_jobs()
    large, small = start(api(stranger), max_seq_length=512, batch_size=64), start(api(member))
    room_for(box, max(need(large), need(runs) + need(small)))
    assert need(large) > need(small)
    TrainingJob.objects.filter(pk=large.pk).update(queued_at=timezone.now() - LONG_AGO)
    queue.place_jobs()
    assert placed() == {runs.pk}
    assert shown(api(member), small)["reason"] == "The device goes to a training job that has waited longer."
    TrainingJob.objects.filter(pk=large.pk).update(queued_at=timezone.now())
    queue.place_jobs()
    assert placed() == {runs.pk, small.pk}


def test_an_idle_model_makes_room_even_if_it_is_the_base_and_a_busy_one_does_not(api, member, tenant, box):
    job = start(api(member))
    room_for(box, need(job))
    base = Model.objects.of(tenant).get()
    instance = instance_rows.instance(base, InstanceState.READY, ready_at=timezone.now())
    memory_ledger.claim(instance.pk, {box.devices.get().pk: need(job)})
    queue.place_jobs()
    assert placed() == set()
    assert "There may be room soon" in shown(api(member), job)["reason"]
    Instance.objects.update(ready_at=timezone.now() - LONG_AGO)
    queue.place_jobs()
    assert placed() == {job.pk}
    assert Instance.objects.get().desired == Desired.STOPPED


def test_a_gpu_is_waited_for_where_there_is_one(api, member, box):
    gpu = Device.objects.create(
        node=box, kind="cuda", name="GPU", total_bytes=64 * GIB, usable_bytes=64 * GIB, measured_at=timezone.now()
    )
    job = start(api(member))
    memory_ledger.claim("somebody", {gpu.pk: 64 * GIB})
    queue.place_jobs()
    assert placed() == set()
    memory_ledger.release("somebody")
    queue.place_jobs()
    assert Reservation.objects.get(owner=job.pk).device == gpu


def test_a_gpu_that_nobody_has_seen_for_long_is_not_waited_for(api, member, box):
    Device.objects.create(
        node=box, kind="cuda", name="GPU", total_bytes=64 * GIB, usable_bytes=64 * GIB,
        measured_at=timezone.now() - LONG_AGO, suspect="The device is not there any more.",
    )  # fmt: skip
    job = start(api(member))
    queue.place_jobs()
    assert Reservation.objects.get(owner=job.pk).device.kind == "cpu"


def test_machines_that_do_not_read_the_data_folder_are_not_asked(api, member, tmp_path):
    elsewhere = machine(tmp_path / "elsewhere", "far")
    job = start(api(member))
    queue.place_jobs()
    assert placed() == set()
    machine(tmp_path, "near")
    queue.place_jobs()
    job.refresh_from_db()
    assert job.node.name == "near"
    assert not elsewhere.devices.get().reserved_bytes


def test_paused_and_cancelled_jobs_are_not_placed(api, member, box):
    one, two = start(api(member)), start(api(member))
    api(member).post(f"{JOBS}/{one.pk}/pause")
    api(member).post(f"{JOBS}/{two.pk}/cancel")
    queue.place_jobs()
    assert placed() == set()
    api(member).post(f"{JOBS}/{one.pk}/resume")
    queue.place_jobs()
    assert placed() == {one.pk}


def test_one_that_was_asked_to_end_still_counts_until_it_has(api, member, box, settings):
    settings.JOBS_PER_TENANT = 1
    first, second = start(api(member)), start(api(member))
    queue.place_jobs()
    TrainingJob.objects.filter(pk=first.pk).update(state=JobState.RUNNING, desired=DesiredJobState.CANCELLED)
    queue.place_jobs()
    assert placed() == {first.pk}
    TrainingJob.objects.filter(pk=first.pk).update(state=JobState.CANCELLED)
    queue.place_jobs()
    assert placed() == {second.pk}


# --- machines that are lost


@pytest.mark.parametrize(
    ("wish", "state", "generation"),
    [
        (DesiredJobState.RUNNING, JobState.QUEUED, 2),
        (DesiredJobState.PAUSED, JobState.PAUSED, 1),
        (DesiredJobState.CANCELLED, JobState.CANCELLED, 1),
    ],
)
def test_what_a_lost_machine_had_is_taken_back_when_its_trainers_have_ended(
    api, member, box, settings, wish, state, generation
):
    job = start(api(member))
    queue.place_jobs()
    TrainingJob.objects.update(state=JobState.RUNNING, desired=wish)
    box.heartbeat_at = timezone.now() - timedelta(seconds=settings.ENGINE_LEASE_SECONDS)
    box.save()
    queue.place_jobs()
    assert placed() == {job.pk}  # the lease may have been renewed at the last word
    box.heartbeat_at -= timedelta(minutes=5)
    box.save()
    queue.place_jobs()
    job.refresh_from_db()
    assert (job.state, job.generation, job.node, job.placement) == (state, generation, None, {})
    assert not Reservation.objects.exists()
    assert not box.devices.get().reserved_bytes


def test_it_goes_on_elsewhere_with_the_next_generation(api, member, box, folders):
    job = start(api(member))
    queue.place_jobs()
    box.heartbeat_at = timezone.now() - timedelta(days=1)
    box.save()
    machine(folders, "other")
    queue.place_jobs()
    job.refresh_from_db()
    assert (job.node.name, job.generation, job.state) == ("other", 2, JobState.QUEUED)
