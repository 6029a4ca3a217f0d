"""The held-out rows of a data set: the same for a seed everywhere and for ever, and none of few."""

import pytest

from training.datasets import split


@pytest.mark.parametrize("rows, count", [(0, 0), (49, 0), (50, 5), (1000, 100), (5000, 500), (1_000_000, 500)])
def test_a_tenth_is_held_out_of_enough_rows_and_never_more_than_500(rows, count):
    assert split.held_out_count(rows) == count


def test_the_same_seed_chooses_the_same_rows():
    assert sorted(split.held_out(50, 42)) == [5, 11, 15, 32, 38]
    assert len(split.held_out(200, 1)) == 20
    assert split.held_out(200, 1) != split.held_out(200, 2)
    assert split.held_out(200, 1) <= set(range(200))


def test_of_fewer_than_fifty_rows_none_is_held_out():
    assert split.held_out(49, 42) == frozenset()
