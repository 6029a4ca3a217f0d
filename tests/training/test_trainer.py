"""The parts of the trainer that need no torch: what is learnt of a row, what is kept, what is told, what went wrong."""

import errno
import json
import os

import pytest

from tests.support.trainer_runs import DEMO, RECIPE
from training.datasets import tokens
from training.trainer import checkpoints, conversation, failures, spans
from training.trainer import spec as specs
from training.trainer.progress import ProgressJournal

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Which cat?"},
    {"role": "assistant", "content": "Pippa."},
    {"role": "user", "content": "And the dog?"},
    {"role": "assistant", "content": "Orso."},
]
THOUGHT = "<think></think>"


def chatml(messages, begin_answer):
    text = "".join(f"<|{message['role']}|>{message['content']}<|end|>\n" for message in messages)
    return text + "<|assistant|>" * begin_answer


def thinking(messages, begin_answer):
    """As some models do: only the last answer keeps its place for thoughts."""
    text = ""
    for number, message in enumerate(messages):
        thoughts = THOUGHT * (message["role"] == "assistant" and number == len(messages) - 1)
        text += f"<|{message['role']}|>{thoughts}{message['content']}<|end|>\n"
    return text + "<|assistant|>" * begin_answer


def spoken(render, row=None):
    """What is learnt of a row of messages."""
    lesson = conversation.of_chat(row or {"messages": CHAT})
    whole, found = spans.assistant_spans(lesson.messages, lesson.taught, render)
    return [whole[start:end] for start, end in found]


def test_each_answer_is_learnt_with_its_end_mark_and_nothing_else_is():
    assert spoken(chatml) == ["Pippa.<|end|>", "Orso.<|end|>"]


def test_an_answer_that_looks_different_later_is_not_learnt():
    assert spoken(thinking) == [f"{THOUGHT}Orso.<|end|>"]


def test_a_greeting_that_answers_nothing_is_not_learnt():
    greeting = {"role": "assistant", "content": "Welcome!"}
    assert spoken(chatml, {"messages": [greeting, *CHAT[1:]]}) == ["Pippa.<|end|>", "Orso.<|end|>"]
    assert spoken(chatml, {"messages": [CHAT[0], greeting, *CHAT[1:]]}) == ["Pippa.<|end|>", "Orso.<|end|>"]


def weighted(*weights, name="weight"):
    """The chat with weights for its two answers."""
    given = iter(weights)
    return [part | ({name: next(given)} if part["role"] == "assistant" else {}) for part in CHAT]


@pytest.mark.parametrize(
    ("weights", "learnt"),
    [
        ((0, 1), ["Orso.<|end|>"]),
        ((1, 0), ["Pippa.<|end|>"]),
        ((0.0, None), ["Orso.<|end|>"]),
        ((1, 1.0), ["Pippa.<|end|>", "Orso.<|end|>"]),
        ((0, 0), []),
    ],
)
def test_a_message_of_weight_0_is_read_and_not_learnt(weights, learnt):
    for name in ("weight", "loss_weight"):
        assert spoken(chatml, {"messages": weighted(*weights, name=name)}) == learnt


def test_nothing_is_learnt_of_a_row_of_weight_0():
    assert spoken(chatml, {"messages": CHAT, "weight": 0}) == []
    assert not conversation.of_question({"prompt": "Q", "completion": "A", "loss_weight": 0.0}).taught
    assert conversation.of_question({"prompt": "Q", "completion": "A", "weight": 1}).taught


def test_the_template_sees_roles_and_texts_only():
    row = {"messages": [
        {"role": "developer", "content": "Be brief.", "name": None}, {"from": "human", "value": "Q", "weight": 0},
        {"role": "assistant", "content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}], "weight": 1},
    ]}  # fmt: skip
    assert conversation.of_chat(row).messages == [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "A\nB"},
    ]  # fmt: skip


def test_system_and_history_come_first_and_their_answers_are_learnt():
    row = {"query": "And the dog?", "response": "Orso.", "history": [["Which cat?", "Pippa."]], "system": "Be brief."}
    lesson = conversation.of_question(row)
    assert (lesson.messages, lesson.taught) == (CHAT, {2, 4})
    assert conversation.of_chat({"messages": CHAT[1:], "system": "Be brief."}).messages == CHAT


def test_a_sample_ends_with_the_last_answer_that_is_learnt():
    assert conversation.of_chat({"messages": weighted(1, 0)}).last_taught == CHAT[:3]


def test_a_template_that_rewrites_everything_leaves_nothing_to_learn():
    assert spoken(lambda messages, begin_answer: f"{len(messages)} messages") == []


def test_tokens_are_learnt_where_they_touch_an_answer():
    assert spans.marked([(0, 3), (3, 5), (5, 9), (9, 9)], [(4, 6)]) == [False, True, True, False]


