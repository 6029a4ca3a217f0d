"""How many tokens a data set has for a base model, as JSON: `counting.py BASE DATA FORMAT LIMIT MOST`.

Started by training/datasets/tokens.py with the shim's folder in the path; nothing is read before root's
powers are given up.
"""

import json
import os
import sys
from itertools import islice
from pathlib import Path

os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})

import conversation
import privileges
from failures import Refused

SHOWN = 20


def main(base: str, data: str, form: str, limit: int, most: int) -> dict:
    """Of the first `most` rows; `too_long` has the lines of some with more than `limit` tokens."""
    from data import Encoder
    from transformers import AutoTokenizer

    encoder = Encoder(AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False), limit)
    found = {"rows": 0, "tokens": 0, "learnt_tokens": 0, "longest": 0, "too_long_rows": 0, "too_long": {}}
    with Path(data).open(encoding="utf-8-sig", newline="\n") as file:
        rows = ((line, text) for line, text in enumerate(file, 1) if text.strip())
        for number, (line, text) in enumerate(islice(rows, most)):
            example = encoder.encode(number, conversation.BY_FORM[form](json.loads(text)))
            add(found, line, len(example.ids), example.learnt, limit)
    return found


def add(found: dict, line: int, tokens: int, learnt: int, limit: int) -> None:
    found["rows"] += 1
    found["tokens"] += tokens
    found["learnt_tokens"] += learnt
    found["longest"] = max(found["longest"], tokens)
    if tokens > limit:
        found["too_long_rows"] += 1
        if len(found["too_long"]) < SHOWN:
            found["too_long"][line] = tokens


if __name__ == "__main__":
    if os.geteuid() == 0:
        privileges.drop()
    base, data, form, limit, most = sys.argv[1:]
    try:
        told = main(base, data, form, int(limit), int(most))
    except Refused as refusal:
        told = {"refused": refusal.reason}
    print(json.dumps(told))
