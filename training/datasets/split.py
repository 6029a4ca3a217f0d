"""Which rows of a data set are kept from training, to measure afterwards what the model makes of them."""

import hashlib
from itertools import count

FEWEST_ROWS = 50  # of fewer, every row is needed for training
SHARE, MOST = 0.1, 500


def held_out_count(rows: int) -> int:
    return 0 if rows < FEWEST_ROWS else min(int(rows * SHARE), MOST)


def held_out(rows: int, seed: int) -> frozenset[int]:
    """Numbers of rows, from 0; the same for the same seed on every machine and in every version of Python."""
    chosen: set[int] = set()
    for draw in count():
        if len(chosen) == held_out_count(rows):
            return frozenset(chosen)
        chosen.add(_number(draw, seed) % rows)


def _number(draw: int, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{draw}".encode()).digest())
