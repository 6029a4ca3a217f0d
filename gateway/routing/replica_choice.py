"""Chooses the replica that answers: a healthy one that has most likely seen the prompt's beginning, or the idlest.

The replica that has seen a prompt's beginning need not compute it again (prefix affinity).

Replicas share no prefix cache. Requests of one tenant that begin alike, above all the turns of a conversation, go to
the same replica by rendezvous hashing: every web process picks the same one without talking to the others, and when a
replica starts or stops, only its own share moves. A replica with clearly more load than the others is skipped, so that
one popular beginning spreads out instead of making a hot spot.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import blake2b

from gateway.json_types import JsonObject
from gateway.routing.snapshot import InstanceEntry, ModelEntry, RoutingSnapshot

PREFIX_CHARACTERS = 1024  # of each part of a prompt's beginning
MAX_LOAD_RATIO, EXTRA_LOAD = 1.25, 2  # load limit of the preferred replica: mean × share + requests

Run = tuple[str, int]  # instance id and generation


def choose_replica(
    model: ModelEntry,
    snapshot: RoutingSnapshot,
    inflight: Mapping[str, int],
    exclude: Collection[Run] = (),
    *,
    recently_failed: Collection[Run] = (),
    prefix: Callable[[], bytes | None] = lambda: None,
) -> InstanceEntry | None:
    """The replica that is to answer; None if none can serve.

    Healthy replicas outside `recently_failed` are preferred. Among equals it is the one that has most likely seen this
    beginning of a prompt (`prefix`, computed only where there is a choice), unless its load is far above the others';
    without a prefix, the one with the fewest requests in flight. `exclude` holds the runs (instance id, generation)
    that have failed this request, `recently_failed` those that failed any request.
    """
    candidates = [
        entry
        for entry in snapshot.of_model(model.id)
        if entry.serves(model) and (entry.id, entry.generation) not in exclude
    ]
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    trusted = [entry for entry in candidates if entry.healthy and (entry.id, entry.generation) not in recently_failed]
    preferred = trusted or [entry for entry in candidates if entry.healthy] or candidates
    return preferred[0] if len(preferred) == 1 else pick_replica(preferred, inflight, prefix())


def prefix_digest(payload: JsonObject, model_id: str) -> bytes | None:
    """A digest of the prompt up to its first user message, included. None: no prefix cache is used.

    The salt is the tenant's, as in the engine's cache.
    """
    salt = payload.get("cache_salt")
    beginning = _prompt_beginning(payload) if salt else ""
    if not beginning:
        return None
    return blake2b(f"{salt}\0{model_id}\0{beginning}".encode(errors="replace"), digest_size=16).digest()


def pick_replica(entries: Sequence[InstanceEntry], inflight: Mapping[str, int], prefix: bytes | None) -> InstanceEntry:
    """The preferred replica of this prefix unless its load is too high; without a prefix, the one with least load."""
    if prefix is None:
        return min(entries, key=lambda entry: inflight.get(entry.id, 0))
    mean = sum(inflight.get(entry.id, 0) for entry in entries) / len(entries)
    max_load = mean * MAX_LOAD_RATIO + EXTRA_LOAD
    candidates = [entry for entry in entries if inflight.get(entry.id, 0) < max_load]
    return max(candidates, key=lambda entry: blake2b(entry.id.encode(), key=prefix, digest_size=8).digest())


def _prompt_beginning(payload: JsonObject) -> str:
    parts = [_text_beginning(payload.get(name)) for name in ("instructions", "system")]
    turns = payload.get("messages") or payload.get("input") or payload.get("prompt")
    if type(turns) is list and turns and type(turns[0]) is dict:
        for turn in turns:
            parts.append(_text_beginning(turn.get("content")))
            if turn.get("role") == "user":
                break
    else:
        parts.append(_text_beginning(turns))
    return "\0".join(parts) if any(parts) else ""


def _text_beginning(content: object) -> str:
    """The beginning of a text, of its first part, or of the first prompt's token ids."""
    if type(content) is str:
        return content[:PREFIX_CHARACTERS]
    if type(content) is not list or not content:
        return ""
    first = content[0]
    if type(first) is dict:
        return _text_beginning(first.get("text"))
    return str(content[: PREFIX_CHARACTERS // 4]) if type(first) is int else _text_beginning(first)
