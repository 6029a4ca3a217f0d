"""/ws/monitor: the latest state of what a tenant may see, pushed. Every message is checked before it is obeyed."""

import asyncio
from itertools import count

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.db import DatabaseError, InterfaceError

from accounts.actor import Actor
from accounts.policy import Permission
from core.errors import Forbidden, PlatformError
from core.events import OPERATORS, group_for
from inference.transitions import EVENT as MODEL_STATUS
from monitoring import credentials, snapshots

SIGN_IN_SECONDS = 5
RECHECK_SECONDS = 4
SNAPSHOT_TURNS = 8  # a snapshot each 32 s makes good what the channel layer dropped
MOST_CHARACTERS = 64 * 1024
EVENTS = {"model_status": MODEL_STATUS, "gpu_metrics": "gpu_metrics_update", "system_alerts": "system_alert"}

UNAUTHORISED, TOO_BIG, TRY_AGAIN = 4401, 1009, 1013


class MonitorConsumer(AsyncJsonWebsocketConsumer):
    async def connect(self):
        self.actor: Actor | None = None
        self.credential: credentials.Credential | None = None
        self.signed_in = asyncio.Event()
        self.subscribed: set[str] = set()
        self.watch: asyncio.Task | None = None
        headers = credentials.headers_of(self.scope)
        if not credentials.origin_allowed(headers):
            return await self.close()
        try:
            await self._sign_in(credentials.from_handshake(headers))
        except PlatformError:
            return await self.close(UNAUTHORISED)
        except (DatabaseError, InterfaceError):
            return await self.close(TRY_AGAIN)
        await self.accept()
        self.watch = asyncio.create_task(self._watch())

    async def disconnect(self, code):
        if self.watch:
            self.watch.cancel()
        for event in self.subscribed:
            await self.channel_layer.group_discard(self._group(event), self.channel_name)

    async def receive(self, text_data=None, bytes_data=None, **kwargs):
        if text_data is None or len(text_data) > MOST_CHARACTERS:
            return await self.close(TOO_BIG)
        try:
            await super().receive(text_data=text_data)
        except ValueError:
            await self._refuse("The message is not JSON.")
        except RecursionError:
            await self._refuse("The message is nested too deeply.")
        except PlatformError:
            await self.close(UNAUTHORISED)
        except (DatabaseError, InterfaceError):
            await self.close(TRY_AGAIN)

    async def receive_json(self, content, **kwargs):
        message = content if isinstance(content, dict) else {}
        action = message.get("action")
        if action == "authenticate":
            await self._authenticate(message.get("token"))
        elif self.actor is None:
            await self.close(UNAUTHORISED)
        elif action == "subscribe":
            await self._subscribe(message.get("events"))
        elif action == "unsubscribe":
            await self._unsubscribe(message.get("events"))
        else:
            await self._refuse("action must be subscribe, unsubscribe or authenticate.")

    async def platform_event(self, message):
        """From the channel layer; core.events is the sender."""
        await self.send_json({"type": message["event"], "data": message["data"]})

    # --- who

    async def _authenticate(self, token) -> None:
        if self.actor is not None:
            return await self._refuse("This socket is signed in already.")
        if not isinstance(token, str) or not token:
            return await self.close(UNAUTHORISED)
        await self._sign_in(credentials.Credential(secret=token))
        await self.send_json({"type": "authenticated"})

    async def _sign_in(self, credential: credentials.Credential | None) -> None:
        if credential is None:
            return
        self.actor, self.credential = await allowed_actor(credential), credential
        self.signed_in.set()

    async def _watch(self) -> None:
        """End what does not sign in in time and what has lost its right; repeat what may have been missed."""
        try:
            async with asyncio.timeout(SIGN_IN_SECONDS):
                await self.signed_in.wait()
            for turn in count(1):
                await asyncio.sleep(RECHECK_SECONDS)
                await self._recheck()
                if turn % SNAPSHOT_TURNS == 0 and "model_status" in self.subscribed:
                    await self._send_snapshot()
        except (TimeoutError, PlatformError):
            await self.close(UNAUTHORISED)
        except (DatabaseError, InterfaceError):
            await self.close(TRY_AGAIN)

    async def _recheck(self) -> None:
        """Raises PlatformError where the credential ended, or acts for another tenant now."""
        actor = await allowed_actor(self.credential)
        if (actor.tenant, actor.sees_all) != (self.actor.tenant, self.actor.sees_all):
            raise Forbidden
        self.actor = actor

    # --- what

    async def _subscribe(self, events) -> None:
        if not await self._known(events):
            return
        for event in events:
            await self.channel_layer.group_add(self._group(event), self.channel_name)
            self.subscribed.add(event)
        await self.send_json({"type": "subscribed", "events": events})
        if "model_status" in events:
            await self._send_snapshot()

    async def _unsubscribe(self, events) -> None:
        if not await self._known(events):
            return
        for event in self.subscribed.intersection(events):
            self.subscribed.discard(event)
            await self.channel_layer.group_discard(self._group(event), self.channel_name)
        await self.send_json({"type": "unsubscribed", "events": events})

    async def _known(self, events) -> bool:
        known = isinstance(events, list) and events and all(isinstance(name, str) and name in EVENTS for name in events)
        if not known:
            await self._refuse(f"events must be a list of some of: {', '.join(EVENTS)}.")
        return bool(known)

    async def _send_snapshot(self) -> None:
        for data in await database_sync_to_async(snapshots.model_states)(self.actor):
            await self.send_json({"type": MODEL_STATUS, "data": data})

    def _group(self, event: str) -> str:
        return group_for(OPERATORS if self.actor.sees_all else self.actor.tenant.pk, EVENTS[event])

    async def _refuse(self, message: str) -> None:
        await self.send_json({"type": "error", "error": {"code": "INVALID_REQUEST", "message": message}})


@database_sync_to_async
def allowed_actor(credential: credentials.Credential) -> Actor:
    actor = credential.actor()
    if not actor.may(Permission.READ) or not (actor.tenant or actor.sees_all):
        raise Forbidden
    return actor
