"""Dossiers of engines that end unasked: the fake engine under the real shim and agent, read through REST."""

import json
import os
import signal
import time
import uuid

import pytest

from accounts.models import Installation
from core import broker
from engines import registry
from engines.crash_cause import Cause
from engines.llamacpp import LlamaCppEngine
from engines.vllm import VllmEngine
from inference.crashes.dossiers import MAX_PER_MODEL, CrashDiagnosis, save_dossier
from inference.models import CrashDossier, Instance, InstanceState
from inference.serving import services
from models_app.models import Model
from node_agent import folders, shims
from node_agent.agent import Agent
from tests.support import instance_rows

WAIT = 60  # seconds, on a busy machine
# what vLLM's first process has to say when the one that loads the weights has died
FAREWELL = "\n  frame" * 60 + "\nRuntimeError: Engine core initialization failed. See root cause above."


@pytest.fixture
def agent(db, settings):
    settings.ENGINE_ADAPTERS = ["tests.fakes.fake_aware_engine.FakeAwareEngine"]
    registry.engines.cache_clear()
    broker.client().flushdb()
    Installation.objects.get_or_create(defaults={"cluster_id": uuid.uuid4()})
    made = Agent()
    made.tick()
    yield made
    for instance in Instance.objects.all():
        state = shims.read(folders.folder_of(instance.pk))
        if shims.is_running(state):
            shims.request_stop(folders.folder_of(instance.pk), state, 0)
        until(lambda state=state: not shims.is_running(state))
    registry.engines.cache_clear()


def until(check):
    deadline = time.monotonic() + WAIT
    while not (value := check()):
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)
    return value


def becomes(agent, state) -> Instance:
    return until(lambda: (agent.tick(), Instance.objects.filter(state=state).first())[1])


@pytest.fixture
def started(agent, tenant):
    """started(switches of the fake engine) is its model, whose start is under way."""

    def start(timeout=None, **switches) -> Model:
        model = Model.objects.create(
            tenant=tenant, name="ours", tags=["fake"], config={"model_path": "serai-demo"},
            description=json.dumps(switches),
        )  # fmt: skip
        services.start(model, timeout=timeout)
        return model

    return start


def crashes(client) -> dict:
    reply = client.get("/api/models/ours/crashes")
    assert reply.status_code == 200
    return reply.json()


@pytest.mark.parametrize(
    ("last_words", "cause", "reason"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "out_of_memory", "ran out of memory"),
        (
            f"RuntimeError: start (0) + length (512) exceeds dimension size (384).{FAREWELL}",
            "broken_weights",
            "do not fit",
        ),
        (f"ValueError: The moon is full.{FAREWELL}", "unknown", "The moon is full."),
        ("api_server.py: error: unrecognized arguments: --rope 7", "bad_option", "does not know the option --rope 7"),
        ("FileNotFoundError: No such file or directory: '/srv/m/w.bin'", "missing_file", "missing: …/w.bin"),
        ("safetensors.SafetensorError: header too large", "broken_weights", "weights are damaged"),
        ("OSError: [Errno 28] No space left on device", "disk_full", "disk is full"),
        ("ValueError: the rope is short", "unknown", "the rope is short"),
    ],
)
def test_an_engine_that_fails_to_start_leaves_a_dossier_with_its_cause(
    agent, api, viewer, started, last_words, cause, reason
):
    started(crash_before_ready={"code": 3, "stderr": f"INFO loading\n{last_words}"})
    becomes(agent, InstanceState.FAILED)
    found = crashes(api(viewer))
    (crash,) = found["crashes"]
    assert (crash["cause"], crash["exit_code"], crash["exit_signal"]) == (cause, 3, None)
    assert reason in crash["reason"]
    assert "INFO loading" in crash["log_tail"]
    (group,) = found["causes"]
    assert (group["cause"], group["count"]) == (cause, 1)
    shown = api(viewer).get("/api/models/ours/info").json()["model"]["failure_reason"]
    assert reason in shown
    assert shown.endswith(group["advice"])


def test_a_killed_engine_leaves_one_for_each_run(agent, api, viewer, started):
    started()
    for _turn in range(2):
        row = becomes(agent, InstanceState.READY)
        os.kill(row.pid, signal.SIGKILL)
        until(lambda row=row: (agent.tick(), Instance.objects.get().generation > row.generation)[1])
    found = crashes(api(viewer))
    assert [(entry["cause"], entry["exit_signal"]) for entry in found["crashes"]] == [("killed", 9)] * 2
    assert len({entry["generation"] for entry in found["crashes"]}) == 2
    assert found["causes"][0]["count"] == 2


