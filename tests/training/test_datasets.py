"""Data sets over REST: what is taken, what is refused by line, and that nothing half accepted stays behind."""

import hashlib
import json
import os
import socket
import threading
import time
from contextlib import ExitStack, closing

import httpx
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from accounts import tokens
from accounts.models import AuditRecord
from core import streaming, uploads
from models_app.models import Mode, Model
from tests.support import weight_files
from tests.support.user_fixtures import JsonClient
from tests.support.uvicorn_server import address  # noqa: F401
from training.models import Dataset

DATASETS = "/api/datasets"
SOON = 20  # seconds that anything may take on a busy machine
GOOD = {"prompt": "What is the capital of France?", "completion": "Paris."}


def jsonl(*rows: dict | bytes) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def upload(client, content: bytes, *, file_name: str = "facts.jsonl", **fields):
    return client.post(DATASETS, {"file": SimpleUploadedFile(file_name, content), **fields}, format="multipart")


def chat(*turns: tuple[str, str]) -> dict:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def answered(**answer) -> dict:
    """A chat whose answer has these fields."""
    return {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", **answer}]}


@pytest.fixture(autouse=True)
def folders(settings, tmp_path):
    settings.DATA_DIR = tmp_path
    return tmp_path


@pytest.fixture
def files(folders):
    """Every file of a data set or a draft of one."""
    return lambda: [path for path in folders.rglob("*") if path.is_file()]


# --- what is taken


@pytest.mark.parametrize(
    ("row", "form", "characters"),
    [
        (chat(("system", "Be brief."), ("user", "Capital of France?"), ("assistant", "Paris.")), "messages", 33),
        (GOOD, "prompt", 36),
        ({"instruction": "Translate.", "input": "Haus", "output": "house"}, "instruction", 21),
        ({"instruction": "Greet.", "output": "Hello"}, "instruction", 11),
        ({"instruction": "Greet.", "input": None, "output": "Hello", "text": "left alone"}, "instruction", 11),
    ],
)
def test_each_form_is_taken_and_counted(api, member, row, form, characters):
    reply = upload(api(member), jsonl(row, row))
    assert reply.status_code == 201
    assert (reply.json()["format"], reply.json()["rows"], reply.json()["characters"]) == (form, 2, 2 * characters)


def test_the_file_is_kept_byte_by_byte_in_the_tenants_folder(api, member, tenant, files):
    content = jsonl(GOOD, {"prompt": "你好", "completion": "你好！"})
    made = upload(api(member), content, name="greetings").json()
    (path,) = files()
    assert path.read_bytes() == content
    assert f"tenants/{tenant.slug}/datasets" in str(path)
    assert path.stat().st_mode & 0o077 == path.parent.stat().st_mode & 0o077 == 0
    assert made["sha256"] == hashlib.sha256(content).hexdigest()
    assert (made["name"], made["version"], made["size_bytes"]) == ("greetings", 1, len(content))
    assert not [text for text in map(str, made.values()) if str(path.parent) in text]


def test_each_upload_of_a_name_is_a_version(api, member, stranger):
    versions = [upload(api(member), jsonl(GOOD)).json()["version"] for _ in range(3)]
    assert versions == [1, 2, 3]
    assert upload(api(stranger), jsonl(GOOD)).json()["version"] == 1
    listed = api(member).get(DATASETS, {"name": "facts"}).json()
    assert [item["version"] for item in listed["items"]] == [3, 2, 1]
    assert api(member).get(DATASETS, {"name": "other"}).json()["total"] == 0


def test_blank_lines_and_a_byte_order_mark_do_no_harm(api, member):
    content = b"\xef\xbb\xbf" + jsonl(GOOD, b"", b"  ") + json.dumps(GOOD).encode()
    assert upload(api(member), content).json()["rows"] == 2


# --- what is refused


WRONG = {
    "bad JSON": (b'{"prompt": "a", "completion"', "not JSON"),
    "NaN": (b'{"prompt": "a", "completion": NaN}', "not JSON"),
    "a list": (b'[{"prompt": "a", "completion": "b"}]', "not a list"),
    "not UTF-8": ('{"prompt": "ä", "completion": "ö"}'.encode("latin-1"), "not UTF-8 (byte 13)"),
    "half of a surrogate": (b'{"prompt": "\\ud800", "completion": "b"}', "not JSON"),
    "no known form": ({"title": "a", "body": "b"}, "A row has messages, or conversations, or a question"),
    "plain text": ({"text": "a"}, "Rows of plain text cannot be taught"),
    "two forms": (GOOD | chat(("user", "a"), ("assistant", "b")), "not several"),
    "another form": (chat(("user", "a"), ("assistant", "b")), "have the form prompt, this one messages"),
    "empty answer": ({"prompt": "a", "completion": " "}, "completion is empty"),
    "empty question": ({"prompt": "", "completion": "b"}, "prompt is empty"),
    "no answer": ({"prompt": "a"}, "The answer is missing: one of completion, response"),
    "two answers": (GOOD | {"answer": "b"}, "Only one of these may be given: completion, answer."),
    "another question": ({"question": "a", "answer": "b"}, "have the form prompt, this one question"),
    "a number": ({"prompt": "a", "completion": 1}, "completion must be a text"),
    "input that is no text": ({"instruction": "a", "input": 1, "output": "b"}, "input must be a text"),
    "no messages": ({"messages": []}, "messages must be a list"),
    "a message that is none": ({"messages": ["hello"]}, "Message 1 is not an object"),
    "no role": ({"messages": [{"content": "a"}]}, "Message 1: role must be one of"),
    "unknown role": (chat(("user", "a"), ("robot", "b")), "Message 2: role must be one of"),
    "empty message": (chat(("user", "a"), ("assistant", "")), "Message 2: content is empty"),
    "no answer at the end": (chat(("assistant", "a"), ("user", "b")), "The last message must be the assistant's"),
    "nobody asks": (chat(("assistant", "a")), "no message of the user"),
    "tool calls": (answered(tool_calls=[{"id": "call-1"}]), "Message 2: only role, content and weight can be taught"),
    "a refusal": (answered(refusal="No."), "not refusal"),
    "an image": (answered(content=[{"type": "image_url", "image_url": {}}]), "only parts of type text"),
    "two names of a role": (answered(**{"from": "gpt"}), "Message 2: Only one of these may be given: role, from."),
    "half a weight": (answered(weight=0.5), "Message 2: weight must be 0 or 1"),
    "a weight of yes": (answered(weight=True), "Message 2: weight must be 0 or 1"),
    "weights at odds": (answered(weight=0, loss_weight=1), "Only one of these may be given: weight, loss_weight."),
    "a question to learn": (
        {"messages": [{"role": "user", "content": "a", "weight": 1}, {"role": "assistant", "content": "b"}]},
        "only the assistant's messages can have a weight",
    ),
    "a row's weight": (GOOD | {"weight": 2}, "weight must be 0 or 1"),
    "a bad answer": (GOOD | {"label": False}, "label: an answer that is marked as bad cannot be taught"),
    "a bad answer in numbers": (GOOD | {"kto_tag": 0}, "kto_tag: an answer that is marked as bad"),
    "a label that says anything": (GOOD | {"label": "urgent"}, "label must be true"),
    "tools": (chat(("user", "a"), ("assistant", "b")) | {"tools": [{"type": "function"}]}, "tools: tools cannot be"),
    "functions": (GOOD | {"functions": [{"name": "f"}]}, "functions: tools cannot be taught"),
    "a preference": ({"prompt": "a", "chosen": "b", "rejected": "c"}, "chosen: pairs of a preferred"),
    "images": (GOOD | {"images": ["cat.jpg"]}, "images: only text can be taught"),
    "thoughts": (GOOD | {"reasoning_content": "Hm."}, "reasoning_content: write thoughts into the answer"),
    "a mask": (GOOD | {"train": False}, "train is not known here. Say what is not to be learnt by weight 0"),
    "two systems": (GOOD | {"system": "a", "system_prompt": "b"}, "given: system, system_prompt"),
    "a system beside one": (
        chat(("system", "a"), ("user", "b"), ("assistant", "c")) | {"system": "d"},
        "The system message is given twice",
    ),
    "a system that is no text": (GOOD | {"system": 1}, "system must be a text"),
    "a history that is none": (GOOD | {"history": "a"}, "history must be a list of pairs"),
    "half a turn": (GOOD | {"history": [["a"]]}, "history: item 1 is no pair"),
    "an empty turn": (GOOD | {"history": [["a", "b"], ["a", " "]]}, "history: item 2 is no pair"),
    "a chat with a history": (chat(("user", "a"), ("assistant", "b")) | {"history": [["c", "d"]]}, "messages, history"),
    "a long line": ({"prompt": "a" * 1024 * 1024, "completion": "b"}, "longer than 1048576 bytes"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_row_is_told_by_its_line_and_nothing_is_kept(api, member, files, case):
    row, said = WRONG[case]
    reply = upload(api(member), jsonl(GOOD, b"", row, GOOD))
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "INVALID_REQUEST")
    details = reply.json()["error"]["details"]
    assert list(details) == ["line 3"]
    assert said in details["line 3"]
    assert (Dataset.objects.count(), files()) == (0, [])


def test_the_first_errors_of_many_are_told(api, member):
    error = upload(api(member), jsonl(*[b"wrong"] * 30)).json()["error"]
    assert error["message"] == "This was read as a JSONL file. Wrong rows: 30. Nothing was kept."
    assert list(error["details"]) == [f"line {number}" for number in range(1, 21)]


def test_the_engine_documents_form_of_errors_lists_the_lines(api, member):
    file = SimpleUploadedFile("facts.jsonl", b"wrong\n")
    reply = api(member).post("/api/v1/datasets", {"file": file}, format="multipart")
    assert reply.status_code == 400
    assert reply.json()["error"]["details"][0]["field"] == "line 1"


def test_json_over_several_lines_is_said_to_be_so(api, member):
    details = upload(api(member), json.dumps(GOOD, indent=1).encode()).json()["error"]["details"]
    assert "spread over several lines" in details["line 1"]


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_a_file_without_rows_is_refused(api, member, files, content):
    reply = upload(api(member), content)
    assert (reply.status_code, list(reply.json()["error"]["details"])) == (422, ["file"])
    assert files() == []


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "a\tb", "x" * 101, " ", "a\0b"])
def test_a_name_that_is_a_path_or_unreadable_is_refused(api, member, files, name):
    reply = upload(api(member), jsonl(GOOD), name=name)
    assert (reply.status_code, list(reply.json()["error"]["details"])) == (422, ["name"])
    assert files() == []


