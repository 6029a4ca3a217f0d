"""The reply of the fake engine to one request, and the switches for its faults."""

import json
import re
import time
from dataclasses import dataclass, fields, replace

MARK = re.compile(r"\[\[(\w+)(?:=(.*?))?\]\]", re.DOTALL)
FINGERPRINT = "vllm-0.32.0-fake"
DEFAULT_TOKENS = 16
ECHO_CHARACTERS = 64  # per token of an echo


@dataclass(frozen=True)
class Switches:
    """Times in seconds; a token number N means: after N tokens were sent."""

    # the process
    start_delay: float = 0.0
    crash_before_ready: dict | None = None  # {"code": 1, "stderr": "text"}
    ignore_sigterm: bool = False
    grandchildren: int = 0  # ignore SIGTERM, in their own sessions
    exit_after_requests: int | None = None
    hang_health: bool = False
    health_status: int = 200
    # one request
    first_token_delay: float = 0.0
    token_interval: float = 0.0
    hang: bool = False  # accept, never reply
    hang_at_token: int | None = None
    crash_at_token: int | None = None  # SIGKILL to itself
    error_at_token: int | None = None  # vLLM's error event, then [DONE]
    truncate: int | None = None  # close the connection at this token, without the end of the stream
    no_usage: bool = False
    garbage: bool = False  # neither JSON nor events
    huge_line: int = 0  # number of characters in the first token
    echo: bool = False  # the reply's content is the JSON body that was received
    error_status: int | None = None
    error_text: str = "fake failure in /secret/path (engine_core.py:42)"

    def marked(self, text: str) -> "Switches":
        """With the marks in a prompt: `[[token_interval=0.1]]`, `[[hang]]`. Unknown names are plain text."""
        names = {field.name for field in fields(self)}
        marks = {name: value for name, value in MARK.findall(text) if name in names}
        return replace(self, **{name: json.loads(value or "true") for name, value in marks.items()})


class Generation:
    """One chat or text completion: its tokens per choice, with the pauses and faults of its switches.

    `dialect` renders it in another API's format; with `adapted` (a LoRA adapter) it begins with its model's name.
    """

    def __init__(
        self, model: str, body: dict, switches: Switches, request_id: str, chat: bool, dialect=None, adapted=False
    ):
        self.model, self.body, self.switches, self.chat, self.dialect = model, body, switches, chat, dialect
        self.prompts = [chat_words(body["messages"])] if chat else prompt_words(body["prompt"])
        self.n = body.get("n") or 1
        self.count = len(self.prompts) * self.n
        self.tokens, self.reason = self._reply()
        if adapted:
            self.tokens[0] = f"{model} {self.tokens[0]}"
        self.id = ("chatcmpl-" if chat else "cmpl-") + request_id
        self.created = int(time.time())
        self.made = [0] * self.count

    def _reply(self) -> tuple[list[str], str]:
        if self.switches.echo:
            text = json.dumps(self.body, ensure_ascii=False)
            return [text[i : i + ECHO_CHARACTERS] for i in range(0, len(text), ECHO_CHARACTERS)], "stop"
        limit = self.body.get("max_completion_tokens") or self.body.get("max_tokens")
        tokens = [f"{' ' if number else ''}token{number}" for number in range(limit or DEFAULT_TOKENS)]
        if self.switches.huge_line:
            tokens[0] = "x" * self.switches.huge_line
        return tokens, "length" if limit else "stop"

    def prompt_tokens(self, choice: int) -> int:
        return len(self.prompts[choice // self.n])

    def usage(self, choice: int) -> dict:
        """The usage of one choice so far, as in every chunk of a stream."""
        so_far = usage(self.prompt_tokens(choice), self.made[choice])
        return {**so_far, "completion_tokens_details": None} if self.chat else so_far

    def total_usage(self) -> dict:
        counted = usage(sum(map(len, self.prompts)), sum(self.made))
        return {**counted, "prompt_tokens_details": {"cached_tokens": 0}}

    def chunk(self, choices: list[dict], **more) -> dict:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**head, "choices": choices, **more}

    def opening(self, choice: int) -> dict:
        delta = {"role": "assistant", "content": ""}
        return {"index": choice, "delta": delta, "logprobs": None, "finish_reason": None}

    def piece(self, choice: int, text: str, last: bool) -> dict:
        reason = self.reason if last else None
        if not self.chat:
            return {"index": choice, "text": text, "logprobs": None, "finish_reason": reason,
                    "stop_reason": None, "prompt_token_ids": None, "token_ids": None}  # fmt: skip
        stop_reason = {"stop_reason": None} if last else {}
        return {"index": choice, "delta": {"content": text}, "logprobs": None, "finish_reason": reason,
                **stop_reason, "token_ids": None}  # fmt: skip

    def whole(self) -> dict:
        text = "".join(self.tokens)
        choices = [self._whole_choice(choice, text) for choice in range(self.count)]
        counted = {} if self.switches.no_usage else {"usage": self.total_usage()}
        reply = self.chunk(choices, service_tier=None, system_fingerprint=FINGERPRINT, **counted)
        return {**reply, "object": "chat.completion"} if self.chat else reply

    def reply(self) -> dict:
        return self.dialect.whole(self) if self.dialect else self.whole()

    def _whole_choice(self, choice: int, text: str) -> dict:
        message = {"role": "assistant", "content": text, "refusal": None, "reasoning": None}
        content = {"message": message} if self.chat else {"text": text}
        return {"index": choice, **content, "logprobs": None, "finish_reason": self.reason, "stop_reason": None}


def prompt_words(prompt: str | list) -> list[list]:
    """One list of tokens per prompt: the words of a text, or the given token ids."""
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        prompt = [prompt]
    return [text.split() or [""] if isinstance(text, str) else text for text in prompt]


def chat_words(messages: list[dict]) -> list[str]:
    """A token for each role and each word."""
    return [word for message in messages for word in (message["role"], *content_text(message).split())]


def content_text(message: dict) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return " ".join(part.get("text", "") for part in content)


def marked_text(body: dict, chat: bool) -> str:
    """The text whose marks count: the last user message of a chat, the prompt of a completion."""
    if not chat:
        return str(body["prompt"])
    users = [message for message in body["messages"] if message["role"] == "user"]
    return content_text(users[-1]) if users else ""


def usage(prompt_tokens: int, completion_tokens: int) -> dict:
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "total_tokens": total, "completion_tokens": completion_tokens}
