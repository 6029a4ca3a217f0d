"""Messages in the caller's language, and the catalogue that they come from."""

import ast
import gettext
import re

import pytest

from core import errors
from models_app.models import Model
from tests.messages import FOLDER, calls, read_po, sources, texts

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
