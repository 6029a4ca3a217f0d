"""Tokenizes the rows: those to train on, those held out, and which tokens are the assistant's."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import conversation
import numpy
import spans
from conversation import Conversation, Lesson
from datasets import Dataset
from failures import TrainingRefused
from jinja2 import TemplateError
from pyarrow import ListArray, Table
from spec import TrainingSpec
from transformers import PreTrainedTokenizerBase

IGNORED = -100  # torch's label for tokens that are not learnt
# The same pattern as in transformers.
GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class TokenizedRow:
    """One row; `labels` are its tokens where the assistant speaks, IGNORED elsewhere."""

    ids: numpy.ndarray
    labels: numpy.ndarray

    @property
    def learnt_tokens(self) -> int:
        return int((self.labels != IGNORED).sum())

    def cut(self, longest: int) -> "TokenizedRow":
        return TokenizedRow(self.ids[:longest], self.labels[:longest])


@dataclass
class Data:
    """`shown` are the conversations for samples: held-out rows, or training rows if none are held out.

    `truncated` rows are learnt without their end; of those `left_out` nothing is learnt.
    """

    training_rows: list[TokenizedRow] = field(default_factory=list)
    held_out: list[TokenizedRow] = field(default_factory=list)
    shown: list[Conversation] = field(default_factory=list)
    truncated: int = 0
    left_out: int = 0

    @property
    def tokens(self) -> int:
        return sum(example.learnt_tokens for example in self.training_rows)

    def table(self) -> Dataset:
        """The training rows as TRL expects them, made without lists of Python numbers."""
        columns = {
            "input_ids": [row.ids for row in self.training_rows],
            "labels": [row.labels for row in self.training_rows],
        }
        ends = numpy.cumsum([0, *(len(row.ids) for row in self.training_rows)], dtype=numpy.int32)
        lists = {name: ListArray.from_arrays(ends, numpy.concatenate(rows)) for name, rows in columns.items()}
        return Dataset(Table.from_pydict(lists), fingerprint="taught")  # computing one would copy the rows

    def add_sample(self, messages: Conversation, limit: int) -> None:
        if len(self.shown) < limit and all(messages[:-1] != shown[:-1] for shown in self.shown):
            self.shown.append(messages)


def read(spec: TrainingSpec, encoder: "Encoder") -> Data:
    """Raises TrainingRefused if no row has tokens to learn."""
    data = Data()
    for number, lesson in _lessons(Path(spec.data), spec.format):
        held_out = number in spec.held_out
        whole = encoder.encode(number, lesson)
        example = whole.cut(encoder.longest)
        if not example.learnt_tokens:
            data.left_out += 1
            continue
        data.truncated += len(whole.ids) > encoder.longest
        (data.held_out if held_out else data.training_rows).append(example)
        if held_out or not spec.held_out:
            data.add_sample(lesson.last_taught, spec.samples)
    if not data.training_rows:
        raise TrainingRefused(f"No row has an answer within the first {encoder.longest} tokens.", "max_seq_length")
    return data


def _lessons(path: Path, form: str) -> Iterator[tuple[int, Lesson]]:
    """With row numbers, from 0; blank lines do not count."""
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(line for line in file if line.strip()):
            yield number, conversation.BY_FORM[form](json.loads(line))


class Encoder:
    """Tokenizes conversations with the model's own chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, longest: int):
        self.tokenizer, self.longest = tokenizer, longest
        if not tokenizer.chat_template:
            raise TrainingRefused(
                "The base model has no chat template: take one that was made for conversations.", "base_model"
            )
        self.marks_itself = bool(GENERATION_MARK.search(tokenizer.get_chat_template()))
        if not (self.marks_itself or tokenizer.is_fast):
            raise TrainingRefused("The base model's tokenizer cannot tell where the assistant speaks.", "base_model")

    def encode(self, number: int, lesson: Lesson) -> TokenizedRow:
        try:
            ids, learnt = self._encode_by_template(lesson) if self.marks_itself else self._encode_by_spans(lesson)
        except TemplateError as error:
            raise TrainingRefused(
                f"Row {number + 1} does not suit the model's chat template: {error}", "dataset"
            ) from None
        tokens = numpy.array(ids, numpy.int32)
        return TokenizedRow(tokens, numpy.where(numpy.array(learnt, bool), tokens, numpy.int32(IGNORED)))

    def prompt(self, messages: Conversation) -> list[int]:
        return self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True
        )["input_ids"]

    def _encode_by_template(self, lesson: Lesson) -> tuple[list[int], list[bool]]:
        """The template marks every answer; where some are not taught, their places are looked for as well."""
        encoded = self.tokenizer.apply_chat_template(
            lesson.messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        learnt = [bool(mask) for mask in encoded["assistant_masks"]]
        if not lesson.is_taught_whole:
            learnt = [both == (True, True) for both in zip(learnt, self._encode_by_spans(lesson)[1], strict=True)]
        return encoded["input_ids"], learnt

    def _encode_by_spans(self, lesson: Lesson) -> tuple[list[int], list[bool]]:
        if not self.tokenizer.is_fast:
            raise TrainingRefused("The base model's tokenizer cannot tell which answer is to be learnt.", "base_model")
        text, found = spans.assistant_spans(lesson.messages, lesson.taught, self._render)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return encoded["input_ids"], spans.marked(encoded["offset_mapping"], found)

    def _render(self, messages: Conversation, begin_answer: bool) -> str:
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=begin_answer)
