"""Which rows of a dataset are held out of training, for the evaluation."""

import hashlib
from itertools import count

FEWEST_ROWS = 50  # with fewer, all rows are needed for training
SHARE, MOST = 0.1, 500


def held_out_count(rows: int) -> int:
    return 0 if rows < FEWEST_ROWS else min(int(rows * SHARE), MOST)


def held_out(rows: int, seed: int) -> frozenset[int]:
    """Row numbers, from 0; the same for the same seed on every machine and in every version of Python."""
    chosen: set[int] = set()
    for draw in count():
        if len(chosen) == held_out_count(rows):
            return frozenset(chosen)
        chosen.add(_random_number(draw, seed) % rows)


def _random_number(draw: int, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{draw}".encode()).digest())