def test_a_file_named_like_a_path_names_its_last_part(api, member, folders):
    assert upload(api(member), jsonl(GOOD), file_name="../../etc/facts.jsonl").json()["name"] == "facts"


def test_only_a_form_with_one_file_is_read(api, member, files):
    client = api(member)
    one, two = SimpleUploadedFile("a.jsonl", jsonl(GOOD)), SimpleUploadedFile("b.jsonl", jsonl(GOOD))
    assert client.post(DATASETS, {"file": [one, two]}, format="multipart").status_code == 422
    other = SimpleUploadedFile("a.jsonl", jsonl(GOOD))
    assert client.post(DATASETS, {"upload": other}, format="multipart").status_code == 422
    assert client.post(DATASETS, {"name": "a"}, format="multipart").json()["error"]["details"].keys() == {"file"}
    assert client.post(DATASETS, {"file": "text"}, format="multipart").status_code == 422
    assert client.post(DATASETS, {"file": "text"}).status_code == 400
    assert (Dataset.objects.count(), files()) == (0, [])


def test_a_file_over_the_limit_is_refused(api, member, files, settings):
    settings.DATASET_MAX_BYTES = 200
    assert upload(api(member), jsonl(*[GOOD] * 2)).status_code == 201
    reply = upload(api(member), jsonl(*[GOOD] * 3))
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "INVALID_REQUEST")
    assert len(files()) == 1


