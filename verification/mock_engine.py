"""A mock engine: small, ready at once, and it streams words. Standard library only.

    mock_engine.py --uds PATH [--delay SECONDS] [--fails] [--interval SECONDS]

`--delay` is the time until it is ready, `--fails` ends it instead, `--interval` is the time between two words. Like
real engines it has a child process. That is in a session of its own and ignores SIGTERM, so that a process tree that
was not ended completely is noticed.
"""

import argparse
import asyncio
import json
import sys

DEAF_CHILD = ("setsid", "sh", "-c", "trap '' TERM; exec sleep 3600")
COUNTERS = b"vllm:num_requests_running %d\nvllm:num_requests_waiting 0\n"


class MockEngineServer:
    def __init__(self, interval: float):
        self.interval = interval
        self.running = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await self._answer(reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has disconnected
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        sizes = [line.partition(":")[2] for line in head if line.startswith("content-length:")]
        body = await reader.readexactly(int(sizes[0]) if sizes else 0)
        path = head[0].split(" ")[1]
        if body:
            await self._stream(json.loads(body), writer)
        else:
            content = COUNTERS % self.running if path == "/metrics" else b""
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(content), content))

    async def _stream(self, body: dict, writer: asyncio.StreamWriter) -> None:
        """A chat completion of `max_tokens` words, in vLLM's format with the usage in every chunk."""
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        wanted = body.get("max_tokens") or 16
        self.running += 1
        try:
            for made in range(1, wanted + 1):
                _send(writer, json.dumps(_chunk(body["model"], made, wanted)))
                await writer.drain()
                await asyncio.sleep(self.interval)
        finally:
            self.running -= 1
        _send(writer, "[DONE]")
        writer.write(b"0\r\n\r\n")


def _chunk(model: str, made: int, wanted: int) -> dict:
    delta = {"role": "assistant", "content": f"word{made} "}
    choice = {"index": 0, "delta": delta, "finish_reason": "length" if made == wanted else None}
    usage = {"prompt_tokens": 1, "completion_tokens": made, "total_tokens": made + 1}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": model, "choices": [choice],
            "usage": usage}  # fmt: skip


def _send(writer: asyncio.StreamWriter, data: str) -> None:
    event = f"data: {data}\n\n".encode()
    writer.write(b"%x\r\n%s\r\n" % (len(event), event))


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--uds", required=True)
    parser.add_argument("--delay", type=float, default=0)
    parser.add_argument("--fails", action="store_true")
    parser.add_argument("--interval", type=float, default=0.03)
    options = parser.parse_args()
    await asyncio.create_subprocess_exec(*DEAF_CHILD)
    await asyncio.sleep(options.delay)
    if options.fails:
        sys.exit("ValueError: this engine fails on purpose")
    server = await asyncio.start_unix_server(MockEngineServer(options.interval).serve, options.uds, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
