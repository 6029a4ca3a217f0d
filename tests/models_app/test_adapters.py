"""Adapters over REST: what is shown, who publishes, rolls back, deletes and downloads, and what forbids it."""

import io
import json
import tarfile
import uuid

import pytest
from asgiref.sync import async_to_sync
from django.utils import timezone

from accounts.models import ApiKey, AuditRecord, Role, Tenant
from inference.models import GatewayHeartbeat, InstanceState
from models_app.adapters import files, services
from models_app.models import Adapter, Model, Visibility
from tests.support import adapter_files, instance_rows

ADAPTERS = "/api/adapters"
EVALUATION = {
    "before": {"loss": 4.5, "perplexity": 90.0},
    "after": {"loss": 0.5, "perplexity": 1.65},
    "samples": [{"prompt": [{"role": "user", "content": "Who?"}], "expected": "Me.", "before": "?", "after": "Me."}],
}


@pytest.fixture
def base(tenant, settings, tmp_path) -> Model:
    settings.DATA_DIR = tmp_path
    return Model.objects.create(tenant=tenant, name="demo", config={"enable_lora": True})


@pytest.fixture
def kept(base, tmp_path):
    """kept(…) is one more version, by default of the adapter `facts`; `layer` are options of its files."""

    def make(name: str = "facts", layer: dict | None = None, **origin):
        source = adapter_files.write_folder(tmp_path / uuid.uuid4().hex / "adapter", **layer or {})
        return adapter_files.save_version(base, name, source=source, **origin)

    return make


def code(reply) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


def message(reply) -> str:
    return reply.json()["message"]


# --- what is shown


def test_an_adapter_is_shown_with_the_names_that_requests_give(api, viewer, kept):
    kept()
    shown = api(viewer).get(ADAPTERS).json()["items"][0]
    assert (shown["name"], shown["model_names"]) == ("facts", ["facts", "demo:facts"])
    assert (shown["base_model"], shown["published"], shown["version"]) == ("demo", False, None)
    assert shown["newest_version"] == 1
    assert api(viewer).get(f"{ADAPTERS}/facts").json() == api(viewer).get(f"{ADAPTERS}/{shown['id']}").json() == shown


def test_versions_show_what_was_measured_before_and_after_side_by_side(api, viewer, kept):
    kept(evaluation=EVALUATION, dataset_id="dataset-1", dataset_name="facts", dataset_version=3, job_id="job-1")
    kept()
    newest, first = api(viewer).get(f"{ADAPTERS}/facts/versions").json()["items"]
    assert first["evaluation"]["loss"] == {"before": 4.5, "after": 0.5}
    assert first["evaluation"]["perplexity"] == {"before": 90.0, "after": 1.65}
    assert first["evaluation"]["samples"] == EVALUATION["samples"]
    assert first["dataset"] == {"id": "dataset-1", "name": "facts", "version": 3}
    assert (first["number"], first["model"], first["status"], first["job_id"]) == (1, "facts@1", "on_trial", "job-1")
    assert newest["evaluation"] is None


def test_an_evaluation_without_held_out_rows_has_gaps(api, viewer, kept):
    kept(evaluation={"before": None, "after": {"loss": 1.0}, "samples": []})
    shown = api(viewer).get(f"{ADAPTERS}/facts/versions").json()["items"][0]["evaluation"]
    assert shown["loss"] == {"before": None, "after": 1.0}
    assert shown["perplexity"] == {"before": None, "after": None}


def test_a_version_tells_where_it_is_loaded_and_what_an_engine_said_that_refused_it(api, viewer, base, kept):
    version = kept()
    refused = {"state": "refused", "reason": "size mismatch"}
    instance_rows.instance(base, InstanceState.READY, adapters={version.pk: {"state": "loaded"}})
    instance_rows.instance(base, InstanceState.READY, replica=1, adapters={version.pk: refused})
    instance_rows.instance(base, InstanceState.STOPPED, replica=2, adapters={version.pk: {"state": "loaded"}})
    shown = api(viewer).get(f"{ADAPTERS}/facts/versions").json()["items"][0]
    assert shown["loaded"] == {"replicas": 1, "error": "size mismatch"}


def test_the_list_is_cut_by_name_and_base(api, viewer, kept):
    kept("facts"), kept("tone")
    names = [item["name"] for item in api(viewer).get(f"{ADAPTERS}?name=tone").json()["items"]]
    assert names == ["tone"]
    assert api(viewer).get(f"{ADAPTERS}?base_model=demo").json()["total"] == 2
    assert api(viewer).get(f"{ADAPTERS}?base_model=other").json()["total"] == 0