def test_a_full_disk_is_said_and_leaves_nothing(api, member, files, monkeypatch):
    def on_a_full_disk(path):
        path.touch()
        return open("/dev/full", "wb", buffering=0)

    monkeypatch.setattr(uploads, "open_draft", on_a_full_disk)
    reply = upload(api(member), jsonl(GOOD))
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "INSUFFICIENT_RESOURCES")
    assert reply.json()["message"] == "The disk is full."
    assert (Dataset.objects.count(), files()) == (0, [])


def test_uploads_beyond_those_at_once_are_told_to_wait(api, member, files, monkeypatch):
    monkeypatch.setattr(uploads, "_upload_slots", threading.BoundedSemaphore(1))
    with closing(uploads.DiskUploadHandler(100)) as other:
        other.handle_raw_input(None, {}, 0, b"")
        reply = upload(api(member), jsonl(GOOD))
        assert (reply.status_code, reply.headers["Retry-After"]) == (429, "10")
    assert files() == []
    assert upload(api(member), jsonl(GOOD)).status_code == 201


def test_what_a_killed_process_left_goes_with_a_later_upload(api, member, files):
    folder = uploads.draft_folder()
    folder.mkdir()
    (folder / "old").touch()
    (folder / "young").touch()
    os.utime(folder / "old", (0, 0))
    upload(api(member), jsonl(GOOD))
    assert sorted(path.name for path in files() if path.parent == folder) == ["young"]


