"""Counts a dataset's tokens for a base model and prints JSON: `counting.py BASE DATA FORMAT LIMIT MAX_ROWS`.

Started by training/datasets/tokens.py with the shim's folder in the path; it drops root privileges
before it reads anything.
"""

import json
import os
import sys
from itertools import islice
from pathlib import Path

os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})

import conversation
import privileges
from failures import TrainingRefused

MAX_SHOWN = 20


def main(base: str, data: str, form: str, limit: int, max_rows: int) -> dict:
    """Of the first `max_rows` rows; `too_long` maps the first lines with more than `limit` tokens to their tokens."""
    from data import Encoder
    from transformers import AutoTokenizer

    encoder = Encoder(AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False), limit)
    found = {"rows": 0, "tokens": 0, "learnt_tokens": 0, "longest": 0, "too_long_rows": 0, "too_long": {}}
    with Path(data).open(encoding="utf-8-sig", newline="\n") as file:
        rows = ((line, text) for line, text in enumerate(file, 1) if text.strip())
        for number, (line, text) in enumerate(islice(rows, max_rows)):
            example = encoder.encode(number, conversation.BY_FORM[form](json.loads(text)))
            add_row(found, line, len(example.ids), example.learnt_tokens, limit)
    return found


def add_row(found: dict, line: int, tokens: int, learnt: int, limit: int) -> None:
    found["rows"] += 1
    found["tokens"] += tokens
    found["learnt_tokens"] += learnt
    found["longest"] = max(found["longest"], tokens)
    if tokens > limit:
        found["too_long_rows"] += 1
        if len(found["too_long"]) < MAX_SHOWN:
            found["too_long"][line] = tokens


if __name__ == "__main__":
    if os.geteuid() == 0:
        privileges.drop()
    base, data, form, limit, max_rows = sys.argv[1:]
    try:
        result = main(base, data, form, int(limit), int(max_rows))
    except TrainingRefused as refusal:
        result = {"refused": refusal.reason}
    print(json.dumps(result))