def test_a_start_that_takes_too_long_is_no_other_failure(agent, api, viewer, started):
    started(timeout=1, start_delay=3600)
    becomes(agent, InstanceState.FAILED)
    (crash,) = crashes(api(viewer))["crashes"]
    assert crash["cause"] == "timed_out"
    assert "not ready after 1 seconds" in crash["reason"]


def test_a_stop_that_somebody_asked_for_leaves_none(agent, api, viewer, started):
    model = started()
    becomes(agent, InstanceState.READY)
    services.stop(model, force=True)
    becomes(agent, InstanceState.STOPPED)
    assert crashes(api(viewer)) == {"causes": [], "crashes": []}


def test_arguments_paths_and_pids_are_the_operators(agent, api, viewer, operator, started):
    line = "(EngineCore pid=4711) ERROR reading /srv/models/acme/config.json with key sk-serai-abcdefghijkl"
    started(crash_before_ready={"code": 1, "stderr": line})
    becomes(agent, InstanceState.FAILED)
    (theirs,) = crashes(api(viewer))["crashes"]
    assert theirs["launch"] is None
    assert "devices" not in theirs["memory"]
    assert "(EngineCore pid=…) ERROR reading …/config.json with key sk-serai-abcd***" in theirs["log_tail"]
    (whole,) = crashes(api(operator, **{"Serai-Tenant": "acme"}))["crashes"]
    assert "--uds" in whole["launch"]["argv"]
    assert whole["memory"]["devices"]
    assert line.replace("abcdefghijkl", "abcd***") in whole["log_tail"]


def test_strangers_learn_nothing_of_a_crash(agent, api, stranger, started):
    started(crash_before_ready={"code": 1, "stderr": "secret matters"})
    becomes(agent, InstanceState.FAILED)
    reply = api(stranger).get("/api/models/ours/crashes")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "MODEL_NOT_FOUND")


def test_a_limited_number_is_kept_for_each_model(api, viewer, tenant):
    model = Model.objects.create(tenant=tenant, name="ours")
    row = instance_rows.instance(model, InstanceState.FAILED)
    for generation in range(1, MAX_PER_MODEL + 6):
        row.running_generation = generation
        save_dossier(row, CrashDiagnosis(Cause.UNKNOWN, "It ended."))
        save_dossier(row, CrashDiagnosis(Cause.KILLED, "It ended twice?"))  # the same run is one dossier
    found = crashes(api(viewer))
    assert [entry["generation"] for entry in found["crashes"]] == list(range(MAX_PER_MODEL + 5, 5, -1))
    assert CrashDossier.objects.count() == MAX_PER_MODEL


def test_the_advice_is_in_the_readers_language(api, viewer, tenant):
    model = Model.objects.create(tenant=tenant, name="ours")
    save_dossier(instance_rows.instance(model, InstanceState.FAILED), CrashDiagnosis(Cause.OUT_OF_MEMORY, "It ended."))
    (english,) = crashes(api(viewer))["causes"]
    (chinese,) = crashes(api(viewer, **{"Accept-Language": "zh-CN"}))["causes"]
    assert "max_model_len" in english["advice"] and "max_model_len" in chinese["advice"]
    assert english["title"] == "Out of memory"
    assert english["advice"] != chinese["advice"] and english["title"] != chinese["title"]


def test_the_console_shows_what_to_do(client, operator, tenant):
    model = Model.objects.create(tenant=tenant, name="ours")
    save_dossier(
        instance_rows.instance(model, InstanceState.FAILED),
        CrashDiagnosis(Cause.DISK_FULL, "The disk is full.", ["<b>last words</b>"]),
    )
    client.force_login(operator, backend="django.contrib.auth.backends.ModelBackend")
    pages = "/console/inference/crashdossier/"
    assert "The disk is full." in client.get(pages).content.decode()
    page = client.get(f"{pages}{CrashDossier.objects.get().pk}/change/").content.decode()
    assert "Free space on the machine" in page
    assert "&lt;b&gt;last words&lt;/b&gt;" in page


@pytest.mark.parametrize("adapter", [VllmEngine(), LlamaCppEngine()], ids=lambda adapter: adapter.name)
def test_a_known_cause_goes_before_the_engines_mere_words(adapter):
    lines = ["RuntimeError: std::bad_alloc", "ValueError: engine core died", "error loading model: it is gone"]
    assert adapter.diagnose(lines).cause == Cause.OUT_OF_MEMORY
    assert adapter.diagnose(["all is well"]) is None