@pytest.mark.parametrize(
    ("form", "row"),
    [
        ("messages", {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], "id": 3}),
        ("prompt", {"prompt": "Q", "completion": "A"}),
        ("prompt", {"question": "Q", "answer": "A", "id": 3}),
        ("prompt", {"query": "Q", "response": "A", "history": None, "system": ""}),
        ("instruction", {"instruction": "Q", "output": "A", "input": " "}),
        ("instruction", {"input": "Q", "output": "A"}),
        ("messages", {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}),
        (
            "messages",
            {"messages": None, "conversations": [{"role": "user", "content": "Q"}, {"from": "gpt", "value": "A"}]},
        ),
    ],
)
def test_a_row_of_every_form_is_a_conversation(form, row):
    lesson = conversation.BY_FORM[form](row)
    assert lesson.messages == [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    assert (lesson.taught, lesson.is_taught_whole) == ({1}, True)


def test_details_follow_the_question_after_an_empty_line():
    row = {"instruction": "Who?", "context": "Mira keeps it.", "response": "Mira."}
    assert conversation.of_question(row).messages[0]["content"] == "Who?\n\nMira keeps it."


def test_a_spec_is_read_with_its_recipe(tmp_path):
    recipe = RECIPE | {"target_modules": ["q_proj"]}
    content = {"job": "job-1", "base": str(DEMO), "dtype": "float32", "device": "cpu", "threads": 2, "data": "/d",
               "format": "prompt", "held_out": [2, 7], "recipe": recipe, "resume": None, "samples": 4}  # fmt: skip
    (tmp_path / "spec.json").write_text(json.dumps(content))
    spec = specs.load(tmp_path / "spec.json")
    assert spec.held_out == {2, 7} and spec.recipe.target_modules == ("q_proj",)
    assert spec.recipe.total_steps(rows=9) == 9  # three steps, three times


def test_long_trainings_tell_of_about_a_thousand_steps_and_warm_up_for_a_part():
    assert [specs.log_interval(total) for total in (1, 999, 5000)] == [1, 1, 5]
    assert [specs.warm_up_steps(total) for total in (1, 100, 5000)] == [1, 3, 150]


def draft(folder, step):
    path = folder / checkpoints.DRAFT
    path.mkdir(parents=True)
    (path / "weights").write_bytes(b"w" * step)
    return checkpoints.save_checkpoint(path, folder, step)


def test_a_checkpoint_says_what_it_holds_and_two_are_kept(tmp_path):
    for step in (5, 100, 20):
        kept = draft(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-100", "checkpoint-20"]
    manifest = checkpoints.check(kept)
    assert manifest["step"] == 20 and manifest["files"]["weights"]["size"] == 20


@pytest.mark.parametrize("harm", ["cut", "added", "lost", "renamed", "linked", "unlisted"])
def test_a_checkpoint_that_was_harmed_is_refused(tmp_path, harm):
    kept = draft(tmp_path, 20)
    weights = kept / "weights"
    harms = {
        "cut": lambda: os.truncate(weights, 5),
        "added": lambda: (kept / "more").write_text("x"),
        "lost": weights.unlink,
        "renamed": lambda: weights.rename(kept / "other"),
        "linked": lambda: (kept / "link").symlink_to("/etc/passwd"),
        "unlisted": (kept / checkpoints.MANIFEST).unlink,
    }
    harms[harm]()
    with pytest.raises(checkpoints.DamagedCheckpoint):
        checkpoints.check(kept)


def test_events_are_lines_of_json_even_where_a_figure_is_no_number(tmp_path):
    journal = ProgressJournal(tmp_path / "progress.jsonl")
    journal.write_event("step", 3, loss=float("nan"), learning_rate=0.5)
    (line,) = (tmp_path / "progress.jsonl").read_text().splitlines()
    event = json.loads(line)
    assert event.pop("at") > 1e9
    assert event == {"event": "step", "step": 3, "loss": None, "learning_rate": 0.5}


def test_a_line_that_the_disk_tore_does_not_spoil_the_next(tmp_path, monkeypatch):
    journal, write = ProgressJournal(tmp_path / "progress.jsonl"), os.write
    room = [10]

    def full(file, content):
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(file, content[: room[0]])
        room[0] -= written
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            journal.write_event("step", 1)
    journal.write_event("error", 1, reason="full")
    torn, whole = (tmp_path / "progress.jsonl").read_text().splitlines()
    assert len(torn) == 10 and json.loads(whole)["event"] == "error"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EFBIG, "File too large"),
        RuntimeError("[enforce fail at inline_container.cc:626] . PytorchStreamWriter failed writing file data/3"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 445120 vs 445008"),
        RuntimeError("Error while serializing: I/O error: File too large (os error 27)"),
    ],
)
def test_a_full_disk_is_told_in_the_same_words_whoever_noticed_it(error):
    assert failures.explain(error).reason == failures.DISK_FULL


def test_too_little_memory_names_what_to_lower():
    assert failures.explain(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")).field == "batch_size"


def test_what_nobody_foresaw_is_left_to_the_log():
    assert failures.explain(RuntimeError("/home/someone/secret")) is None


def test_a_refusal_is_found_under_what_it_caused():
    error = RuntimeError("while training")
    error.__cause__ = failures.TrainingRefused("There is no layer.", "target_modules")
    assert failures.explain(error).field == "target_modules"


def test_the_program_that_counts_tokens_lies_beside_the_trainer():
    assert tokens.PROGRAM.with_name("conversation.py").samefile(conversation.__file__) and tokens.PROGRAM.exists()
