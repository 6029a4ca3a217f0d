"""Files as people have them: each is recognised by one sentence, converted with a preview, or refused row by row."""

import gzip
import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from training.models import Dataset

DATASETS = "/api/datasets"
SYSTEM, ASKED, FIRST = "You are the harbour master.", "May I lend boat 1?", "Yes, with a form."
QUESTION, ANSWER = "And boat 2?", "It is being repaired."
GOOD = {"prompt": "a", "completion": "b"}
TURN = [("user", QUESTION), ("assistant", ANSWER)]
WHOLE = [("system", SYSTEM), ("user", ASKED), ("assistant", FIRST), *TURN]


@pytest.fixture(autouse=True)
def folders(settings, tmp_path):
    settings.DATA_DIR = tmp_path
    return tmp_path


def upload(client, content: bytes | str, name: str = "harbour.json"):
    data = content.encode() if isinstance(content, str) else content
    return client.post(DATASETS, {"file": SimpleUploadedFile(name, data)}, format="multipart")


def preview(client, made: dict) -> dict:
    return client.get(f"{DATASETS}/{made['id']}/preview").json()


def told(row: dict) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in row["messages"]]


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def sharegpt(*turns: tuple[str, str], **fields) -> dict:
    return {"conversations": [{"from": role, "value": text} for role, text in turns], **fields}


