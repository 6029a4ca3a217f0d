"""Messages in the caller's language, and the catalogue that they come from."""

import ast
import gettext
import json
import re

import pytest

from core import errors
from models_app.models import Model
from tests.support.gateway_server import EngineProcess, chat, engine_folder, instance, served, snapshot
from tests.support.message_catalogue import FOLDER, calls, read_po, sources, texts

PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|%[sd]|\{\w*\}")


def read_mo() -> dict[str, str]:
    with (FOLDER / "django.mo").open("rb") as file:
        catalogue = gettext.GNUTranslations(file)._catalog
    return {key[0] if isinstance(key, tuple) else key: text for key, text in catalogue.items()}


@pytest.mark.parametrize("language", ["zh-Hans", "zh-CN", "zh", "zh-CN,zh;q=0.9,en;q=0.8", "fr, zh-Hans;q=0.5"])
def test_a_chinese_client_reads_what_the_document_shows(api, owner, language):
    client = api(owner, **{"Accept-Language": language})
    made = client.post("/api/models", {"name": "m", "framework": "vllm", "config": {"model_path": "later"}}).json()
    assert made["message"] == "模型创建成功"
    assert client.delete(f"/api/models/{made['id']}").json() == {"message": "模型删除成功"}
    missing = client.get("/api/models/nothing").json()
    assert (missing["error"]["code"], missing["error"]["message"]) == ("MODEL_NOT_FOUND", "指定的模型不存在")


@pytest.mark.parametrize("language", ["", "en", "fr", "tlh", "'", "*"])
def test_everybody_else_reads_english(api, owner, language):
    reply = api(owner, **{"Accept-Language": language}).get("/api/models/nothing")
    assert reply.json()["message"] == "The model does not exist."
    assert Model.objects.count() == 0


def test_the_compiled_catalogue_is_the_readable_one():
    assert read_mo() == {key: text for key, text in read_po().items() if text}


def test_no_error_is_raised_in_words_that_cannot_be_translated():
    kinds = {
        name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.PlatformError)
    }
    plain = [
        f"{path.name}:{call.lineno}"
        for path in sources()
        for call in calls(ast.parse(path.read_text()), kinds)
        if texts(call)
    ]
    assert plain == []


def test_no_message_is_left_untranslated_and_none_loses_a_value():
    catalogue = {key: text for key, text in read_po().items() if key}
    assert [key for key, text in catalogue.items() if not text] == []
    plurals = {key for key in catalogue if key.startswith("Too many failed log-ins. Wait")}
    changed = {
        key
        for key, text in catalogue.items()
        if key not in plurals and sorted(PLACEHOLDER.findall(key)) != sorted(PLACEHOLDER.findall(text))
    }
    assert changed == set()


def gateway_errors(headers: dict) -> list[str]:
    """What the data plane says on each of its surfaces, whole and as the last event of a stream."""
    with (
        engine_folder() as folder,
        served(snapshot(instance(EngineProcess(folder).endpoint))) as gateway,
        gateway.client() as client,
    ):
        client.headers.update(headers)
        told = [
            client.post(path, json=chat(model="missing")).json()["error"]["message"]
            for path in ("/v1/chat/completions", "/api/models/missing/generate", "/api/v1/models/missing/generate")
        ]
        broken = client.post("/v1/chat/completions", json=chat("[[truncate=2]]", stream=True)).text
    return [*told, json.loads(broken.strip().rpartition("data: ")[2])["error"]["message"]]


def test_the_data_plane_speaks_the_callers_language_too():
    unknown = "模型“missing”不存在，或您无权访问。"
    broken = "引擎中断了应答。请重试；崩溃记录会说明原因。"
    assert gateway_errors({"Accept-Language": "zh-CN"}) == [unknown] * 3 + [broken]
    english = gateway_errors({})
    assert english[0] == "The model 'missing' does not exist, or you have no access to it."
    assert english[-1] == "The engine broke off while answering. Try again; its crashes tell why."


def test_codes_are_the_same_in_every_language(api, owner):
    chinese = api(owner, **{"Accept-Language": "zh"}).get("/api/v1/models/nothing").json()
    english = api(owner).get("/api/v1/models/nothing").json()
    assert chinese["error"]["code"] == english["error"]["code"] == "MODEL_NOT_FOUND"
    assert chinese["message"] != english["message"]