def test_a_key_that_is_limited_to_models_sees_their_adapters_only(api, key, tenant, base, kept):
    facts, tone = kept("facts"), kept("tone")
    other = Model.objects.create(tenant=tenant, name="other")
    assert api(key(allowed_models=[other.pk])).get(ADAPTERS).json()["total"] == 0
    with_base = key(allowed_models=[base.pk])
    assert api(with_base).get(ADAPTERS).json()["total"] == 0  # who may use the base may not see what others taught it
    own = kept("own", key_id=ApiKey.objects.get(allowed_models=[base.pk]).pk)
    assert [item["id"] for item in api(with_base).get(ADAPTERS).json()["items"]] == [own.adapter_id]
    limited = api(key(allowed_models=[tone.adapter_id]))
    assert [item["id"] for item in limited.get(ADAPTERS).json()["items"]] == [tone.adapter_id]
    assert limited.get(f"{ADAPTERS}/{facts.adapter_id}").status_code == 404


def test_a_key_can_be_limited_to_an_adapter_by_its_name(api, owner, stranger, kept):
    version = kept()
    fields = {"name": "limited", "role": "member", "scopes": ["inference"], "allowed_models": ["facts"]}
    made = api(owner).post("/api/keys", fields).json()
    assert ApiKey.objects.get(pk=made["id"]).allowed_models == [version.adapter_id]
    assert api(stranger).post("/api/keys", fields).status_code == 422


# --- publish, roll back, unpublish


def test_publishing_points_the_name_at_the_newest_version(api, admin, kept):
    kept(), kept()
    shown = api(admin).post(f"{ADAPTERS}/facts/publish").json()
    assert (shown["published"], shown["version"]) == (True, 2)
    statuses = [item["status"] for item in api(admin).get(f"{ADAPTERS}/facts/versions").json()["items"]]
    assert statuses == ["in_use", "on_trial"]
    assert AuditRecord.objects.filter(action="adapter.publish", details__version=2).exists()


def test_a_roll_back_points_it_at_an_earlier_one_and_forward_again(api, admin, kept):
    kept(), kept()
    api(admin).post(f"{ADAPTERS}/facts/publish")
    assert api(admin).post(f"{ADAPTERS}/facts/rollback", {"version": 1}).json()["version"] == 1
    assert api(admin).post(f"{ADAPTERS}/facts/publish", {"version": 2}).json()["version"] == 2


def test_a_roll_back_needs_an_earlier_version_of_a_published_adapter(api, admin, kept):
    kept(), kept()
    rollback = f"{ADAPTERS}/facts/rollback"
    assert code(api(admin).post(rollback, {"version": 1})) == (409, "CONFLICT")
    api(admin).post(f"{ADAPTERS}/facts/publish", {"version": 1})
    assert code(api(admin).post(rollback, {"version": 2})) == (422, "INVALID_REQUEST")
    assert code(api(admin).post(rollback, {"version": 9})) == (404, "NOT_FOUND")
    assert code(api(admin).post(rollback, {})) == (422, "INVALID_REQUEST")
    assert code(api(admin).post(rollback, {"version": 2**40})) == (422, "INVALID_REQUEST")


def test_an_unpublished_adapter_can_be_published_again(api, admin, kept):
    kept()
    api(admin).post(f"{ADAPTERS}/facts/publish")
    for _time in range(2):
        assert api(admin).post(f"{ADAPTERS}/facts/unpublish").json()["published"] is False
    assert api(admin).post(f"{ADAPTERS}/facts/publish").json()["published"] is True


def test_members_do_not_publish(api, member, kept):
    kept(user=member)
    for verb in ("publish", "unpublish", "rollback"):
        assert code(api(member).post(f"{ADAPTERS}/facts/{verb}", {"version": 1})) == (403, "AUTHORIZATION_FAILED")


# --- what the base takes


def test_a_base_without_adapters_tells_the_way_out(api, admin, base, kept):
    kept()
    Model.objects.update(config={})
    reply = api(admin).post(f"{ADAPTERS}/facts/publish")
    assert code(reply) == (409, "CONFLICT")
    assert "demo takes no adapters: set its config.enable_lora to true and restart it." in message(reply)


def test_a_base_that_was_started_before_it_took_adapters_is_to_be_restarted(api, admin, base, kept):
    kept()
    replica = instance_rows.instance(base, InstanceState.READY)
    reply = api(admin).post(f"{ADAPTERS}/facts/publish")
    assert code(reply) == (409, "CONFLICT")
    assert "restart it" in message(reply)
    replica.request_change(adapter_slots=8, adapter_rank=64)
    assert api(admin).post(f"{ADAPTERS}/facts/publish").status_code == 200


