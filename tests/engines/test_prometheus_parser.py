"""What engines say of themselves, in common words; a page may be old, foreign, broken or endless."""

from pathlib import Path

import pytest

from engines.base import Engine, EngineReadings
from engines.llamacpp import LlamaCppEngine
from engines.prometheus_parser import MAX_SAMPLES, MAX_VALUE, Histogram, MetricsPage
from engines.vllm import VllmEngine

RECORDED = Path(__file__).resolve().parents[1] / "support" / "recorded"


class OtherEngine(Engine):
    reading_names = {"running": "busy", "kv_usage": "fill", "prompt_tokens": "read_total", "ttft": "first_seconds"}


def read(page: str) -> EngineReadings:
    return OtherEngine().readings(page)


def test_vllms_own_page_is_read_whole():
    readings = VllmEngine().readings((RECORDED / "vllm-0.32-metrics.txt").read_text())
    assert (readings.running, readings.waiting, readings.kv_usage) == (0, 0, 0.0)
    assert (readings.prompt_tokens, readings.generation_tokens, readings.cached_tokens) == (54, 33, 0)
    assert (readings.prefix_queries, readings.prefix_hits, readings.preemptions) == (54, 0, 0)
    assert (readings.ttft.count, readings.ttft.sum) == (3, pytest.approx(0.037879, rel=1e-4))
    assert readings.ttft.buckets[1:4] == ((0.005, 0), (0.01, 2), (0.02, 2))
    assert readings.ttft.buckets[-1] == (float("inf"), 3)
    assert readings.tpot.count == 3


def test_llamacpps_own_page_is_read_with_its_cached_tokens_among_the_prompts():
    readings = LlamaCppEngine().readings((RECORDED / "llamacpp-0.3.36-metrics.txt").read_text())
    assert (readings.running, readings.waiting) == (0, 0)
    assert (readings.prompt_tokens, readings.cached_tokens, readings.generation_tokens) == (36, 3, 25)
    assert (readings.kv_usage, readings.prefix_hits, readings.ttft, readings.tpot) == (None, None, None, None)


@pytest.mark.parametrize(
    "page", ["", "\n\n", "<html>502</html>", "\0\xff" * 1000, '{"running": 1}', "busy", "busy one"]
)
def test_nonsense_reads_as_nothing(page):
    assert read(page) == EngineReadings()


@pytest.mark.parametrize("value", ["NaN", "nan", "-1", "+Inf", "-Inf", "", "0x10", "1e300"])
def test_a_value_that_no_counter_can_have_is_not_taken(value):
    assert read(f"busy {value}\nread_total {value}") == EngineReadings()


def test_lines_around_a_broken_one_still_count():
    assert read('busy{rank="0"} 1\nbusy{rank="1 2\nbusy{rank="2"} NaN\nbusy{rank="3"} 4\n').running == 5


def test_ranks_of_one_engine_add_up_but_for_the_fill_of_their_caches():
    readings = read('busy{rank="0"} 1\nbusy{rank="1"} 2\nfill{rank="0"} 0.25\nfill{rank="1"} 0.75\n')
    assert (readings.running, readings.kv_usage) == (3, 0.75)


def test_a_cache_is_never_fuller_than_full():
    assert read("fill 1.00001").kv_usage == 1.0


def test_a_name_that_only_begins_alike_is_another():
    assert read("busy_slots 7\nread_total_created 1.7e9\n# TYPE busy gauge\n#busy 3\n") == EngineReadings()


def test_labels_may_hold_braces_quotes_and_line_breaks():
    assert read('busy{model="a} 9",path="\\"x\\\\",other="\\n"} 2 1700000000000\n').running == 2


def test_an_exemplar_behind_a_value_is_passed_over():
    assert read('read_total{a="1"} 6 # {trace_id="} 8"} 0.5\n').prompt_tokens == 6


def test_windows_line_ends_and_tabs_are_read():
    assert read("busy\t3\r\nread_total 4\r\n") == EngineReadings(running=3, prompt_tokens=4)


def test_histograms_of_ranks_add_up_bound_by_bound():
    page = "".join(
        f'first_seconds_bucket{{le="0.5",rank="{rank}"}} 1\nfirst_seconds_bucket{{le="+Inf",rank="{rank}"}} 2\n'
        f'first_seconds_sum{{rank="{rank}"}} 1.5\nfirst_seconds_count{{rank="{rank}"}} 2\n'
        for rank in range(2)
    )
    assert read(page).ttft == Histogram(((0.5, 2), (float("inf"), 4)), 3.0, 4)


@pytest.mark.parametrize("lacking", ["_bucket", "_sum", "_count"])
def test_a_histogram_that_lacks_a_part_is_none(lacking):
    lines = ['first_seconds_bucket{le="+Inf"} 2', "first_seconds_sum 1.5", "first_seconds_count 2"]
    assert read("\n".join(line for line in lines if lacking not in line)).ttft is None


def test_a_bucket_without_a_usable_bound_is_dropped():
    page = 'first_seconds_bucket{le="soon"} 9\nfirst_seconds_bucket 9\nfirst_seconds_bucket{le="1"} 2\n'
    assert read(f"{page}first_seconds_sum 1\nfirst_seconds_count 2\n").ttft.buckets == ((1.0, 2),)


def test_of_an_endless_page_only_so_much_is_taken():
    assert read("busy 1\n" * (MAX_SAMPLES + 1000)).running == MAX_SAMPLES


def test_endless_lines_are_passed_over():
    assert read('busy{a="' + "x" * 10**6 + '"} 1\nbusy 2\n').running == 2


def test_quotes_that_never_close_take_no_time():
    assert MetricsPage(('busy{a="\\' + '\\"' * 8000 + "\n") * 500, ["busy"]).total("busy") is None


def test_no_sum_grows_beyond_what_the_database_holds():
    assert read(f"read_total {MAX_VALUE:.0f}\n" * 10).prompt_tokens <= 2**63 - 1
