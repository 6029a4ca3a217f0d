"""The event stream's way through the gateway: the same whatever TCP does to it, and metered to the token."""

import json

from hypothesis import given
from hypothesis import strategies as st

from gateway.api.stream_relay import MAX_EVENT_BYTES, StreamRelay, TokenUsage, read_usage

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "demo"}
DONE = b"data: [DONE]\n\n"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    ['"usage":{"prompt_tokens":9}', ',"usage":{', "data: [DONE]\n\n", '"choices":[]', "}}\n\n", 'data: {"error"']
)


def event(data: dict) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def usage(prompt: int, completion: int, **more) -> dict:
    counts = {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}
    return {**counts, **more}


def piece(text: str, index: int = 0, **more) -> dict:
    return {**HEAD, "choices": [{"index": index, "delta": {"content": text}, "finish_reason": None}], **more}


def stream(texts: list[str], prompt: int = 7, details: dict | None = None) -> bytes:
    events = [
        event(piece(text, usage=usage(prompt, number, completion_tokens_details=None), prompt_text=None))
        for number, text in enumerate(texts, 1)
    ]
    final = event({**HEAD, "choices": [], "usage": usage(prompt, len(texts), prompt_tokens_details=details)})
    return b"".join(events) + final + DONE


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in zip(edges, edges[1:], strict=False)]


def run(parts: list[bytes], **asked) -> tuple[bytes, StreamRelay]:
    relay = StreamRelay(**asked)
    return b"".join(relay.feed(part) for part in parts), relay


def outcome(relay: StreamRelay) -> tuple:
    return relay.usage(), relay.done, relay.failure, relay.error


@given(
    texts=st.lists(TEXTS, max_size=6),
    tail=st.sampled_from([b"", b"data: {", b"garbage\n\n", b'data: {"error": {"message": "x"}}\n\n', b"\n\n\n"]),
    keep=st.integers(0, 2000),
    cuts=st.lists(st.integers(0, 5000), max_size=12),
    show=st.sampled_from([{}, {"show_usage": True}, {"show_usage": True, "show_continuous": True}]),
)
def test_the_result_does_not_depend_on_how_tcp_split_the_bytes(texts, tail, keep, cuts, show):
    data = stream(texts)[:keep] + tail
    whole, relay = run([data], **show)
    pieces, other = run(split(data, cuts), **show)
    assert pieces == whole
    assert outcome(other) == outcome(relay)


@given(texts=st.lists(TEXTS, min_size=1, max_size=5))
def test_what_is_said_arrives_and_the_counts_put_in_for_us_do_not(texts):
    out, relay = run([stream(texts)])
    assert out == b"".join(event(piece(text, prompt_text=None)) for text in texts) + DONE
    assert relay.usage() == TokenUsage(7, len(texts), 0)


def test_a_client_that_asked_for_usage_gets_one_event_of_it():
    out, _relay = run([stream(["a", "b"])], show_usage=True)
    assert out.count(b'"usage"') == 1
    assert b'"choices":[],"usage":{"prompt_tokens":7' in out


def test_a_client_that_asked_for_continuous_usage_gets_every_byte():
    data = stream(["a", "b"])
    assert run([data], show_usage=True, show_continuous=True)[0] == data


def test_cached_tokens_come_from_the_engines_own_sum():
    details = {"cached_tokens": 4, "multimodal_tokens": {"image": 2}}
    out, relay = run([stream(["a"], details=details)])
    assert relay.usage() == TokenUsage(7, 1, 4)
    assert b"usage" not in out


def test_a_cut_stream_is_metered_by_its_last_counts():
    data = stream(["a", "b", "c"])
    _out, relay = run([data[: data.index(b'"c"')]])
    assert relay.usage() == TokenUsage(7, 2, 0)
    assert not relay.done


def test_the_choices_of_a_cut_stream_are_added_up_and_its_prompts_counted_once_each():
    chunks = [(0, 3, 5), (1, 3, 6), (2, 4, 1), (0, 3, 7)]  # index, prompt tokens, completion tokens
    events = [event(piece("x", index, usage=usage(prompt, made))) for index, prompt, made in chunks]
    _out, relay = run(events, choices=2, prompts=2)
    assert relay.usage() == TokenUsage(3 + 4, 7 + 6 + 1, 0)


def test_an_error_event_ends_the_stream_after_what_came_before():
    out, relay = run([event(piece("a")) + b'data: {"error": {"message": "/secret", "code": 500}}\n\n' + DONE])
    assert out == event(piece("a"))
    assert relay.failure
    assert not relay.done
    assert b"/secret" in relay.error


def test_nothing_comes_after_done():
    out, relay = run([DONE + event(piece("late")), event(piece("later"))])
    assert out == DONE
    assert relay.done


def test_comments_are_left_out_and_garbage_ends_the_stream():
    assert run([b": ping\n\n" + event(piece("a"))])[0] == event(piece("a"))
    for garbage in (b"<html>\n\n", b'data: {"choices": [\xff\x00\n\n', b"event: x\ndata: {}\n\n"):
        _out, relay = run([event(piece("a")), garbage])
        assert relay.failure == "not an event stream"


def test_an_event_without_end_is_given_up():
    relay = StreamRelay()
    block = b"data: {" + b"x" * (MAX_EVENT_BYTES // 8)
    while not relay.failure:
        assert relay.feed(block) == b""
    assert relay.failure == "an event without end"


def test_counts_that_cannot_be_true_are_none():
    assert read_usage({"prompt_tokens": -1, "completion_tokens": "many"}) == TokenUsage()
    assert read_usage({"prompt_tokens": True, "completion_tokens": 2**40}) == TokenUsage()
    assert read_usage([1]) == TokenUsage()
    lying = {"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 99}}
    assert read_usage(lying) == TokenUsage(3, 1, 3)
