"""What an engine may be asked: every field bounded, unknown ones dropped, some of them ours alone."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidRequest
from gateway.api.generation import (
    CHAT,
    CHAT_COMPLETION,
    COMPLETION,
    DETOKENIZATION,
    TEXT_COMPLETION,
    TOKENIZATION,
    cache_salt,
    model_ref,
    parse_body,
    prepare_request,
)
from gateway.routing.snapshot import ModelEntry

MODEL = ModelEntry("model-1", "tenant-a", "demo", context=2048, sampling={"temperature": 0.3, "max_tokens": 99})
USER = {"role": "user", "content": "hi"}
SALT = b"key"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def ask(operation=CHAT_COMPLETION, **fields):
    needed = {"messages": [USER]} if operation is CHAT_COMPLETION else {"prompt": "hi"}
    return prepare_request(operation, {**needed, **fields}, MODEL, "tenant-a", SALT)


def refused(operation=CHAT_COMPLETION, **fields) -> str:
    with pytest.raises(InvalidRequest) as caught:
        ask(operation, **fields)
    assert str(caught.value.message)
    return caught.value.param


def nested(depth: int) -> dict:
    schema: dict = {"type": "string"}
    for _level in range(depth - 1):
        schema = {"a": schema}
    return schema


def test_a_plain_request_passes_with_the_models_defaults_and_our_own_fields():
    payload = ask(seed=1).payload
    assert payload == {
        "messages": [USER], "seed": 1, "temperature": 0.3, "max_tokens": 99,
        "cache_salt": cache_salt("tenant-a", SALT), "user": "tenant-a",
    }  # fmt: skip


def test_the_clients_word_goes_before_the_models_defaults():
    assert ask(temperature=1.5, max_completion_tokens=5).payload["temperature"] == 1.5
    assert "max_tokens" not in ask(max_completion_tokens=5).payload


def test_fields_that_are_dangerous_or_unknown_never_reach_the_engine():
    asked = ask(
        model="other", cache_salt="theirs", user="them", priority=-5, request_id="r", kv_transfer_params={"x": 1},
        chat_template="{{ 1 }}", mm_processor_kwargs={}, vllm_xargs={}, use_beam_search=True, prompt_logprobs=5,
        truncate_prompt_tokens=-1, logits_processors=["os.system"], best_of=99, foo=1,
    )  # fmt: skip
    assert set(asked.payload) == {"messages", "temperature", "max_tokens", "cache_salt", "user"}
    assert asked.payload["cache_salt"] != "theirs"
    assert asked.payload["user"] == "tenant-a"


def test_the_name_in_the_forwarded_body_is_the_engines():
    assert json.loads(ask(model="mine").body("served"))["model"] == "served"


def test_of_two_equal_keys_the_last_is_checked_and_the_only_one_forwarded():
    body = parse_body(b'{"model": "mine", "n": 1, "prompt": "x", "model": "yours", "n": 2}')
    assert model_ref(body) == "yours"
    forwarded = prepare_request(TEXT_COMPLETION, body, MODEL, "tenant-a", SALT).body("served")
    assert forwarded.count(b'"model"') == 1
    assert json.loads(forwarded)["n"] == 2


def test_tenants_have_salts_of_their_own():
    assert cache_salt("a", SALT) == cache_salt("a", SALT) != cache_salt("b", SALT)
    assert cache_salt("a", SALT) != cache_salt("a", b"other key")


def test_streams_are_counted_in_every_chunk_and_what_the_client_asked_for_is_remembered():
    plain, asked = ask(stream=True), ask(stream=True, stream_options={"include_usage": True})
    continuous = ask(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})
    for prepared in (plain, asked, continuous):
        assert prepared.payload["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    shown = [(one.show_usage, one.show_continuous) for one in (plain, asked, continuous)]
    assert shown == [(False, False), (True, False), (True, True)]
    assert "stream_options" not in ask(stream_options={"include_usage": True}).payload


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0), ("n", 9), ("n", 16384), ("n", 1.0), ("n", True), ("n", "2"), ("max_tokens", 0),
        ("max_tokens", 2049), ("max_tokens", -1), ("max_tokens", 10**30), ("max_completion_tokens", 2049),
        ("temperature", -0.1), ("temperature", 2.1), ("temperature", "hot"), ("temperature", True),
        ("top_p", 0), ("top_p", 1.1), ("top_k", -2), ("min_p", 2), ("frequency_penalty", -3),
        ("presence_penalty", 3), ("repetition_penalty", 0), ("seed", 2**63), ("seed", 1.5), ("logprobs", 1),
        ("top_logprobs", 21), ("stream", "yes"), ("stop", [""]), ("stop", "x" * 257), ("stop", ["x"] * 17),
        ("stop", 5), ("logit_bias", {"a": 1}), ("logit_bias", {"1": 101}), ("logit_bias", [1]),
        ("messages", []), ("messages", "hi"), ("messages", [USER] * 4097), ("tools", [{}] * 129),
        ("tool_choice", "any"), ("response_format", "json"), ("stop_token_ids", [-1]), ("min_tokens", 2000),
        ("reasoning_effort", "huge"), ("stream_options", True),
    ],
)  # fmt: skip
def test_out_of_bounds_is_refused_with_the_name_of_the_field(field, value):
    assert refused(**{"max_tokens": 5, field: value}).partition(".")[0].partition("[")[0] == field


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("hi", "messages[0]"),
        ({"content": "x"}, "messages[0].role"),
        ({"role": "root", "content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "assistant"}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "file"}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": ["text"]}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "messages[0].tool_calls[0].function"),
    ],
)
def test_messages_are_checked_to_their_parts(message, param):
    assert refused(messages=[message]) == param


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/", "https://example.org/a.png", "file:///etc/passwd", "/etc/passwd", 5]
)
def test_images_come_only_inside_the_request(url):
    part = {"type": "image_url", "image_url": {"url": url}}
    assert refused(messages=[{"role": "user", "content": [part]}]) == "messages[0].content[0].image_url.url"


def test_content_parts_and_tool_calls_pass_with_only_what_is_known_of_them():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low", "x": 1}, "y": 1}
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}", "z": 1}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "look"}, image], "cache_control": {}},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "7"},
    ]
    kept = ask(messages=messages).payload["messages"]
    picture = {"url": "data:image/png;base64,AA==", "detail": "low"}
    assert kept[0]["content"][1] == {"type": "image_url", "image_url": picture}
    assert kept[1] == {
        "role": "assistant",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    assert kept[2] == messages[2]


def test_tools_and_schemas_pass_whole():
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters, "strict": True}}]
    choice = {"type": "function", "function": {"name": "weather"}}
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": parameters, "strict": True}}
    payload = ask(tools=tools, tool_choice=choice, response_format=form, logprobs=True, top_logprobs=3).payload
    assert (payload["tools"], payload["tool_choice"], payload["response_format"]) == (tools, choice, form)


def test_schemas_are_bounded_in_depth_size_and_patterns():
    def form(schema):
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}}

    param = "response_format.json_schema.schema"
    assert ask(**form(nested(32))).payload["response_format"]
    assert refused(**form(nested(33))) == param
    assert refused(**form({"enum": ["x" * 70_000]})) == param
    assert refused(**form({"properties": {"a": {"pattern": "a" * 4097}}})) == f"{param}.pattern"
    assert refused(structured_outputs={"regex": "a" * 4097}) == "structured_outputs.regex"
    assert refused(structured_outputs={"regex": "a", "choice": ["b"]}) == "structured_outputs"
    tool = {"type": "function", "function": {"name": "f", "parameters": nested(33)}}
    assert refused(tools=[tool]) == "tools[0].function.parameters"


def test_what_does_not_go_together_is_refused():
    assert refused(top_logprobs=2) == "top_logprobs"
    assert refused(tool_choice="required") == "tool_choice"
    assert refused(structured_outputs={"json_object": True}, response_format={"type": "text"}) == "structured_outputs"


def test_prompts_are_texts_or_token_ids_and_counted():
    assert ask(TEXT_COMPLETION, prompt=["a", "b"]).prompts == 2
    assert ask(TEXT_COMPLETION, prompt=[[1, 2], [3]], n=3).prompts == 2
    assert ask(TEXT_COMPLETION, prompt=[1, 2, 3]).prompts == 1
    for wrong in ([], {}, 5, [1, "a"], ["a", 1], [-1], [[]] * 33, [2**40], [None]):
        assert refused(TEXT_COMPLETION, prompt=wrong).startswith("prompt")


def test_tokenizing_takes_a_prompt_or_messages():
    assert prepare_request(TOKENIZATION, {"prompt": "x", "stream": True}, MODEL, "t", SALT).payload == {"prompt": "x"}
    assert prepare_request(TOKENIZATION, {"messages": [USER]}, MODEL, "t", SALT).payload == {"messages": [USER]}
    assert prepare_request(DETOKENIZATION, {"tokens": [1, 2]}, MODEL, "t", SALT).payload == {"tokens": [1, 2]}
    with pytest.raises(InvalidRequest):
        prepare_request(TOKENIZATION, {}, MODEL, "t", SALT)
    with pytest.raises(InvalidRequest):
        prepare_request(DETOKENIZATION, {"tokens": ["a"]}, MODEL, "t", SALT)


@pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b'"x"', b'{"a": NaN}', b'{"a": 1e999}', b"\xff", b"[" * 5000])
def test_what_is_no_json_object_is_refused(raw):
    with pytest.raises(InvalidRequest):
        parse_body(raw)


@given(
    operation=st.sampled_from([CHAT_COMPLETION, TEXT_COMPLETION]),
    fields=st.dictionaries(st.sampled_from(sorted(CHAT | COMPLETION)) | st.text(max_size=5), JSON, max_size=6),
)
def test_any_json_is_either_forwarded_as_json_or_refused_with_a_param(operation, fields):
    try:
        body = prepare_request(operation, fields, MODEL, "tenant-a", SALT).body("served")
    except InvalidRequest as error:
        assert error.param
    else:
        assert set(json.loads(body)) <= set(CHAT | COMPLETION) | {"model", "user", "cache_salt"}
