"""Which rows of a dataset are held out of training, for the evaluation."""

import hashlib
from itertools import count

MIN_ROWS = 50  # with fewer, all rows are needed for training
HELD_OUT_SHARE, MAX_HELD_OUT = 0.1, 500


def held_out_count(rows: int) -> int:
    return 0 if rows < MIN_ROWS else min(int(rows * HELD_OUT_SHARE), MAX_HELD_OUT)


def held_out(rows: int, seed: int) -> frozenset[int]:
    """Row numbers, from 0; the same for the same seed on every machine and in every version of Python."""
    chosen: set[int] = set()
    draws = count()
    while len(chosen) < held_out_count(rows):
        chosen.add(_random_number(next(draws), seed) % rows)
    return frozenset(chosen)


def _random_number(draw: int, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{draw}".encode()).digest())