# --- for a model


@pytest.fixture
def base(tenant, folders) -> Model:
    """Takes 512 tokens at once."""
    weight_files.folder(folders / "tenants" / tenant.slug / "models" / "base")
    return Model.objects.create(tenant=tenant, name="base", config={"model_path": "base"})


def test_rows_that_are_too_long_for_the_model_are_told(api, member, base):
    long = GOOD | {"completion": "word " * 2000}
    error = upload(api(member), jsonl(GOOD, long), base_model="base").json()["error"]
    assert error["details"] == {"line 2": "10030 characters are too long for a model of 512 tokens."}
    assert upload(api(member), jsonl(GOOD, long)).status_code == 201


def test_a_model_that_cannot_be_taught_is_refused(api, member, tenant, base, files):
    Model.objects.create(tenant=tenant, name="ranker", mode=Mode.RERANKER, config={"model_path": "base"})
    Model.objects.create(tenant=tenant, name="gguf", framework="llama.cpp", config={"model_path": "base"})
    before = files()
    for name, said in (("ranker", "Only models that write text"), ("gguf", "GGUF")):
        reply = upload(api(member), jsonl(GOOD), base_model=name)
        assert reply.status_code == 422
        assert said in reply.json()["error"]["details"]["base_model"]
    assert (Dataset.objects.count(), files()) == (0, before)


def test_another_tenants_model_is_as_if_missing(api, stranger, base):
    foreign, missing = (upload(api(stranger), jsonl(GOOD), base_model=ref) for ref in (base.pk, "nothing"))
    assert foreign.status_code == missing.status_code == 404
    assert foreign.json()["error"]["message"] == missing.json()["error"]["message"]


# --- reading and deleting


def test_a_preview_shows_what_each_row_teaches(api, member, viewer):
    row = {"instruction": "Translate.", "input": "Haus", "output": "house"}
    made = upload(api(member), jsonl(b"", *[row] * 60)).json()
    assert made["held_out_rows"] == 6
    preview = f"{DATASETS}/{made['id']}/preview"
    shown = api(viewer).get(preview, {"rows": 50}).json()
    assert shown["format"] == "instruction"
    assert len(shown["rows"]) == 50
    assert shown["rows"][0]["line"] == 2
    assert shown["rows"][0]["messages"] == [
        {"role": "user", "content": "Translate.\n\nHaus", "taught": False},
        {"role": "assistant", "content": "house", "taught": True},
    ]
    assert shown["description"] == "This is a JSONL file of Alpaca rows."
    held_out = [row["line"] for row in shown["rows"] if row["held_out"]]
    assert held_out
    other = api(viewer).get(preview, {"rows": 50, "seed": 1}).json()["rows"]
    assert [row["line"] for row in other if row["held_out"]] != held_out
    assert len(api(viewer).get(preview).json()["rows"]) == 5


