"""Which of a model's replicas has most likely seen a prompt's beginning before: it need not compute it again.

Replicas share no prefix cache. Requests of one tenant that begin alike, the turns of a conversation above all, go to
the same replica by rendezvous hashing: every web process comes to the same one without talking to the others, and when
a replica comes or goes, only its own share moves. A replica that has more to do than the others is passed over, so that
one much-used beginning spreads out instead of making a hot spot.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b

from gateway.routing.snapshot import InstanceEntry

CHARACTERS = 1024  # of each part of a beginning
LEAD_SHARE, LEAD_REQUESTS = 1.25, 2  # beyond the mean load: how far a favourite may be ahead


def prefix_of(payload: dict, model_id: str) -> bytes | None:
    """A digest of the beginning: what stands before the first question, and that. None: no cache is in play.

    The salt is the tenant's, in the engine's cache as here.
    """
    salt = payload.get("cache_salt")
    opening = _opening(payload) if salt else ""
    if not opening:
        return None
    return blake2b(f"{salt}\0{model_id}\0{opening}".encode(errors="replace"), digest_size=16).digest()


def pick(entries: Sequence[InstanceEntry], inflight: Mapping[str, int], prefix: bytes | None) -> InstanceEntry:
    """The favourite of this beginning unless it is too far ahead; without one, whoever has least to do."""
    if prefix is None:
        return min(entries, key=lambda entry: inflight.get(entry.id, 0))
    mean = sum(inflight.get(entry.id, 0) for entry in entries) / len(entries)
    most = mean * LEAD_SHARE + LEAD_REQUESTS
    open_ones = [entry for entry in entries if inflight.get(entry.id, 0) < most]
    return max(open_ones, key=lambda entry: blake2b(entry.id.encode(), key=prefix, digest_size=8).digest())


def _opening(payload: dict) -> str:
    parts = [_text(payload.get(name)) for name in ("instructions", "system")]
    turns = payload.get("messages") or payload.get("input") or payload.get("prompt")
    if type(turns) is list and turns and type(turns[0]) is dict:
        for turn in turns:
            parts.append(_text(turn.get("content")))
            if turn.get("role") == "user":
                break
    else:
        parts.append(_text(turns))
    return "\0".join(parts) if any(parts) else ""


def _text(content) -> str:
    """Of a text, its beginning; of parts, that of the first; of token ids, those of the first prompt."""
    if type(content) is str:
        return content[:CHARACTERS]
    if type(content) is not list or not content:
        return ""
    first = content[0]
    if type(first) is dict:
        return _text(first.get("text"))
    return str(content[: CHARACTERS // 4]) if type(first) is int else _text(first)
