"""/ws/monitor: the latest state of what a tenant may see, pushed. Every message is checked before it is obeyed."""

import asyncio
import time

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer

from accounts.policy import Permission
from core.errors import PlatformError
from core.events import OPERATORS, group_for
from inference.models import Instance
from inference.transitions import EVENT, event_data
from monitoring import credentials

SIGN_IN_SECONDS = 5
RECHECK_SECONDS = 4
SUBSCRIPTIONS = {"model_status": EVENT, "gpu_metrics": "gpu_metrics_update", "system_alerts": "system_alert"}
MOST_BYTES = 64 * 1024
UNAUTHORISED, TOO_BIG = 4401, 1009


class MonitorConsumer(AsyncJsonWebsocketConsumer):
    async def connect(self):
        self.credential = self.actor = self.watch = None
        self.groups_joined: set[str] = set()
        if not credentials.origin_allowed(self.scope):
            return await self.close()
        try:
            self.credential = credentials.from_scope(self.scope)
            if self.credential:
                self.actor = await self._allowed_actor()
        except PlatformError:
            return await self.close(UNAUTHORISED)
        await self.accept()
        self.watch = asyncio.create_task(self._keep_watch())

    async def disconnect(self, code):
        if self.watch:
            self.watch.cancel()
        for group in self.groups_joined:
            await self.channel_layer.group_discard(group, self.channel_name)

    async def receive(self, text_data=None, bytes_data=None, **kwargs):
        if text_data is None or len(text_data) > MOST_BYTES:
            return await self.close(TOO_BIG)
        try:
            await super().receive(text_data=text_data)
        except ValueError:
            await self._refuse("INVALID_REQUEST", "The message is not JSON.")

    async def receive_json(self, content, **kwargs):
        action = content.get("action") if isinstance(content, dict) else None
        if action == "authenticate":
            return await self._authenticate(content.get("token"))
        if self.actor is None:
            return await self.close(UNAUTHORISED)
        if action not in ("subscribe", "unsubscribe"):
            return await self._refuse("INVALID_REQUEST", "action must be subscribe, unsubscribe or authenticate.")
        events = content.get("events")
        if not isinstance(events, list) or not events or not all(event in SUBSCRIPTIONS for event in map(str, events)):
            return await self._refuse("INVALID_REQUEST", f"events must name some of: {', '.join(SUBSCRIPTIONS)}.")
        await (self._subscribe(events) if action == "subscribe" else self._unsubscribe(events))

    async def platform_event(self, message):
        await self.send_json({"type": message["event"], "data": message["data"]})

    async def _authenticate(self, token):
        if self.actor is not None:
            return await self._refuse("CONFLICT", "This socket is signed in already.")
        try:
            self.credential = credentials.Credential(secret=str(token or " "))
            self.actor = await self._allowed_actor()
        except PlatformError:
            return await self.close(UNAUTHORISED)
        await self.send_json({"type": "authenticated"})

    async def _subscribe(self, events: list[str]) -> None:
        for event in events:
            group = group_for(self._audience(), SUBSCRIPTIONS[event])
            if group not in self.groups_joined:
                await self.channel_layer.group_add(group, self.channel_name)
                self.groups_joined.add(group)
        await self.send_json({"type": "subscribed", "events": events})
        if "model_status" in events:
            for data in await self._snapshot():
                await self.send_json({"type": EVENT, "data": data})

    async def _unsubscribe(self, events: list[str]) -> None:
        for event in events:
            group = group_for(self._audience(), SUBSCRIPTIONS[event])
            self.groups_joined.discard(group)
            await self.channel_layer.group_discard(group, self.channel_name)
        await self.send_json({"type": "unsubscribed", "events": events})

    def _audience(self) -> str:
        return OPERATORS if self.actor.sees_all else self.actor.tenant.pk

    @database_sync_to_async
    def _allowed_actor(self):
        actor = self.credential.actor()
        if not actor.may(Permission.READ) or (actor.tenant is None and not actor.sees_all):
            raise PlatformError
        return actor

    @database_sync_to_async
    def _snapshot(self) -> list[dict]:
        """The newest instance of each model that the actor sees."""
        rows = Instance.objects.visible_to(self.actor).order_by("model_id", "-created_at").distinct("model_id")
        return [event_data(row) for row in rows]

    async def _keep_watch(self) -> None:
        """Close what does not sign in in time, and what has lost its right meanwhile."""
        opened = time.monotonic()
        while True:
            await asyncio.sleep(1 if self.actor is None else RECHECK_SECONDS)
            if self.actor is None:
                if time.monotonic() - opened > SIGN_IN_SECONDS:
                    return await self.close(UNAUTHORISED)
                continue
            try:
                still = await self._allowed_actor()
            except PlatformError:
                return await self.close(UNAUTHORISED)
            if (still.tenant, still.sees_all) != (self.actor.tenant, self.actor.sees_all):
                return await self.close(UNAUTHORISED)

    async def _refuse(self, code: str, message: str) -> None:
        await self.send_json({"type": "error", "error": {"code": code, "message": message}})
