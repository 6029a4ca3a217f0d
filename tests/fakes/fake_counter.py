#!/usr/bin/env python3
"""Counts rows as training/trainer/counting.py does, with a word for a token. Standard library only.

A base model whose folder has `no_chat_template` is refused as the real program refuses it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "training" / "trainer"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "node_agent" / "shim"))

import counting
import fake_encoder
from failures import TrainingRefused


def make_encoder(base: str, _limit: int):
    if (Path(base) / "no_chat_template").exists():
        raise TrainingRefused("The base model has no chat template.", "base_model")
    return fake_encoder.encode


if __name__ == "__main__":
    counting.main(sys.argv[1:], make_encoder)
