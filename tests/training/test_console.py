"""Training jobs in the console: what operators see, and that their actions call the services."""

import pytest
from django.utils import timezone

from accounts.models import AuditRecord
from tests.support import job_rows
from tests.support.job_rows import order
from training.jobs import chart
from training.models import JobState, TrainingJob, TrainingProgress

LIST = "/console/training/trainingjob/"


@pytest.fixture(autouse=True)
def folders(settings, tmp_path):
    settings.DATA_DIR = tmp_path


@pytest.fixture
def console(operator, client):
    client.force_login(operator, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def job(api, member, tenant) -> TrainingJob:
    job_rows.base(tenant)
    job_rows.dataset(tenant)
    return TrainingJob.objects.get(pk=api(member).post("/api/training/jobs", order()).json()["id"])


def act(console, verb: str, *jobs: TrainingJob) -> str:
    chosen = {"action": verb, "_selected_action": [job.pk for job in jobs]}
    return console.post(LIST, chosen, follow=True).content.decode()


def progress(job: TrainingJob, *losses: float, **fields) -> None:
    TrainingProgress.objects.bulk_create(
        TrainingProgress(job=job, step=step, loss=loss, at=timezone.now(), **fields)
        for step, loss in enumerate(losses, 1)
    )


def test_a_waiting_job_is_listed_with_its_reason(console, job):
    page = console.get(LIST).content.decode()
    for shown in (job.pk, "capitals", "It waits for its turn."):
        assert shown in page


def test_the_way_from_rows_to_an_answer_is_in_the_menu(console):
    page = console.get("/console/").content.decode()
    for place in ("training/dataset", "training/trainingjob", "models_app/adapter"):
        assert f'href="/console/{place}/"' in page


def test_the_list_shows_how_far_a_job_is(console, job):
    TrainingJob.objects.update(step=7, total_steps=20, loss=0.123456)
    page = console.get(LIST).content.decode()
    assert "7 / 20" in page
    assert "0.1235" in page


def test_a_job_is_shown_with_its_loss_and_its_last_lines(console, job):
    progress(job, 2.0, 1.0, 0.5, eval_loss=1.5)
    lines = ["<b>Traceback</b>"]
    TrainingJob.objects.update(state=JobState.FAILED, failure_reason="The disk is full.", log_tail=lines)
    page = console.get(f"{LIST}{job.pk}/change/").content.decode()
    assert page.count("<polyline") == 2
    assert "The disk is full." in page
    assert "&lt;b&gt;Traceback" in page


def test_a_job_without_progress_is_shown_without_a_picture(console, job):
    page = console.get(f"{LIST}{job.pk}/change/")
    assert page.status_code == 200
    assert "<polyline" not in page.content.decode()


def test_an_operators_actions_go_through_the_services(console, operator, job):
    for verb, state in (("pause_jobs", "paused"), ("resume_jobs", "queued"), ("cancel_jobs", "cancelled")):
        assert f"{job.pk}: {state}" in act(console, verb, job)
    job.refresh_from_db()
    assert job.state == JobState.CANCELLED
    assert AuditRecord.objects.filter(user=operator, action__startswith="training.").count() == 3


def test_what_a_jobs_state_does_not_allow_is_said(console, job):
    TrainingJob.objects.update(state=JobState.COMPLETED)
    assert "The job is completed." in act(console, "cancel_jobs", job)


def test_nobody_adds_changes_or_deletes_jobs_there(console, job):
    assert console.get(f"{LIST}add/").status_code == 403
    assert console.post(f"{LIST}{job.pk}/delete/", {"post": "yes"}).status_code == 403
    assert console.post(f"{LIST}{job.pk}/change/", {"state": "completed"}).status_code == 403


def test_members_do_not_get_in(client, member, job):
    client.force_login(member, backend="django.contrib.auth.backends.ModelBackend")
    assert client.get(LIST).status_code == 302


def test_a_long_curve_is_thinned_and_ends_where_the_job_is(job):
    progress(job, *(1 / step for step in range(1, 1002)))
    drawn = chart.loss_curve(job.progress.all())
    places = drawn.split('points="')[1].split('"')[0].split()
    assert 200 < len(places) <= chart.MAX_POINTS + 1
    assert places[0] == f"{chart.MARGIN:.1f},{chart.MARGIN:.1f}"
    assert places[-1] == f"{chart.WIDTH:.1f},{chart.HEIGHT - chart.MARGIN:.1f}"
