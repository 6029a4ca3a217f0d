"""Requests for a model that is not running: one start for all of them, a bounded queue, a limited wait."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from core import errors
from core.errors import ModelNotRunning
from gateway.routing import adapter_lookup
from gateway.routing.snapshot import InstanceEntry, ModelEntry, RoutingSnapshot, SnapshotSource
from inference.crashes import advice

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

logger = logging.getLogger(__name__)

USUAL_START_SECONDS = 60
STOPPED_RETRY_AFTER = 30  # so that clients that retry automatically do not undo a stop at once
NO_ROOM_RETRY_INTERVAL = 1.0  # between two start requests while there is no room

STOPPED_MESSAGE = _("Somebody stopped the model before it was ready. The next request starts it again.")
QUEUE_FULL_MESSAGE = _("Too many requests wait for the model already. Send fewer at a time, or come back once it runs.")
NOT_READY_MESSAGE = _("The model is not ready yet. Try again later; how long requests wait for it is its wait_timeout.")

RequestStart = Callable[[str], Coroutine[Any, Any, object]]


class StartQueue:
    """The requests that wait for one model, or for one version of an adapter on it."""

    def __init__(self, model: ModelEntry, now: float, ended_before: set[str]) -> None:
        """`ended_before` are ids of instances that ended before: their end says nothing about this start."""
        self.model, self.since, self.ended_before = model, now, ended_before
        self.waiters: set[asyncio.Future[None]] = set()
        self.start: asyncio.Task[object] | None = None
        self.no_room: errors.NoRoomYet | None = None  # why the last start request was refused
        self.seen_starting = False

    @property
    def start_is_over(self) -> bool:
        return self.start is None or self.start.done()

    def wake(self) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)

    def fail(self, error: BaseException) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(error)


class StartQueues:
    """`request_start(model_id)` requests an instance, once for all waiting requests; snapshots show its progress."""

    def __init__(self, source: SnapshotSource, request_start: RequestStart, queue_limit: int = 256) -> None:
        self._source, self._request_start, self._limit = source, request_start, queue_limit
        self._queues: dict[str, StartQueue] = {}  # by model id or adapter version id
        source.subscribe(self._on_snapshot)

    async def wait_until_ready(self, model: ModelEntry, deadline: float) -> None:
        """Wait until the model can serve. `deadline` is in the loop's time. Raises the reason if it cannot."""
        loop = asyncio.get_running_loop()
        queue = self._queues.get(model.target) or self._open_queue(model, loop)
        if len(queue.waiters) >= self._limit:
            raise self._not_ready(queue, QUEUE_FULL_MESSAGE)
        waiter = loop.create_future()
        queue.waiters.add(waiter)
        try:
            async with asyncio.timeout_at(deadline):
                await waiter
        except TimeoutError:
            raise self._not_ready(queue, NOT_READY_MESSAGE) from None
        finally:
            queue.waiters.discard(waiter)
            self._drop_if_done(queue)

    def waiting(self) -> dict[str, int]:
        """Requests by model, those for its adapters included."""
        counts: Counter[str] = Counter()
        for queue in self._queues.values():
            if queue.waiters:
                counts[queue.model.id] += len(queue.waiters)
        return dict(counts)

    def waiting_for_adapters(self) -> dict[str, int]:
        """Requests by adapter version."""
        queues = [queue for queue in self._queues.values() if queue.model.adapter and queue.waiters]
        return {queue.model.adapter: len(queue.waiters) for queue in queues}

    def _open_queue(self, model: ModelEntry, loop: asyncio.AbstractEventLoop) -> StartQueue:
        entries = self._source.current().of_model(model.id)
        ended_before = {entry.id for entry in entries if not entry.expected}
        if error := adapter_lookup.unservable_error(model, entries):
            raise error
        queue = self._queues[model.target] = StartQueue(model, loop.time(), ended_before)
        if any(entry.starting or entry.routable for entry in entries):
            queue.seen_starting = True
        else:
            self._send_start(queue)
        return queue

    def _send_start(self, queue: StartQueue) -> None:
        queue.start = asyncio.get_running_loop().create_task(self._request_start(queue.model.id))
        queue.start.add_done_callback(lambda task: self._on_start_done(queue, task))

    def _retry_start(self, queue: StartQueue) -> None:
        """If requests still wait for it."""
        if self._queues.get(queue.model.target) is queue and queue.waiters:
            self._send_start(queue)

    def _on_start_done(self, queue: StartQueue, task: asyncio.Task[object]) -> None:
        if task.cancelled():
            return
        failure = task.exception()
        queue.no_room = failure if isinstance(failure, errors.NoRoomYet) else None
        if queue.no_room:
            asyncio.get_running_loop().call_later(NO_ROOM_RETRY_INTERVAL, self._retry_start, queue)
            return self._drop_if_done(queue)
        if failure is None:
            return
        error = errors.as_platform_error(failure) if isinstance(failure, Exception) else None
        if error is None:
            logger.error("start of %s", queue.model.id, exc_info=failure)
        self._fail_queue(queue, error or errors.PlatformError())

    def _fail_queue(self, queue: StartQueue, error: errors.PlatformError) -> None:
        """The next request opens a new queue."""
        self._drop(queue)
        queue.fail(error)

    def _drop_if_done(self, queue: StartQueue) -> None:
        """A queue stays until its start is over, even without waiting requests: a model has one start at a time."""
        if not queue.waiters and queue.start_is_over:
            self._drop(queue)

    def _drop(self, queue: StartQueue) -> None:
        if self._queues.get(queue.model.target) is queue:
            del self._queues[queue.model.target]

    def _on_snapshot(self, snapshot: RoutingSnapshot) -> None:
        for queue in list(self._queues.values()):
            entries = snapshot.of_model(queue.model.id)
            if any(entry.serves(queue.model) for entry in entries):
                queue.wake()
                self._drop(queue)  # a request that finds it stopped again opens a new queue
            elif error := adapter_lookup.unservable_error(queue.model, entries):
                self._fail_queue(queue, error)
            elif expected := {entry.id for entry in entries if entry.expected}:
                queue.seen_starting = True
                queue.ended_before -= expected
            else:
                self._on_ended(queue, [entry for entry in entries if entry.id not in queue.ended_before], snapshot)
            self._drop_if_done(queue)

    def _on_ended(self, queue: StartQueue, ended: list[InstanceEntry], snapshot: RoutingSnapshot) -> None:
        """No instance serves or starts. It is requested again if the platform stopped it, not if a user did."""
        if failed := next((entry for entry in ended if entry.state == "failed"), None):
            self._fail_queue(queue, _start_failed(failed))
        elif any(entry.stopped_by_user for entry in ended):
            self._fail_queue(
                queue, ModelNotRunning(STOPPED_MESSAGE, details={"state": "stopped"}, retry_after=STOPPED_RETRY_AFTER)
            )
        elif queue.model.id not in snapshot.models:
            self._fail_queue(queue, errors.ModelNotFound())
        elif queue.seen_starting and queue.start_is_over:
            queue.seen_starting = False
            self._send_start(queue)

    def _not_ready(self, queue: StartQueue, text: "StrOrPromise") -> errors.PlatformError:
        """The error for a client that waits no longer: the state, and after how many seconds to retry."""
        if queue.no_room:
            return queue.no_room
        entries = self._source.current().of_model(queue.model.id)
        if error := adapter_lookup.not_loaded_error(queue.model, entries):
            return error
        states = [entry.state for entry in entries if entry.starting]
        usual = queue.model.start_seconds or USUAL_START_SECONDS
        elapsed = asyncio.get_running_loop().time() - queue.since
        expected = max(1, round(usual - elapsed))
        details = {"state": states[0] if states else "stopped", "expected_seconds": expected}
        return ModelNotRunning(text, details=details, retry_after=expected)


def _start_failed(entry: InstanceEntry) -> ModelNotRunning:
    text = format_lazy(_("The model failed to start: {reason}"), reason=advice.failure_message(entry))
    details = {"state": "failed", "failure_reason": entry.failure_reason}
    return ModelNotRunning(text, details=details, retry_after=USUAL_START_SECONDS)
