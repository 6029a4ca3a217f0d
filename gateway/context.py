"""What all requests of one process share."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from gateway.config import GatewayConfig
from gateway.metering.meter import UsageSink
from gateway.routing import authentication
from gateway.routing.authentication import VerifyToken
from gateway.routing.requests_in_flight import RequestTracker
from gateway.routing.snapshot import Caller, RoutingSnapshot, SnapshotSource
from gateway.routing.start_queue import StartQueues
from gateway.upstream import EngineClient


@dataclass(slots=True, frozen=True)
class GatewayContext:
    """`source` has the current snapshot, `traffic` the requests in flight; `starts` starts models on demand."""

    config: GatewayConfig
    source: SnapshotSource
    client: EngineClient
    traffic: RequestTracker
    starts: StartQueues
    sink: UsageSink
    verify: VerifyToken

    async def authenticate(self, headers: Mapping[bytes, bytes]) -> Caller:
        """The caller. Raises Unauthenticated, or NotFound for a tenant that it may not name."""
        known = authentication.credential(headers) is not None
        return await self.source.decide(partial(self._authenticate, headers), wait_for_changes=known)

    def _authenticate(self, headers: Mapping[bytes, bytes], snapshot: RoutingSnapshot) -> Caller:
        config = self.config
        return authentication.authenticate(
            headers, snapshot, time.time(), pepper=config.pepper, verify=self.verify, anonymous=config.anonymous
        )
