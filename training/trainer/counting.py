"""Counts a dataset's tokens for a base model and prints JSON: `counting.py BASE DATA FORMAT LIMIT MAX_ROWS`.

Started by training/datasets/tokens.py with the shim's folder in the path; it drops root privileges
before it reads anything.
"""

import json
import os
import sys
from collections.abc import Callable, Sized
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol

os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})

import conversation
import privileges
from conversation import Lesson
from failures import TrainingRefused

MAX_SHOWN = 20


class EncodedRow(Protocol):
    """The tokens of a row, and how many of them are learnt."""

    ids: Sized

    @property
    def learnt_tokens(self) -> int: ...

    def cut(self, longest: int) -> "EncodedRow": ...


Encode = Callable[[int, Lesson], EncodedRow]


@dataclass
class RowCounts:
    """Of the first `rows`. `rows_cut` lose their end at the limit, of `rows_left_out` nothing is learnt.

    `too_long` maps the first lines with more tokens than the limit to their tokens.
    """

    rows: int = 0
    tokens: int = 0
    learnt_tokens: int = 0
    longest: int = 0
    rows_cut: int = 0
    rows_left_out: int = 0
    too_long_rows: int = 0
    too_long: dict[int, int] = field(default_factory=dict)

    def add(self, line: int, row: EncodedRow, limit: int) -> None:
        tokens = len(row.ids)
        is_long, is_learnt = tokens > limit, row.cut(limit).learnt_tokens > 0
        self.rows += 1
        self.tokens += tokens
        self.learnt_tokens += row.learnt_tokens
        self.longest = max(self.longest, tokens)
        self.rows_cut += is_long and is_learnt
        self.rows_left_out += not is_learnt
        self.too_long_rows += is_long
        if is_long and len(self.too_long) < MAX_SHOWN:
            self.too_long[line] = tokens


def count_rows(encode: Encode, data: Path, form: str, limit: int, max_rows: int) -> RowCounts:
    found = RowCounts()
    with data.open(encoding="utf-8-sig", newline="\n") as file:
        rows = ((line, text) for line, text in enumerate(file, 1) if text.strip())
        for number, (line, text) in enumerate(islice(rows, max_rows)):
            found.add(line, encode(number, conversation.BY_FORM[form](json.loads(text))), limit)
    return found


def model_encoder(base: str, limit: int) -> Encode:
    from data import Encoder
    from transformers import AutoTokenizer

    return Encoder(AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False), limit).encode


def main(arguments: list[str], make_encoder: Callable[[str, int], Encode] = model_encoder) -> None:
    base, data, form, limit, max_rows = arguments
    try:
        result = asdict(count_rows(make_encoder(base, int(limit)), Path(data), form, int(limit), int(max_rows)))
    except TrainingRefused as refusal:
        result = {"refused": refusal.reason, "field": refusal.field}
    print(json.dumps(result))


if __name__ == "__main__":
    if os.geteuid() == 0:
        privileges.drop()
    main(sys.argv[1:])