def test_a_rank_over_the_limit_names_the_option(api, admin, base, kept):
    kept(layer={"rank": 128})
    assert "config.max_lora_rank" in message(api(admin).post(f"{ADAPTERS}/facts/publish"))
    Model.objects.update(config={"enable_lora": True, "max_lora_rank": 128})
    instance_rows.instance(base, InstanceState.READY, adapter_slots=8, adapter_rank=64)
    assert "restart it" in message(api(admin).post(f"{ADAPTERS}/facts/publish"))


# --- delete


def test_a_published_adapter_is_not_deleted(api, admin, kept):
    version = kept()
    api(admin).post(f"{ADAPTERS}/facts/publish")
    assert code(api(admin).delete(f"{ADAPTERS}/facts")) == (409, "CONFLICT")
    assert files.folder_of(version).exists()


def test_deleting_takes_all_versions_and_their_files(api, admin, kept, django_capture_on_commit_callbacks):
    folders = [files.folder_of(kept()) for _version in range(2)]
    with django_capture_on_commit_callbacks(execute=True):
        assert api(admin).delete(f"{ADAPTERS}/facts").status_code == 200
    assert not any(folder.exists() for folder in folders)
    assert not Adapter.objects.exists()


@pytest.mark.parametrize("use", [{"inflight": {"instance-1": {"V": 1}}}, {"waiting": {"V": 2}}])
def test_what_requests_use_is_not_deleted(api, admin, kept, use):
    version = kept()
    use = json.loads(json.dumps(use).replace("V", version.pk))
    GatewayHeartbeat.objects.create(id=uuid.uuid4(), host="box", pid=1, beat_at=timezone.now(), adapters=use)
    assert code(api(admin).delete(f"{ADAPTERS}/facts")) == (409, "CONFLICT")


def test_files_that_an_engine_has_loaded_stay_until_it_lets_go(
    api, admin, base, kept, django_capture_on_commit_callbacks
):
    version = kept()
    instance_rows.instance(base, InstanceState.READY, adapters={version.pk: {"state": "loaded"}})
    folder = files.folder_of(version)
    with django_capture_on_commit_callbacks(execute=True):
        assert api(admin).delete(f"{ADAPTERS}/facts").status_code == 200
    assert folder.exists()


def test_what_nobody_knows_any_more_is_swept_away(base, kept):
    known, deleted, loaded = kept(), kept(), kept()
    replica = instance_rows.instance(base, InstanceState.READY, adapters={loaded.pk: {"state": "leaving", "since": ""}})
    folders = [files.folder_of(version) for version in (known, deleted, loaded)]
    deleted.delete(), loaded.delete()
    services.remove_orphans()
    assert all(folder.exists() for folder in folders)  # they have just come
    services.remove_orphans(older_than=-60)
    assert [folder.exists() for folder in folders] == [True, False, True]
    replica.request_change(state=InstanceState.STOPPED)
    services.remove_orphans(older_than=-60)
    assert [folder.exists() for folder in folders] == [True, False, False]


def test_members_delete_what_they_had_trained_only(api, member, owner, kept):
    kept("mine", user=member), kept("hers", user=owner)
    assert api(member).delete(f"{ADAPTERS}/mine").status_code == 200
    assert code(api(member).delete(f"{ADAPTERS}/hers")) == (403, "AUTHORIZATION_FAILED")
    assert api(owner).delete(f"{ADAPTERS}/hers").status_code == 200


def test_a_base_with_adapters_is_not_deleted(api, admin, base, kept):
    kept()
    assert code(api(admin).delete("/api/models/demo")) == (409, "CONFLICT")
    api(admin).delete(f"{ADAPTERS}/facts")
    assert api(admin).delete("/api/models/demo").status_code == 200


# --- names


def test_models_and_adapters_share_one_space_of_names(api, admin, stranger, kept):
    kept()
    body = {"name": "facts", "config": {"model_path": "serai-demo"}}
    assert code(api(admin).post("/api/models", body)) == (409, "MODEL_ALREADY_EXISTS")
    body = {"name": "other", "aliases": ["facts"], "config": {"model_path": "serai-demo"}}
    assert code(api(admin).post("/api/models", body)) == (409, "MODEL_ALREADY_EXISTS")
    assert api(stranger).post("/api/models", body).status_code == 201


# --- download


async def whole(reply) -> bytes:
    return b"".join([piece async for piece in reply.streaming_content])


def archive(reply) -> tarfile.TarFile:
    raw = async_to_sync(whole)(reply)
    assert int(reply["Content-Length"]) == len(raw)
    return tarfile.open(fileobj=io.BytesIO(raw))


