"""Replies of the fake engine as a pooling model: vectors of word counts and their cosines, in vLLM's format."""

import base64
import math
import struct
import time
import uuid
import zlib

from fake_generation import prompt_words

DIMENSIONS = 32


def embedding_reply(model: str, body: dict) -> dict:
    texts = prompt_words(body["input"])
    encode = _base64 if body.get("encoding_format") == "base64" else list
    data = [{"index": index, "object": "embedding", "embedding": encode(vector(words, body.get("dimensions")))}
            for index, words in enumerate(texts)]  # fmt: skip
    return {"id": _id("embd"), "object": "list", "created": int(time.time()), "model": model, "data": data,
            "usage": _usage(sum(map(len, texts)), completion_tokens=0)}  # fmt: skip


def ranking_reply(model: str, body: dict) -> dict:
    """All documents, or the first `top_n`, the best first."""
    query, documents = body["query"].split(), [text.split() for text in body["documents"]]
    scores = [cosine(query, words) for words in documents]
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[: body.get("top_n") or None]
    results = [{"index": index, "document": {"text": body["documents"][index], "multi_modal": None},
                "relevance_score": scores[index]} for index in order]  # fmt: skip
    counted = _usage(len(query) + sum(map(len, documents)))
    return {"id": _id("rerank"), "model": model, "usage": counted, "results": results}


def score_reply(model: str, body: dict) -> dict:
    first, second = (body[name] for name in (("text_1", "text_2") if "text_1" in body else ("queries", "documents")))
    pairs = [(one.split(), two.split()) for one, two in zip(first * (len(second) // len(first)), second, strict=True)]
    data = [{"index": index, "object": "score", "score": cosine(*pair)} for index, pair in enumerate(pairs)]
    counted = _usage(sum(len(one) + len(two) for one, two in pairs), completion_tokens=0)
    return {"id": _id("embd"), "object": "list", "created": int(time.time()), "model": model, "data": data,
            "usage": counted}  # fmt: skip


def vector(words: list, dimensions: int | None = None) -> list[float]:
    """A vector of length 1; texts with equal words have equal directions."""
    counts = [0.0] * (dimensions or DIMENSIONS)
    for word in words:
        counts[zlib.crc32(str(word).lower().encode()) % len(counts)] += 1.0
    length = math.hypot(*counts) or 1.0
    return [count / length for count in counts]


def cosine(one: list, two: list) -> float:
    return sum(a * b for a, b in zip(vector(one), vector(two), strict=True))


def _usage(prompt_tokens: int, **more) -> dict:
    return {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens, **more}


def _base64(values: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def _id(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex[:16]}"
