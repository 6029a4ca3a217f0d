"""llama.cpp behind the gateway: its streams are metered to the token, and what it cannot do is refused by name."""

import json
from pathlib import Path

import pytest

from core.errors import NotFound, PlatformError
from gateway.api import dialects, generation, pooling, replies
from gateway.api.llamacpp import TimedRelay, read_timings
from gateway.api.stream_relay import TokenUsage
from gateway.routing.snapshot import ModelEntry

RECORDED = Path(__file__).resolve().parents[1] / "support" / "recorded"
CHAT = (RECORDED / "llamacpp-0.3.36-chat.sse").read_bytes()
TEXT = (RECORDED / "llamacpp-0.3.36-text.sse").read_bytes()
MODEL = ModelEntry("model-1", "tenant-a", "demo", context=2048, engine="llama.cpp")
USER = {"role": "user", "content": "hi"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aaaa"}}


def run(data: bytes, *, show_usage: bool = False, step: int = 10**6) -> tuple[list[dict], TimedRelay]:
    relay = TimedRelay(show_usage=show_usage)
    out = b"".join(relay.feed(data[start : start + step]) for start in range(0, len(data), step))
    events = [event.removeprefix(b"data: ") for event in out.split(b"\n\n") if event]
    return [json.loads(event) for event in events if event != b"[DONE]"], relay


def cut_after(data: bytes, events: int) -> bytes:
    return b"\n\n".join(data.split(b"\n\n")[:events]) + b"\n\n"


def ask(operation=generation.CHAT_COMPLETION, model: ModelEntry = MODEL, **fields) -> dict:
    needed = {"messages": [USER]} if operation is generation.CHAT_COMPLETION else {}
    here = dialects.engine_operation(operation, model.engine)
    return generation.prepare_request(here, {**needed, **fields}, model, "tenant-a", b"key").payload


def refused(operation=generation.CHAT_COMPLETION, **fields) -> str:
    with pytest.raises(PlatformError) as caught:
        ask(operation, **fields)
    return caught.value.param


@pytest.mark.parametrize("step", [1, 7, 10**6])
def test_a_whole_stream_loses_its_timings_and_is_counted_by_the_engines_sum(step):
    events, relay = run(CHAT, step=step)
    assert not [event for event in events if "timings" in event or "usage" in event]
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events) == (
        "The capital of France is Paris."
    )
    assert relay.done
    assert relay.usage() == TokenUsage(18, 11, 3)


def test_a_client_that_asks_for_usage_gets_it_in_the_last_chunk():
    events, _relay = run(CHAT, show_usage=True)
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 11


def test_a_text_completions_usage_comes_in_a_chunk_of_its_own_if_it_was_asked_for():
    plain, relay = run(TEXT)
    shown, _relay = run(TEXT, show_usage=True)
    assert not [event for event in plain if "usage" in event]
    assert plain == shown[:-1]
    assert (shown[-1]["choices"], shown[-1]["usage"]["completion_tokens"]) == ([], 4)
    assert plain[-1]["choices"][0]["finish_reason"] == "length"
    assert relay.usage() == TokenUsage(6, 4, 0)


@pytest.mark.parametrize(("events", "tokens"), [(1, 0), (2, 1), (5, 4), (11, 10)])
def test_a_stream_that_is_cut_is_counted_to_the_last_token_that_came(events, tokens):
    _events, relay = run(cut_after(CHAT, events))
    assert relay.usage() == (TokenUsage(18, tokens, 3) if tokens else TokenUsage())


@pytest.mark.parametrize(
    "timings", ["{}", '{"cache_n":"x"}', '{"cache_n":1,"prompt_n":2,"predicted_n":-5}', "{nonsense}"]
)
def test_timings_of_nonsense_count_nothing_that_is_not_there(timings):
    chunk = b'data: {"choices":[{"index":0,"delta":{}}],"timings":' + timings.encode() + b"}\n\n"
    relay = TimedRelay(show_usage=False)
    relay.feed(chunk)
    assert relay.usage().completion == 0


def test_text_that_looks_like_timings_is_left_alone():
    chunk = {"choices": [{"index": 0, "delta": {"content": ',"timings":{"predicted_n":9}}'}}]}
    data = b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"
    events, relay = run(data)
    assert (events, relay.usage()) == ([chunk], TokenUsage())
    assert read_timings(b"") == TokenUsage()


def test_streams_are_asked_for_timings_and_whole_replies_are_not():
    assert ask(stream=True)["timings_per_token"] is True
    assert ask()["timings_per_token"] is False


def test_only_a_model_of_one_tenant_keeps_prefixes():
    public = ModelEntry("model-2", "tenant-b", "shared", public=True, engine="llama.cpp")
    assert ask()["cache_prompt"] is True
    assert ask(model=public)["cache_prompt"] is False


def test_fields_go_by_the_engines_own_names():
    payload = ask(repetition_penalty=1.2)
    assert payload["repeat_penalty"] == 1.2
    assert "cache_salt" not in payload


@pytest.mark.parametrize(
    ("field", "value"),
    [("n", 2), ("min_tokens", 3), ("stop_token_ids", [1]), ("include_stop_str_in_output", True),
     ("skip_special_tokens", False), ("structured_outputs", {"choice": ["a"]})],
)  # fmt: skip
def test_what_the_engine_would_overlook_is_refused_by_name(field, value):
    assert refused(**{field: value}) == field


@pytest.mark.parametrize(("field", "value"), [("n", 1), ("min_tokens", 0), ("skip_special_tokens", True)])
def test_a_default_that_is_written_out_is_no_reason_to_refuse(field, value):
    assert ask(**{field: value})


def test_one_prompt_at_a_time_and_no_images():
    assert refused(generation.TEXT_COMPLETION, prompt=["a", "b"]) == "prompt"
    assert refused(generation.TEXT_COMPLETION, prompt="a", logprobs=1) == "logprobs"
    assert refused(generation.TEXT_COMPLETION, prompt="a", echo=True) == "echo"
    assert refused(messages=[{"role": "user", "content": [IMAGE]}]) == "messages"
    assert ask(messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}])


def test_tokenizing_speaks_the_engines_words_both_ways():
    asked = ask(generation.TOKENIZATION, prompt="Hello", add_special_tokens=False)
    assert asked == {"content": "Hello", "add_special": False}
    there = dialects.engine_operation(generation.TOKENIZATION, "llama.cpp")
    back = dialects.engine_operation(generation.DETOKENIZATION, "llama.cpp")
    assert there.read({"tokens": [1, 2]}, None)[0] == {"count": 2, "tokens": [1, 2]}
    assert back.read({"content": "Hello"}, None)[0] == {"prompt": "Hello"}
    assert refused(generation.TOKENIZATION, messages=[USER]) == "messages"


def test_what_the_engine_does_not_offer_at_all_is_not_found():
    with pytest.raises(NotFound):
        dialects.engine_operation(pooling.SCORING, "llama.cpp")
    assert dialects.engine_operation(pooling.SCORING, "vllm") is pooling.SCORING


def test_a_prompt_that_is_too_long_is_told_with_both_numbers():
    message = "request (6012 tokens) exceeds the available context size (2048 tokens), try increasing it"
    raw = json.dumps({"error": {"code": 400, "message": message, "type": "exceed_context_size_error"}}).encode()
    error = replies.engine_refusal(generation.CHAT_COMPLETION, ["messages"], 400, raw, MODEL)
    assert "2048" in str(error.message)
    assert "6012" in str(error.message)