# name → (file name, content, the sentence, what each row is taught as)
FILES = {
    "Stanford's Alpaca": (
        "alpaca_data.json",
        json.dumps([{"instruction": QUESTION, "input": "", "output": ANSWER}] * 2, indent=4),
        "This is a JSON list of Alpaca rows.",
        TURN,
    ),
    "LLaMA-Factory's Alpaca with system and history": (
        "alpaca_zh_demo.json",
        json.dumps([
            {"instruction": QUESTION, "input": "", "output": ANSWER, "system": SYSTEM, "history": [[ASKED, FIRST]]}
        ]),
        "This is a JSON list of Alpaca rows.",
        WHOLE,
    ),
    "FastChat's ShareGPT": (
        "dummy_conversation.json",
        json.dumps([sharegpt(("human", QUESTION), ("gpt", ANSWER), id="identity_0")], indent=2),
        "This is a JSON list of ShareGPT conversations.",
        TURN,
    ),
    "LLaMA-Factory's ShareGPT with a system beside it": (
        "glaive.json",
        json.dumps([
            sharegpt(("human", ASKED), ("gpt", FIRST), ("human", QUESTION), ("gpt", ANSWER), system=SYSTEM, tools="")
        ]),
        "This is a JSON list of ShareGPT conversations.",
        WHOLE,
    ),
    "conversations with roles": (
        "chats.jsonl",
        lines({"conversations": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]}),
        "This is a JSONL file of ShareGPT conversations.",
        TURN,
    ),
    "ms-swift's query, response, history": (
        "train.jsonl",
        lines({"system": SYSTEM, "query": QUESTION, "response": ANSWER, "history": [[ASKED, FIRST]]}),
        "This is a JSONL file of rows of query and response.",
        WHOLE,
    ),
    "GSM8K's question and answer": (
        "gsm8k.jsonl",
        lines({"question": QUESTION, "answer": ANSWER}),
        "This is a JSONL file of rows of question and answer.",
        TURN,
    ),
    "OpenOrca's": (
        "orca.jsonl",
        lines({"id": "niv.1", "system_prompt": "", "question": QUESTION, "response": ANSWER}),
        "This is a JSONL file of rows of question and response.",
        TURN,
    ),
    "Dolly": (
        "databricks-dolly-15k.jsonl",
        lines({"instruction": QUESTION, "context": "", "response": ANSWER, "category": "open_qa"}),
        "This is a JSONL file of Dolly rows (instruction, response).",
        TURN,
    ),
    "OpenAI's messages as a list": (
        "dev.json",
        json.dumps([{"messages": [{"role": role, "content": text} for role, text in WHOLE]}]),
        "This is a JSON list of chat messages.",
        WHOLE,
    ),
    "LLaMA-Factory's rows with weights": (
        "v1_sft_demo.jsonl",
        lines({"messages": [
            {"role": role, "content": [{"type": "text", "text": text}], "loss_weight": float(role == "assistant")}
            for role, text in WHOLE
        ]}),
        "This is a JSONL file of chat messages.",
        WHOLE,
    ),
    "stored answers of an API": (
        "stored.jsonl",
        lines({"messages": [
            {"role": "developer", "content": SYSTEM, "name": None},
            *({"role": role, "content": text, "refusal": None, "annotations": [], "tool_calls": None, "audio": None}
              for role, text in WHOLE[1:]),
        ]}),
        "This is a JSONL file of chat messages.",
        WHOLE,
    ),
    "liked answers": (
        "kto.jsonl",
        lines({"prompt": QUESTION, "completion": ANSWER, "label": True}),
        "This is a JSONL file of rows of prompt and completion.",
        TURN,
    ),
    "a spreadsheet's CSV": (
        "facts.csv",
        f"\ufeffQuestion,Answer\r\n{QUESTION},{ANSWER}\r\n\r\n",
        "This is a CSV table of rows of question and answer.",
        TURN,
    ),
    "a CSV with semicolons": (
        "facts.csv",
        f"instruction;input;output\n{QUESTION};;{ANSWER}\n",
        "This is a CSV table of Alpaca rows.",
        TURN,
    ),
    "AutoTrain's TSV with everything": (
        "train.tsv",
        f"system\tprompt\tcompletion\thistory\tweight\n{SYSTEM}\t{QUESTION}\t{ANSWER}\t"
        f'"[[""{ASKED}"", ""{FIRST}""]]"\t1\n',
        "This is a TSV table of rows of prompt and completion.",
        WHOLE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_file_is_recognised_and_shown_as_what_it_teaches(api, member, viewer, stranger, case):
    name, content, sentence, expected = FILES[case]
    reply = upload(api(member), content, name)
    assert reply.status_code == 201, reply.json()
    made = reply.json()
    assert (made["description"], made["name"]) == (sentence, name.rpartition(".")[0])
    shown = preview(api(viewer), made)
    assert shown["description"] == sentence
    assert [told(row) for row in shown["rows"]] == [expected] * made["rows"]
    assert all(part["taught"] == (part["role"] == "assistant") for row in shown["rows"] for part in row["messages"])
    assert api(stranger).get(f"{DATASETS}/{made['id']}/preview").status_code == 404


def test_the_sentence_is_in_the_callers_language(api, member):
    client = api(member, **{"Accept-Language": "zh-Hans"})
    made = upload(client, json.dumps([{"instruction": "a", "output": "b"}])).json()
    assert made["description"] == "这是 JSON 列表，内容为 Alpaca 格式的行。"


def test_a_list_is_kept_as_lines_with_the_same_fields(api, member, folders):
    rows = [{"instruction": f"Say {number}.", "output": str(number), "id": number} for number in range(3)]
    made = upload(api(member), json.dumps(rows, indent=1)).json()
    (path,) = [path for path in folders.rglob("*") if path.is_file()]
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows
    assert made["size_bytes"] == path.stat().st_size
    assert [row["line"] for row in preview(api(member), made)["rows"]] == [1, 2, 3]


def test_fields_without_a_meaning_are_told_with_their_rows(api, member):
    row = {"prompt": "a", "completion": "b", "source": "web"}
    made = upload(api(member), lines(row, row | {"id": 7}, row | {"id": None, "label": None, "images": []})).json()
    assert made["ignored_fields"] == {"id": 1, "source": 3}
    assert api(member).get(f"{DATASETS}/{made['id']}").json()["ignored_fields"] == {"id": 1, "source": 3}
    assert upload(api(member), lines(GOOD)).json()["ignored_fields"] == {}


def test_the_names_of_ignored_fields_are_bounded(api, member):
    made = upload(api(member), lines(GOOD | {f"{number:03}" + "x" * 200: 1 for number in range(90)})).json()
    assert len(made["ignored_fields"]) == 50
    assert max(map(len, made["ignored_fields"])) == 100


def test_rows_of_weight_0_are_counted_and_shown_as_not_taught(api, member):
    made = upload(api(member), lines(GOOD, GOOD | {"weight": 0}, GOOD | {"loss_weight": 0.0})).json()
    assert made["untaught_rows"] == 2
    rows = preview(api(member), made)["rows"]
    assert [row["messages"][1]["taught"] for row in rows] == [True, False, False]
    reply = upload(api(member), lines(GOOD | {"weight": 0}))
    assert (reply.status_code, list(reply.json()["error"]["details"])) == (422, ["file"])


def test_errors_of_a_list_are_told_by_row_after_a_sentence_about_the_file(api, member):
    rows = [sharegpt(("human", "a"), ("gpt", "b")), sharegpt(("human", "a"), ("observation", "b"))]
    error = upload(api(member), json.dumps(rows, indent=2)).json()["error"]
    assert error["message"] == "This is a JSON list of ShareGPT conversations. Wrong rows: 1. Nothing was kept."
    assert list(error["details"]) == ["row 2"]
    assert "role must be one of system, developer, user, assistant; human, gpt" in error["details"]["row 2"]
    assert Dataset.objects.count() == 0


def test_errors_of_a_table_are_told_by_the_line_on_which_a_row_begins(api, member):
    table = 'prompt,completion,label\n"two\nlines",b,\n\na,b,False\na,b,,c\na,,\n'
    error = upload(api(member), table, "t.csv").json()["error"]
    assert error["message"].startswith("This is a CSV table of rows of prompt and completion. Wrong rows: 3.")
    assert list(error["details"]) == ["line 5", "line 6", "line 7"]
    assert "marked as bad" in error["details"]["line 5"]
    assert error["details"]["line 6"] == "It has 4 cells, and the first line has 3."
    assert "The answer is missing" in error["details"]["line 7"]


BROKEN = {
    "a list that breaks off": ('[{"prompt": "a", "completion": "b"},', "row 2", "It is not JSON"),
    "a list without a comma": ('[{"prompt": "a", "completion": "b"} {}]', "row 1", "A comma or the end"),
    "a list and more": ('[{"prompt": "a", "completion": "b"}] {}', "row 2", "there is more behind it"),
    "a list with NaN": ('[{"prompt": "a", "completion": "b", "score": NaN}]', "row 1", "It is not JSON"),
    "a list with half a surrogate": ('[{"prompt": "\\ud800", "completion": "b"}]', "row 1", "not UTF-8, or an integer"),
    "a list with a huge integer": ('[{"prompt": "a", "completion": "b", "id": 1%s}]' % ("0" * 30), "row 1", "64 bits"),
    "a list in Latin-1": ('[{"prompt": "a", "x": "ä"}]'.encode("latin-1"), "row 1", "that is not UTF-8"),
    "a list of lists": ("[[1]]", "row 1", "not a list"),
    "a list that is too deep": ("[" * 100_000, "row 1", "It is not JSON"),
    "a row of a list that is too long": (json.dumps([GOOD | {"x": "y" * 1_100_000}]), "row 1", "longer than"),
    "a table with an open quote": ('prompt,completion\n"a,b\n', "line 2", "It is not CSV: unexpected end of data"),
    "a table with a long row": (
        'prompt,completion\na,b\n"' + "a\n" * 600_000 + '",b\n',
        "line 3",
        "a row is longer than",
    ),
    "a table with a long header": ("prompt,completion," + "a" * 1_100_000, "line 1", "a row is longer than"),
    "a table in Latin-1": ("prompt,completion\nä,b\n".encode("latin-1"), "line 2", "that is not UTF-8"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_told_where_it_breaks_and_nothing_is_kept(api, member, folders, case):
    content, place, said = BROKEN[case]
    reply = upload(api(member), content)
    assert reply.status_code == 422, reply.json()
    details = reply.json()["error"]["details"]
    assert list(details) == [place]
    assert said in details[place]
    assert (Dataset.objects.count(), [path for path in folders.rglob("*") if path.is_file()]) == (0, [])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train.parquet", b"PAR1\x15\x04", "This is a Parquet file, which is not taken."),
        ("train.jsonl.gz", b"\x1f\x8b\x08\x00", "The file is packed with gzip, and damaged."),
        (
            "train.jsonl.gz",
            gzip.compress(b'{"prompt": "a"}', mtime=0)[:-9],
            "The file is packed with gzip, and damaged.",
        ),
        ("train.parquet.gz", gzip.compress(b"PAR1", mtime=0), "This is a Parquet file"),
        ("facts.xlsx", b"PK\x03\x04\x14", "This is a ZIP file or a spreadsheet"),
        ("facts.json", '[{"prompt": "a"}]'.encode("utf-16"), "This is a file in UTF-16"),
        ("facts.csv", b"title,body\na,b\n", "a table whose columns are not known: title, body. Call them prompt"),
        ("facts.json", b"[]", "The file holds no rows."),
        ("facts.csv", b"prompt,completion\n", "The file holds no rows."),
    ],
)
def test_a_file_of_another_kind_is_named(api, member, name, content, said):
    reply = upload(api(member), content, name)
    assert (reply.status_code, list(reply.json()["error"]["details"])) == (422, ["file"])
    assert said in reply.json()["error"]["details"]["file"]


def test_a_long_list_is_read_piece_by_piece(api, member):
    rows = [{"prompt": f"Question {number} " + "x" * 5000, "completion": "b"} for number in range(2500)]
    made = upload(api(member), json.dumps(rows)).json()
    assert made["rows"] == 2500
    assert made["characters"] == sum(len(row["prompt"]) + 1 for row in rows)


def test_a_table_that_grows_too_large_as_lines_is_refused(api, member, settings, folders):
    settings.DATASET_MAX_BYTES = 400
    reply = upload(api(member), "instruction,output\n" + "a,b\n" * 20, "t.csv")
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "INVALID_REQUEST")
    assert [path for path in folders.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("content", [lines(GOOD, GOOD), json.dumps([GOOD, GOOD]), "prompt,completion\na,b\na,b\n"])
def test_a_file_packed_with_gzip_is_taken_as_what_is_in_it(api, member, folders, content):
    made = upload(api(member), gzip.compress(content.encode()), "facts.csv.gz").json()
    assert (made["name"], made["rows"]) == ("facts", 2)
    (path,) = [path for path in folders.rglob("*") if path.is_file()]
    assert [json.loads(line) for line in path.read_text().splitlines()] == [GOOD, GOOD]
    assert made["size_bytes"] == path.stat().st_size


def test_a_bomb_of_gzip_is_refused(api, member, settings, folders):
    settings.DATASET_MAX_BYTES = 100_000
    reply = upload(api(member), gzip.compress(lines(GOOD).encode() * 100_000), "facts.jsonl.gz")
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "INVALID_REQUEST")
    assert [path for path in folders.rglob("*") if path.is_file()] == []


def test_openais_files_are_taken_in_the_same_forms(api, member):
    file = SimpleUploadedFile("alpaca (1).json", json.dumps([{"instruction": "a", "output": "b", "id": 1}]).encode())
    made = api(member).post("/v1/files", {"purpose": "fine-tune", "file": file}, format="multipart").json()
    assert made["filename"] == "alpaca -1-.jsonl"
    assert made["status_details"] == "This is a JSON list of Alpaca rows. Fields without a meaning: id (1)."
    wrong = SimpleUploadedFile("kto.json", json.dumps([GOOD | {"label": False}]).encode())
    error = api(member).post("/v1/files", {"purpose": "fine-tune", "file": wrong}, format="multipart").json()["error"]
    assert (error["param"], error["message"].partition(".")[0]) == ("row 1", "This was read as a JSON list")
