#!/usr/bin/env python3
"""An engine that speaks vLLM's wire format over a Unix socket and produces every fault on demand.

    fake_engine.py --uds PATH --served-model-name NAME [--model DIR] [any other argument of vLLM]

Standard library only. `Switches` come from `--switches JSON`, the variable FAKE_ENGINE (JSON), the file
`fake_engine.json` in the model's folder, and, for one request, from marks in the last user message or prompt:
`[[crash_at_token=3]]`, `[[hang]]`. The formats are those that vLLM 0.32.0 sends.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import fake_pooling
from fake_adapters import FakeAdapters, NotLoaded
from fake_dialects import Messages, Responses
from fake_generation import FINGERPRINT, Generation, Switches, chat_words, marked_text, prompt_words, usage
from fake_http import Connection, Request, listen

DEAF = "import os, signal, time; os.setsid(); signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"


@dataclass
class Counters:
    prompt: int = 0
    generation: int = 0
    running: int = 0
    waiting: int = 0
    finished: dict[str, int] = field(default_factory=lambda: {"stop": 0, "length": 0, "abort": 0, "error": 0})


class EngineRefusal(Exception):
    def __init__(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None):
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}}


TokenStep = tuple[int, str, bool]  # choice, its next token, whether that is the last


class FakeEngine:
    def __init__(self, switches: Switches, arguments: argparse.Namespace):
        self.name, self.switches = arguments.served_model_name, switches
        self.max_model_len, self.routes = arguments.max_model_len, ROUTES[arguments.runner]
        self.adapters = FakeAdapters(arguments.max_lora_rank if arguments.enable_lora else 0)
        if arguments.enable_lora:
            self.routes = self.routes | ADAPTER_ROUTES
        self.slots = asyncio.Semaphore(arguments.max_num_seqs)
        self.counters = Counters()
        self.answered = 0

    async def serve(self, connection: Connection) -> None:
        while True:
            await self.answer(connection, await connection.receive())
            await connection.flush()

    async def answer(self, connection: Connection, request: Request) -> None:
        route = self.routes.get(request.path)
        try:
            if route is None:
                return connection.reply({"detail": "Not Found"}, 404)
            if request.method != route[0]:
                return connection.reply({"detail": "Method Not Allowed"}, 405)
            await route[1](self, connection, request)
        except EngineRefusal as refusal:
            connection.reply(refusal.body, refusal.status)
        except NotLoaded as refusal:
            connection.reply(EngineRefusal(refusal.status, str(refusal), refusal.kind).body, refusal.status)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            connection.reply(EngineRefusal(400, f"1 validation error: {error!r}", "Bad Request").body, 400)

    async def health(self, connection: Connection, _request: Request) -> None:
        if self.switches.hang_health:
            await connection.pause(None)
        connection.reply(b"", self.switches.health_status)

    async def models(self, connection: Connection, _request: Request) -> None:
        model = {"id": self.name, "object": "model", "created": 0, "owned_by": "vllm", "root": self.name,
                 "parent": None, "max_model_len": self.max_model_len}  # fmt: skip
        connection.reply({"object": "list", "data": [model, *self.adapters.cards(self.name)]})

    async def load_adapter(self, connection: Connection, request: Request) -> None:
        body = request.json()
        config = self.adapters.check(body)
        await asyncio.sleep(config.get("load_seconds", 0))
        connection.reply(self.adapters.load(body), kind="text/plain")

    async def unload_adapter(self, connection: Connection, request: Request) -> None:
        connection.reply(self.adapters.unload(request.json()), kind="text/plain")

    async def version(self, connection: Connection, _request: Request) -> None:
        connection.reply({"version": "0.32.0"})

    async def metrics(self, connection: Connection, _request: Request) -> None:
        connection.reply(self._metrics_text(), kind="text/plain; version=1.0.0; charset=utf-8")

    def _metrics_text(self) -> str:
        label, counters = f'engine="0",model_name="{self.name}"', self.counters
        series = [("num_requests_running", "gauge", counters.running),
                  ("num_requests_waiting", "gauge", counters.waiting),
                  ("prompt_tokens_total", "counter", counters.prompt),
                  ("generation_tokens_total", "counter", counters.generation)]  # fmt: skip
        lines = []
        for name, kind, value in series:
            lines += [f"# TYPE vllm:{name} {kind}", f"vllm:{name}{{{label}}} {value:.1f}"]
        lines.append("# TYPE vllm:request_success_total counter")
        for reason, count in counters.finished.items():
            lines.append(f'vllm:request_success_total{{finished_reason="{reason}",{label}}} {count:.1f}')
        return "\n".join(lines) + "\n"

    async def tokenize(self, connection: Connection, request: Request) -> None:
        body = self._validated_body(request)
        words = chat_words(body["messages"]) if "messages" in body else prompt_words(body["prompt"])[0]
        reply = {"count": len(words), "max_model_len": self.max_model_len, "tokens": list(range(len(words)))}
        connection.reply({**reply, "token_strs": None})

    async def detokenize(self, connection: Connection, request: Request) -> None:
        tokens = self._validated_body(request)["tokens"]
        connection.reply({"prompt": " ".join(f"token{token}" for token in tokens)})

    async def embeddings(self, connection: Connection, request: Request) -> None:
        await self._pool(connection, request, fake_pooling.embedding_reply, "input")

    async def rerank(self, connection: Connection, request: Request) -> None:
        await self._pool(connection, request, fake_pooling.ranking_reply, "query")

    async def score(self, connection: Connection, request: Request) -> None:
        await self._pool(connection, request, fake_pooling.score_reply, "text_1")

    async def _pool(self, connection: Connection, request: Request, make_reply, text_field: str) -> None:
        """Reply of a pooling model, after the faults that are marked in the text."""
        body = self._validated_body(request)
        switches = self.switches.marked(str(body.get(text_field, "")))
        if switches.error_status:
            raise EngineRefusal(switches.error_status, switches.error_text, "InternalServerError")
        await connection.pause(None if switches.hang else switches.first_token_delay)
        await self._inject_fault(connection, switches, 0)
        reply = make_reply(self.name, body)
        self.counters.prompt += reply["usage"]["prompt_tokens"]
        connection.reply('{"data": [{' if switches.garbage else reply)
        self._count_reply()

    async def chat(self, connection: Connection, request: Request) -> None:
        await self._generate(connection, request, chat=True)

    async def completions(self, connection: Connection, request: Request) -> None:
        await self._generate(connection, request, chat=False)

    async def responses(self, connection: Connection, request: Request) -> None:
        await self._generate(connection, request, chat=True, dialect=Responses)

    async def messages(self, connection: Connection, request: Request) -> None:
        await self._generate(connection, request, chat=True, dialect=Messages)

    async def count_tokens(self, connection: Connection, request: Request) -> None:
        connection.reply(Messages.count(self._validated_body(request)))

    def _validated_body(self, request: Request) -> dict:
        body = request.json()
        model = body.get("model") or self.name
        if model != self.name and model not in self.adapters:
            message = f"The model `{model}` does not exist. Valid aliases: {self.name}."
            raise EngineRefusal(404, message, "NotFoundError", "model")
        return body

    async def _generate(self, connection: Connection, request: Request, chat: bool, dialect=None) -> None:
        body = self._validated_body(request)
        body = dialect.chat_body(body) if dialect else body
        switches = self.switches.marked(marked_text(body, chat))
        if switches.error_status:
            raise EngineRefusal(switches.error_status, switches.error_text, "InternalServerError")
        request_id = request.headers.get("x-request-id", uuid.uuid4().hex[:16])
        model = body.get("model") or self.name
        generation = Generation(model, body, switches, request_id, chat, dialect, adapted=model in self.adapters)
        self.counters.waiting += 1
        try:
            async with self.slots:
                self.counters.waiting -= 1
                await self._run(connection, generation)
        finally:
            self._count_reply()

    async def _run(self, connection: Connection, generation: Generation) -> None:
        self.counters.running += 1
        try:
            if generation.body.get("stream"):
                await (self._stream_named if generation.dialect else self._stream)(connection, generation)
            else:
                await self._whole(connection, generation)
            self.counters.finished[generation.reason] += generation.count
        finally:
            self.counters.running -= 1

    async def _steps(self, connection: Connection, generation: Generation) -> AsyncIterator[TokenStep]:
        """Every token of every choice, after its pause and its fault; counted when generated, even if not sent.

        As in vLLM, a prompt counts once for each of its `n` choices, and a client's disconnect under no reason.
        """
        switches, last = generation.switches, len(generation.tokens) - 1
        await connection.pause(None if switches.hang else switches.first_token_delay)
        self.counters.prompt += sum(map(generation.prompt_tokens, range(generation.count)))
        for number, token in enumerate(generation.tokens):
            await connection.pause(switches.token_interval if number else 0)
            await self._inject_fault(connection, switches, number)
            for choice in range(generation.count):
                self.counters.generation += 1
                generation.made[choice] += 1
                yield choice, token, number == last

    async def _inject_fault(self, connection: Connection, switches: Switches, number: int) -> None:
        if number == switches.crash_at_token:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == switches.hang_at_token:
            await connection.pause(None)
        if number == switches.truncate:
            raise ConnectionAbortedError
        if number == switches.error_at_token:
            raise EngineRefusal(500, switches.error_text, "InternalServerError")

    async def _whole(self, connection: Connection, generation: Generation) -> None:
        try:
            async for _ in self._steps(connection, generation):
                pass
        except ConnectionAbortedError:
            connection.reply_half(generation.reply())
            raise
        garbage = '{"id": "chatcmpl-1", "choices": [{'
        connection.reply(garbage if generation.switches.garbage else generation.reply())

    async def _stream(self, connection: Connection, generation: Generation) -> None:
        options = generation.body.get("stream_options") or {}
        final = bool(options.get("include_usage")) and not generation.switches.no_usage
        continuous = final and bool(options.get("continuous_usage_stats"))
        connection.begin_events()
        try:
            await self._send_tokens(connection, generation, final, continuous)
        except EngineRefusal as refusal:
            await connection.event(refusal.body)
        await connection.event("[DONE]")
        connection.end_events()

    async def _stream_named(self, connection: Connection, generation: Generation) -> None:
        """A stream of named events."""
        dialect = generation.dialect
        connection.begin_events()
        try:
            for name, data in dialect.opening(generation):
                await connection.event({"type": name, **data}, name)
            async for _choice, text, _last in self._steps(connection, generation):
                name, data = dialect.piece(text)
                await connection.event({"type": name, **data}, name)
            for name, data in dialect.closing(generation):
                garbled = generation.switches.garbage and data.keys() & {"usage", "response"}
                await connection.event("{garbage" if garbled else {"type": name, **data}, name)
        except EngineRefusal as refusal:
            await connection.event({"type": "error", **dialect.error(refusal.body["error"]["message"])}, "error")
        connection.end_events()

    async def _send_tokens(self, connection: Connection, generation: Generation, final: bool, continuous: bool):
        opened = not generation.chat
        async for choice, text, last in self._steps(connection, generation):
            if not opened:
                await self._send_roles(connection, generation, continuous)
                opened = True
            if generation.switches.garbage:
                await connection.event(b'{"choices": [\xff\x00')
                continue
            more = {"usage": generation.usage(choice)} if continuous else {}
            if last and not final:
                more["system_fingerprint"] = FINGERPRINT
            await connection.event(generation.chunk([generation.piece(choice, text, last)], **more))
        if final:
            end = generation.chunk([], usage=generation.total_usage(), system_fingerprint=FINGERPRINT)
            await connection.event(end)

    async def _send_roles(self, connection: Connection, generation: Generation, continuous: bool) -> None:
        """First chunks of a chat: the role of every choice, with the fields that vLLM puts after the usage."""
        for choice in range(generation.count):
            begun = usage(generation.prompt_tokens(choice), 0)
            more = {"usage": {**begun, "completion_tokens_details": None}} if continuous else {}
            more |= {"prompt_token_ids": None, "prompt_text": None}
            await connection.event(generation.chunk([generation.opening(choice)], **more))

    def _count_reply(self) -> None:
        self.answered += 1
        if self.answered == self.switches.exit_after_requests:
            asyncio.get_running_loop().call_later(0.05, os._exit, 0)  # after the reply is sent


ADAPTER_ROUTES = {
    "/v1/load_lora_adapter": ("POST", FakeEngine.load_adapter),
    "/v1/unload_lora_adapter": ("POST", FakeEngine.unload_adapter),
}
COMMON_ROUTES = {
    "/health": ("GET", FakeEngine.health),
    "/ping": ("GET", FakeEngine.health),
    "/metrics": ("GET", FakeEngine.metrics),
    "/version": ("GET", FakeEngine.version),
    "/v1/models": ("GET", FakeEngine.models),
    "/tokenize": ("POST", FakeEngine.tokenize),
    "/detokenize": ("POST", FakeEngine.detokenize),
}
ROUTES = {  # by vLLM's option --runner
    "generate": COMMON_ROUTES
    | {
        "/v1/chat/completions": ("POST", FakeEngine.chat),
        "/v1/completions": ("POST", FakeEngine.completions),
        "/v1/responses": ("POST", FakeEngine.responses),
        "/v1/messages": ("POST", FakeEngine.messages),
        "/v1/messages/count_tokens": ("POST", FakeEngine.count_tokens),
    },
    "pooling": COMMON_ROUTES
    | {
        "/v1/embeddings": ("POST", FakeEngine.embeddings),
        "/v1/rerank": ("POST", FakeEngine.rerank),
        "/v1/score": ("POST", FakeEngine.score),
    },
}


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--uds", required=True)
    parser.add_argument("--served-model-name", default="fake")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--max-model-len", type=int, default=4096)
    parser.add_argument("--max-num-seqs", type=int, default=256)
    parser.add_argument("--runner", default="generate", choices=ROUTES)
    parser.add_argument("--enable-lora", action="store_true")
    parser.add_argument("--max-lora-rank", type=int, default=16)
    parser.add_argument("--switches", default="{}")
    return parser.parse_known_args()[0]


def read_switches(arguments: argparse.Namespace) -> Switches:
    path = arguments.model / "fake_engine.json" if arguments.model else None
    from_file = json.loads(path.read_text()) if path and path.is_file() else {}
    from_environment = json.loads(os.environ.get("FAKE_ENGINE", "{}"))
    return Switches(**{**from_file, **from_environment, **json.loads(arguments.switches)})


def begin(switches: Switches) -> None:
    """Start as the switches say: the faults before the socket exists."""
    if switches.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for _ in range(switches.grandchildren):
        start_grandchild()
    print("fake engine: loading weights", flush=True)
    time.sleep(switches.start_delay)
    if switches.crash_before_ready:
        print(switches.crash_before_ready.get("stderr", ""), file=sys.stderr, flush=True)
        sys.exit(switches.crash_before_ready.get("code", 1))


def start_grandchild() -> None:
    """Its parent ends at once, so only a subreaper or its marks in /proc can find it."""
    starter = f"import subprocess, sys; subprocess.Popen([sys.executable, '-I', '-S', '-c', {DEAF!r}])"
    subprocess.run([sys.executable, "-I", "-S", "-c", starter], check=True)


def main() -> None:
    arguments = read_arguments()
    switches = read_switches(arguments)
    if not switches.ignore_sigterm:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    begin(switches)
    engine = FakeEngine(switches, arguments)
    print("fake engine: ready", flush=True)
    asyncio.run(listen(arguments.uds, engine.serve))


if __name__ == "__main__":
    main()
