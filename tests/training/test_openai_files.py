"""Files of OpenAI's fine-tuning, by its stock client: each is a data set, and a foreign one answers as if missing."""

import json

import openai
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from tests.support.uvicorn_server import address  # noqa: F401
from training.models import Dataset

FILES = "/v1/files"
GOOD = {"messages": [{"role": "user", "content": "Capital of France?"}, {"role": "assistant", "content": "Paris."}]}
JSONL = (json.dumps(GOOD) + "\n").encode()


@pytest.fixture(autouse=True)
def folders(settings, tmp_path):
    settings.DATA_DIR = tmp_path


@pytest.fixture
def sdk(address, key):  # noqa: F811
    with openai.OpenAI(base_url=f"http://{address}/v1", api_key=key(scopes=["training"]), max_retries=0) as client:
        yield client


def upload(client, content: bytes = JSONL, name: str = "facts.jsonl", **fields):
    fields = {"purpose": "fine-tune", "file": SimpleUploadedFile(name, content), **fields}
    return client.post(FILES, {name: value for name, value in fields.items() if value is not None}, format="multipart")


def test_the_stock_client_sends_lists_reads_and_deletes_a_file(sdk):
    made = sdk.files.create(file=("facts.jsonl", JSONL), purpose="fine-tune")
    assert (made.object, made.filename, made.bytes, made.purpose) == ("file", "facts.jsonl", len(JSONL), "fine-tune")
    assert sdk.files.wait_for_processing(made.id).status == "processed"
    assert [file.id for file in sdk.files.list()] == [made.id]
    assert sdk.files.content(made.id).content == JSONL
    assert sdk.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError) as gone:
        sdk.files.retrieve(made.id)
    assert gone.value.body["code"] == "not_found"


def test_a_file_of_more_than_one_piece_comes_back_whole(sdk):
    content = JSONL * 8000
    made = sdk.files.create(file=("facts.jsonl", content), purpose="fine-tune")
    assert sdk.files.content(made.id).content == content


def test_a_file_is_a_data_set(api, member):
    made = upload(api(member)).json()
    dataset = api(member).get(f"/api/datasets/{made['id']}").json()
    assert (dataset["name"], dataset["rows"], dataset["format"]) == ("facts", 1, "messages")
    assert upload(api(member)).json()["id"] != made["id"]
    assert Dataset.objects.filter(name="facts").count() == 2


@pytest.mark.parametrize(
    ("filename", "kept_as"),
    [("facts (1).jsonl", "facts -1-"), (".hidden.jsonl", "hidden"), ("数据.jsonl", "数据"), ("a" * 150, "a" * 100)],
)
def test_a_name_that_no_data_set_may_have_is_made_to_fit(api, member, filename, kept_as):
    assert upload(api(member), name=filename).json()["filename"] == f"{kept_as}.jsonl"


def test_pages_follow_one_another_without_a_gap(sdk):
    made = [sdk.files.create(file=("facts.jsonl", JSONL), purpose="fine-tune").id for _ in range(5)]
    assert [file.id for file in sdk.files.list(limit=2)] == made[::-1]
    first = sdk.files.list(limit=2)
    assert (first.has_more, first.data[-1].id) == (True, made[3])


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"purpose": "assistants"}, "purpose", "Only files for fine-tune"),
        ({"purpose": None}, "purpose", "required"),
        ({"expires_after[seconds]": "3600", "expires_after[anchor]": "created_at"}, "expires_after", "leave this out"),
        ({"file": None}, "file", "No file was submitted"),
        ({"content": JSONL + b"nonsense\n"}, "line 2", "Wrong rows: 1. Nothing was kept. line 2: "),
        ({"content": b""}, "file", "empty"),
        ({"name": " .jsonl"}, "file", "Give the file a name"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_in_openais_form(api, member, fields, param, said):
    reply = upload(api(member), **fields)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert said in error["message"]
    assert Dataset.objects.count() == 0


def test_files_are_listed_in_either_order_and_by_purpose(sdk):
    made = [sdk.files.create(file=("facts.jsonl", JSONL), purpose="fine-tune").id for _ in range(3)]
    assert [file.id for file in sdk.files.list(order="asc", limit=2)] == made
    assert [file.id for file in sdk.files.list(order="desc", purpose="fine-tune")] == made[::-1]
    assert list(sdk.files.list(purpose="batch")) == []


def test_a_form_field_without_effect_is_told_in_a_header(api, member):
    reply = upload(api(member), note="mine")
    assert (reply.status_code, reply.headers["Serai-Ignored"]) == (200, "note")
    assert "Serai-Ignored" not in upload(api(member)).headers


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": "many"}, {"after": "dataset-of-nobody"}, {"order": "random"}]
)
def test_a_wrong_page_is_told_by_its_parameter(api, member, query):
    reply = api(member).get(FILES, query)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, next(iter(query)))


def test_a_strangers_file_is_as_if_missing(api, member, stranger):
    made = upload(api(member)).json()["id"]
    for path in (f"{FILES}/{made}", f"{FILES}/{made}/content"):
        reply = api(stranger).get(path)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
    assert api(stranger).delete(f"{FILES}/{made}").status_code == 404
    assert api(stranger).get(FILES).json()["data"] == []
    assert api(stranger).get(FILES, {"after": made}).status_code == 400
    assert api(member).get(f"{FILES}/{made}").status_code == 200


def test_without_a_credential_the_answer_has_openais_form(api):
    reply = api().get(FILES)
    assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