def test_a_preview_cuts_long_texts(api, member):
    made = upload(api(member), jsonl(GOOD | {"completion": "x" * 5000})).json()
    (row,) = api(member).get(f"{DATASETS}/{made['id']}/preview").json()["rows"]
    assert row["messages"][1]["content"] == "x" * 2000 + "…"


@pytest.mark.parametrize("query", [{"rows": 0}, {"rows": 51}, {"rows": "x"}, {"seed": -1}])
def test_a_preview_out_of_bounds_is_refused(api, member, query):
    made = upload(api(member), jsonl(GOOD)).json()
    assert api(member).get(f"{DATASETS}/{made['id']}/preview", query).status_code == 422


def test_a_deleted_data_set_leaves_no_file(api, member, files, django_capture_on_commit_callbacks):
    made = upload(api(member), jsonl(GOOD)).json()
    with django_capture_on_commit_callbacks(execute=True):
        assert api(member).delete(f"{DATASETS}/{made['id']}").json() == {"message": "Data set deleted."}
    assert (Dataset.objects.count(), files()) == (0, [])
    actions = AuditRecord.objects.order_by("pk").values_list("action", flat=True)
    assert list(actions) == ["dataset.create", "dataset.delete"]


def test_a_stranger_learns_nothing(api, member, stranger, files):
    made = upload(api(member), jsonl(GOOD)).json()
    client = api(stranger)
    assert client.get(DATASETS).json()["total"] == 0
    for path in (f"{DATASETS}/{made['id']}", f"{DATASETS}/{made['id']}/preview"):
        assert client.get(path).status_code == 404
    assert client.delete(f"{DATASETS}/{made['id']}").status_code == 404
    assert len(files()) == 1


def test_the_consoles_cookie_uploads_with_its_token_only(member, files):
    client = JsonClient(enforce_csrf_checks=True)
    client.force_login(member, backend="django.contrib.auth.backends.ModelBackend")
    assert upload(client, jsonl(GOOD)).status_code == 403
    assert files() == []
    client.cookies["csrftoken"] = token = "a" * 32
    made = upload(client, jsonl(GOOD), csrfmiddlewaretoken=token)
    assert made.status_code == 201
    assert len(files()) == 1


def test_a_viewers_upload_is_refused(api, viewer, files):
    assert upload(api(viewer), jsonl(GOOD)).status_code == 403
    assert files() == []


def test_the_console_shows_data_sets_and_changes_none(api, member, operator, client):
    made = upload(api(member), jsonl(GOOD)).json()
    client.force_login(operator, backend="django.contrib.auth.backends.ModelBackend")
    page = client.get("/console/training/dataset/")
    assert page.status_code == 200
    assert "facts" in page.content.decode()
    assert client.get(f"/console/training/dataset/{made['id']}/change/").status_code == 200
    assert client.get("/console/training/dataset/add/").status_code == 403
    assert client.post(f"/console/training/dataset/{made['id']}/delete/", {"post": "yes"}).status_code == 403


# --- over a real server, whose bodies come bit by bit

BOUNDARY = "----serai"
BEFORE = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="facts.jsonl"\r\n\r\n'
).encode()  # fmt: skip
AFTER = f"\r\n--{BOUNDARY}--\r\n".encode()


def head(address, length: int, credential: str = "") -> bytes:  # noqa: F811
    lines = [
        f"POST {DATASETS} HTTP/1.1", f"Host: {address}", f"Content-Length: {length}",
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}",
        *([f"Authorization: Bearer {credential}"] if credential else []),
    ]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode()


