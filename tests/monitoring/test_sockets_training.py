"""Training jobs on /ws/monitor: their state at once, each change, and nothing to strangers."""

import pytest
from django.db import transaction

from accounts import tokens
from accounts.models import Scope
from tests.monitoring.test_sockets import monitor, receive_message, send_message  # noqa: F401
from tests.support import job_rows
from tests.support.job_rows import order
from tests.support.uvicorn_server import address  # noqa: F401
from training.jobs import transitions
from training.models import JobState, TrainingJob

TOPIC = {"action": "subscribe", "events": ["training_progress"]}
SUBSCRIBED = {"type": "subscribed", "events": ["training_progress"]}


@pytest.fixture(autouse=True)
def folders(settings, tmp_path):
    settings.DATA_DIR = tmp_path


@pytest.fixture
def job(transactional_db, api, member, tenant) -> TrainingJob:
    job_rows.base(tenant)
    job_rows.dataset(tenant)
    return TrainingJob.objects.get(pk=api(member).post("/api/training/jobs", order()).json()["id"])


def access(user) -> str:
    return tokens.open_session(user)["access_token"]


def test_a_job_is_told_at_once_and_at_every_change(monitor, viewer, job):  # noqa: F811
    with monitor(access(viewer)) as ws:
        assert send_message(ws, TOPIC) == SUBSCRIBED
        message = receive_message(ws)
        assert message["type"] == "training_progress"
        assert (message["data"]["job_id"], message["data"]["status"], message["data"]["step"]) == (job.pk, "queued", 0)
        assert (message["data"]["rows_cut"], message["data"]["rows_left_out"]) == (0, 0)
        counts = {"rows": 8, "cut": 3, "left_out": 1, "limit": 64}
        TrainingJob.objects.update(
            state=JobState.RUNNING, step=7, total_steps=20, loss=0.5, eta_seconds=12.5, row_counts=counts
        )
        job.refresh_from_db()
        with transaction.atomic():
            transitions.announce(job)
        data = receive_message(ws)["data"]
        expected = {
            "job_id": job.pk,
            "status": "running",
            "step": 7,
            "total_steps": 20,
            "loss": 0.5,
            "eta_seconds": 12.5,
            "rows_cut": 3,
            "rows_left_out": 1,
        }
        assert expected.items() <= data.items()


def test_a_stranger_is_told_of_his_own_only(monitor, api, stranger, job):  # noqa: F811
    tenant = stranger.default_tenant
    job_rows.base(tenant)
    job_rows.dataset(tenant)
    with monitor(access(stranger)) as ws:
        assert send_message(ws, TOPIC) == SUBSCRIBED
        with transaction.atomic():
            transitions.announce(job)
        own = api(stranger).post("/api/training/jobs", order()).json()["id"]
        assert receive_message(ws)["data"]["job_id"] == own


def test_a_key_that_is_limited_to_models_is_told_of_their_jobs_only(monitor, api, member, key, tenant, job):  # noqa: F811
    other = job_rows.base(tenant, "other")
    with monitor(key(scopes=[Scope.READ], allowed_models=[other.pk])) as ws:
        assert send_message(ws, TOPIC) == SUBSCRIBED
        with transaction.atomic():
            transitions.announce(job)
        started = api(member).post("/api/training/jobs", order(base_model="other")).json()["id"]
        assert receive_message(ws)["data"]["job_id"] == started


def test_an_operator_is_told_of_all(monitor, operator, job):  # noqa: F811
    with monitor(access(operator)) as ws:
        assert send_message(ws, TOPIC) == SUBSCRIBED
        assert receive_message(ws)["data"]["job_id"] == job.pk


def test_how_a_job_ended_is_told_for_a_while(monitor, api, member, viewer, job):  # noqa: F811
    api(member).post(f"/api/training/jobs/{job.pk}/cancel")
    with monitor(access(viewer)) as ws:
        assert send_message(ws, TOPIC) == SUBSCRIBED
        assert receive_message(ws)["data"]["status"] == "cancelled"