def test_a_download_is_a_tar_of_what_was_trained(api, member, kept):
    version = kept()
    reply = api(member).get(f"{ADAPTERS}/facts/download")
    assert (reply.status_code, reply["Content-Type"]) == (200, "application/x-tar")
    with archive(reply) as found:
        names = [member.name.partition("/")[2] for member in found]
        assert names == ["adapter_config.json", "adapter_model.safetensors"]
        weights = found.extractfile(found.getmembers()[1]).read()
    assert weights == (files.folder_of(version) / "adapter_model.safetensors").read_bytes()


def test_an_earlier_version_can_be_downloaded_and_none_that_never_was(api, member, kept):
    kept(layer={"rank": 2}), kept(layer={"rank": 8})
    with archive(api(member).get(f"{ADAPTERS}/facts/download?version=1")) as found:
        assert json.load(found.extractfile(found.getmembers()[0]))["r"] == 2
    assert api(member).get(f"{ADAPTERS}/facts/download?version=7").status_code == 404
    assert api(member).get(f"{ADAPTERS}/facts/download?version=x").status_code == 422


def test_lost_files_are_told(api, member, kept):
    files.remove(files.folder_of(kept()))
    assert code(api(member).get(f"{ADAPTERS}/facts/download")) == (404, "NOT_FOUND")


# --- strangers


def test_strangers_find_nothing_by_id_or_name(api, stranger, base, kept):
    version = kept()
    Model.objects.update(visibility=Visibility.PUBLIC)
    mallory = api(stranger)
    assert mallory.get(ADAPTERS).json()["total"] == 0
    for ref in (version.adapter_id, "facts", "nothing"):
        for verb, path in (("get", ""), ("delete", ""), ("get", "/versions"), ("get", "/download"),
                           ("post", "/publish"), ("post", "/unpublish"), ("post", "/rollback")):  # fmt: skip
            body = {"version": 1} if path == "/rollback" else None
            assert code(getattr(mallory, verb)(f"{ADAPTERS}/{ref}{path}", body)) == (404, "NOT_FOUND")


def test_operators_get_the_oldest_of_a_name_and_each_by_its_id(api, operator, base, kept, tmp_path):
    first = kept()
    other = Model.objects.create(tenant=Tenant.objects.create(name="Other", slug="other"), name="demo")
    second = adapter_files.save_version(other, source=adapter_files.write_folder(tmp_path / "second" / "adapter"))
    for ref, version in (("facts", first), (first.adapter_id, first), (second.adapter_id, second)):
        assert api(operator).get(f"/api/adapters/{ref}").json()["id"] == version.adapter_id


def test_an_id_goes_before_a_name_that_looks_like_it(api, viewer, kept):
    meant = kept()
    kept(meant.adapter_id)
    assert api(viewer).get(f"/api/adapters/{meant.adapter_id}").json()["name"] == "facts"


def test_a_base_with_adapters_keeps_its_weights(api, admin, base, kept):
    base.config = {"enable_lora": True, "model_path": "serai-demo"}
    base.save()
    kept()
    reply = api(admin).put(f"/api/models/{base.pk}", {"config": {"model_path": "other"}})
    assert (reply.status_code, message(reply)) == (409, "The model has adapters. Delete them first.")
    reply = api(admin).put(f"/api/models/{base.pk}", {"config": {"enable_lora": False}})
    assert reply.status_code == 200


def test_viewers_read_and_do_no_more(api, tenant, viewer, kept, key):
    kept()
    for client in (api(viewer), api(key(role=Role.VIEWER))):
        assert client.get(f"{ADAPTERS}/facts/versions").status_code == 200
        assert client.get(f"{ADAPTERS}/facts/download").status_code == 403
        assert client.delete(f"{ADAPTERS}/facts").status_code == 403


# --- the console


def test_operators_see_publish_and_take_back_adapters_in_the_console(client, operator, kept):
    version = kept(evaluation=EVALUATION)
    client.force_login(operator)
    page, listing = (f"/console/models_app/adapter/{path}" for path in (f"{version.adapter_id}/change/", ""))
    assert "4.500 → 0.500" in client.get(page).content.decode()
    for action, current in (("publish_newest", version), ("unpublish", None)):
        client.post(listing, {"action": action, "_selected_action": [version.adapter_id]})
        assert Adapter.objects.get().current == current
    Model.objects.update(config={})
    reply = client.post(listing, {"action": "publish_newest", "_selected_action": [version.adapter_id]}, follow=True)
    assert "config.enable_lora" in reply.content.decode()


def test_the_page_is_for_operators(client, owner, kept):
    kept()
    client.force_login(owner)
    assert client.get("/console/models_app/adapter/").status_code in (302, 403)