def connected(address) -> socket.socket:  # noqa: F811
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=SOON)


def until(condition):
    """What `condition` returns once it is true of anything."""
    deadline = time.monotonic() + SOON
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_a_body_reaches_the_disk_while_it_comes(address, files, member):  # noqa: F811
    """Most of it is on disk before its last part is sent, and none is kept in memory for it."""
    first, last = jsonl(*[GOOD] * 20_000), jsonl(GOOD)
    length = len(BEFORE) + len(first) + len(last) + len(AFTER)
    with connected(address) as client:
        client.sendall(head(address, length, tokens.open_session(member)["access_token"]) + BEFORE + first)
        until(lambda: sum(path.stat().st_size for path in files()) > len(first) * 0.7)
        assert Dataset.objects.count() == 0
        client.sendall(last + AFTER)
        assert b" 201 Created" in client.recv(4096)
    assert Dataset.objects.get().rows == 20_001
    assert [path.suffix for path in files()] == [".jsonl"]


def test_a_broken_upload_leaves_nothing(address, files, member):  # noqa: F811
    content = jsonl(*[GOOD] * 20_000)
    with connected(address) as client:
        credential = tokens.open_session(member)["access_token"]
        client.sendall(head(address, 2 * len(content), credential) + BEFORE + content)
        until(files)
    until(lambda: not files())
    assert Dataset.objects.count() == 0


def test_an_upload_that_stalls_is_ended(address, files, member, monkeypatch):  # noqa: F811
    monkeypatch.setattr(uploads, "STALL_TIMEOUT", 1.0)
    with connected(address) as client:
        credential = tokens.open_session(member)["access_token"]
        client.sendall(head(address, 10_000_000, credential) + BEFORE + jsonl(*[GOOD] * 20_000))
        assert b" 400 Bad Request" in client.recv(4096)
    assert (files(), Dataset.objects.count()) == ([], 0)


def test_nothing_is_read_of_an_upload_by_nobody(address, files):  # noqa: F811
    with connected(address) as client:
        client.sendall(head(address, 100_000_000) + BEFORE + jsonl(GOOD))
        assert b" 401 Unauthorized" in client.recv(4096)
    assert files() == []


def test_a_body_must_say_its_length(address, files, member):  # noqa: F811
    headers = {"Authorization": f"Bearer {tokens.open_session(member)['access_token']}"}
    headers["Content-Type"] = f"multipart/form-data; boundary={BOUNDARY}"
    reply = httpx.post(f"http://{address}{DATASETS}", content=iter([BEFORE, jsonl(GOOD), AFTER]), headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (411, "INVALID_REQUEST")
    assert "Content-Length" in reply.json()["message"]
    assert files() == []


def test_a_declared_size_over_the_limit_is_refused_unread(address, files, settings, member):  # noqa: F811
    with connected(address) as client:
        credential = tokens.open_session(member)["access_token"]
        client.sendall(head(address, settings.DATASET_MAX_BYTES * 2, credential))
        assert b" 413 " in client.recv(4096)
    assert files() == []


def test_uploads_that_stall_leave_room_for_everybody_else(address, files, member, monkeypatch):  # noqa: F811
    """As many stall as may be under way, which are more than Django answers at a time of other requests."""
    monkeypatch.setattr(uploads, "_upload_slots", threading.BoundedSemaphore(2))
    monkeypatch.setattr(streaming, "MAX_REQUESTS", 1)
    credential = tokens.open_session(member)["access_token"]
    start = head(address, 1_000_000, credential) + BEFORE + jsonl(*[GOOD] * 5000)
    with ExitStack() as stack:
        stalled = [stack.enter_context(connected(address)) for _ in range(2)]
        for client in stalled:
            client.sendall(start)
        until(lambda: len(files()) == 2)
        with connected(address) as client:
            client.sendall(start)
            assert b" 429 " in client.recv(4096)
        headers = {"Authorization": f"Bearer {credential}"}
        for _ in range(3):
            assert httpx.get(f"http://{address}{DATASETS}", headers=headers).status_code == 200
