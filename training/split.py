"""Which rows of a data set are kept from training, to measure afterwards what the model makes of them."""

import hashlib
import heapq

FEWEST_ROWS = 50  # of fewer, every row is needed for training
SHARE, MOST = 0.1, 500


def held_out_count(rows: int) -> int:
    return 0 if rows < FEWEST_ROWS else min(int(rows * SHARE), MOST)


def held_out(rows: int, seed: int) -> frozenset[int]:
    """Numbers of rows, from 0; the same for the same seed on every machine and in every version of Python."""
    return frozenset(heapq.nsmallest(held_out_count(rows), range(rows), key=lambda row: _rank(row, seed)))


def _rank(row: int, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{row}".encode()).digest()
