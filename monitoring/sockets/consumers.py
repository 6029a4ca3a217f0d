"""/ws/monitor: pushes the latest state of everything that a tenant may see. Client messages are validated first."""

import asyncio
import logging

import orjson
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.db import DatabaseError, InterfaceError

from accounts import credential_identity
from accounts.actor import Actor
from accounts.credential_identity import CredentialIdentity
from core.asgi_server import drop_client
from core.errors import InvalidRequest, ModelNotFound, PlatformError, ServiceUnavailable
from models_app import services as catalogue
from monitoring.sockets import credentials, hub, snapshots
from monitoring.sockets.followed import LogFollower, parse_subscription
from monitoring.sockets.hub import SocketSession
from monitoring.sockets.outbox import Outbox
from monitoring.topics import TOPICS

logger = logging.getLogger(__name__)

SIGN_IN_TIMEOUT = 5
SEND_TIMEOUT = 60  # how long one message may wait for a client that does not read
MAX_MESSAGE_CHARACTERS = 64 * 1024

UNAUTHORISED, MESSAGE_TOO_BIG, TRY_AGAIN = 4401, 1009, 1013


class MonitorConsumer(AsyncJsonWebsocketConsumer):
    """Replies are sent at once. Events go through the outbox, which a writer task of this socket empties."""

    async def connect(self):
        self.session: SocketSession | None = None
        self.writer: asyncio.Task | None = None
        self.tasks: set[asyncio.Task] = set()
        self.followed = LogFollower(self._push, lambda work: self._spawn(self._guard_send(work)))
        if not credentials.origin_allowed(credentials.headers_of(self.scope)):
            return await self.close()
        try:
            if credential := await database_sync_to_async(credentials.from_handshake)(self.scope):
                self.session = await self._sign_in(credential)
        except (DatabaseError, InterfaceError, ServiceUnavailable):
            return await self.close(TRY_AGAIN)
        except PlatformError:
            return await self.close(UNAUTHORISED)
        await self.accept()
        if self.session is None:
            self._spawn(self._close_unless_signed_in())
        else:
            self._start_events(self.session)

    async def disconnect(self, code):
        self._stop_sending()
        for task in self.tasks:
            task.cancel()

    async def close(self, code=None, reason=None):
        self._stop_sending()
        await super().close(code, reason)

    def _stop_sending(self) -> None:
        """ASGI servers refuse messages after the close."""
        if self.session:
            hub.current_hub().leave(self.session)
        self.followed.end(self.followed.models)
        if self.writer:
            self.writer.cancel()

    async def receive(self, text_data=None, bytes_data=None, **kwargs):
        if text_data is None or len(text_data) > MAX_MESSAGE_CHARACTERS:
            return await self.close(MESSAGE_TOO_BIG)
        try:
            await super().receive(text_data=text_data)
        except ValueError:
            await self._send_invalid("The message is not JSON.")
        except RecursionError:
            await self._send_invalid("The message is nested too deeply.")
        except PlatformError:
            await self.close(UNAUTHORISED)
        except (DatabaseError, InterfaceError):
            await self.close(TRY_AGAIN)

    async def receive_json(self, content, **kwargs):
        message = content if isinstance(content, dict) else {}
        action, session = message.get("action"), self.session
        if action == "authenticate":
            await self._authenticate(message.get("token"))
        elif session is None:
            await self.close(UNAUTHORISED)
        elif action == "subscribe":
            await self._subscribe(session, message)
        elif action == "unsubscribe":
            await self._unsubscribe(session, message)
        else:
            await self._send_invalid("action must be subscribe, unsubscribe or authenticate.")

    # --- authentication

    async def _authenticate(self, token) -> None:
        if self.session is not None:
            return await self._send_invalid("This socket is signed in already.")
        if not isinstance(token, str) or not token:
            return await self.close(UNAUTHORISED)
        self.session = await self._sign_in(
            await database_sync_to_async(credential_identity.identity_for_credential)(token)
        )
        await self.send_json({"type": "authenticated"})
        self._start_events(self.session)

    async def _sign_in(self, credential: CredentialIdentity) -> SocketSession:
        actor = await database_sync_to_async(credential.reading_actor)()
        return SocketSession(actor, credential, Outbox(actor), self.followed, self._on_overflow, self._on_recheck)

    async def _close_unless_signed_in(self) -> None:
        await asyncio.sleep(SIGN_IN_TIMEOUT)
        if self.session is None:
            await self.close(UNAUTHORISED)

    def _start_events(self, session: SocketSession) -> None:
        self.writer = self._spawn(self._guard_send(self._write(session)))
        hub.current_hub().join(session)

    def _on_recheck(self, session: SocketSession, actor: Actor | None, readable: set[str]) -> None:
        """Called by the hub. Closes the socket if its credential ended or acts for another tenant or role now."""
        if actor is None or _scope_of(actor) != _scope_of(session.actor):
            self._spawn(self._close_or_abandon(UNAUTHORISED))
            return
        session.act_for(actor)
        for model_id in self.followed.models - readable:
            self.followed.end([model_id])
            self._spawn(self._guard_send(self._send_error(ModelNotFound(details={"model_id": model_id}))))

    # --- subscriptions

    async def _subscribe(self, session: SocketSession, message: dict) -> None:
        topics = await self._topics_of(message)
        if "logs" in topics:
            return await self._subscribe_to_logs(session, message, topics)
        if topics:
            await self.send_json({"type": "subscribed", "events": topics})
            session.outbox.subscribe(self._events(topics))

    async def _subscribe_to_logs(self, session: SocketSession, message: dict, topics: list[str]) -> None:
        """Needs the same permission as the model's log routes. The message may name other topics too."""
        try:
            subscription = parse_subscription(message)
            model = await database_sync_to_async(catalogue.find_own)(session.actor, subscription.model)
            self.followed.check_room(model.pk)
        except PlatformError as error:
            return await self._send_error(error)
        await self.send_json({"type": "subscribed", "events": topics, "model_id": model.pk})
        session.outbox.subscribe(self._events(topics))
        self.followed.begin(model.pk, subscription, whole=session.actor.is_operator)

    async def _unsubscribe(self, session: SocketSession, message: dict) -> None:
        """From logs: of the model whose id is given, else of all models."""
        topics, model_id = await self._topics_of(message), message.get("model_id")
        if topics:
            session.outbox.unsubscribe(self._events(topics))
            if "logs" in topics:
                self.followed.end([model_id] if isinstance(model_id, str) else self.followed.models)
            await self.send_json({"type": "unsubscribed", "events": topics})

    def _events(self, topics: list[str]) -> list[str]:
        return [event for topic in topics for event in TOPICS[topic]]

    async def _topics_of(self, message: dict) -> list[str]:
        """The topics that the message names. If it names none or an unknown one: the error is sent, and none."""
        topics = message.get("events")
        if isinstance(topics, list) and topics and all(isinstance(name, str) and name in TOPICS for name in topics):
            return topics
        await self._send_invalid(f"events must be a list of some of: {', '.join(TOPICS)}.")
        return []

    async def _send_invalid(self, message: str) -> None:
        await self._send_error(InvalidRequest(message))

    async def _send_error(self, error: PlatformError) -> None:
        details = error.details or ({error.param: str(error.message)} if error.param else {})
        body = {"code": error.code, "message": str(error.message), "details": details}
        await self.send_json({"type": "error", "error": body})

    # --- the writer

    async def _write(self, session: SocketSession) -> None:
        while True:
            await session.outbox.ready()
            await hub.current_hub().wait_until_subscribed()
            await self._write_states(session.actor, session.outbox.take_stale())
            while text := session.outbox.take():
                await self._push(text)

    async def _guard_send(self, work) -> None:
        """Runs work that sends outside of a client's message. A client that does not read is dropped."""
        try:
            await work
        except TimeoutError:
            drop_client(self.base_send)
        except OSError:
            pass  # the client has left; `disconnect` follows

    async def _write_states(self, actor: Actor, events: set[str]) -> None:
        try:
            messages = await database_sync_to_async(snapshots.read_states)(actor, events) if events else []
        except (DatabaseError, InterfaceError):
            return  # the next snapshot follows soon
        for message in messages:
            await self._push(orjson.dumps(message).decode())

    async def _push(self, text: str) -> None:
        """Raises TimeoutError for a client that does not read."""
        async with asyncio.timeout(SEND_TIMEOUT):
            await self.send(text_data=text)

    def _on_overflow(self) -> None:
        """Called by the hub: the client does not read and the outbox is full."""
        drop_client(self.base_send)

    async def _close_or_abandon(self, code: int) -> None:
        """Sends a close frame. A client that does not read is dropped without one."""
        try:
            async with asyncio.timeout(1):
                await self.close(code)
        except TimeoutError:
            drop_client(self.base_send)

    def _spawn(self, work) -> asyncio.Task:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._forget_task)
        return task

    def _forget_task(self, task: asyncio.Task) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception():
            logger.error("a socket broke", exc_info=task.exception())
            drop_client(self.base_send)


def _scope_of(actor: Actor) -> tuple:
    return actor.tenant, actor.sees_all, actor.is_operator
