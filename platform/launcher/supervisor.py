"""Starts services in order, restarts what crashes, stops everything in reverse order."""

import asyncio
import signal
import time
from collections.abc import Mapping, Sequence

from launcher.child import Child
from launcher.console import Console
from launcher.service import Service
from launcher.start_errors import CannotStart

FIRST_DELAY, MAX_DELAY = 0.5, 15.0
STABLE_SECONDS = 30  # a service that ran this long restarts with the first delay
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StoppedByUser(Exception):
    """The user stopped the launcher before everything was up."""


class Supervisor:
    """`stopping` is set by the first Ctrl-C (or SIGTERM), `forced` by the second."""

    def __init__(self, console: Console, environment: Mapping[str, str]):
        self.console, self.environment = console, dict(environment)
        self.stopping, self.forced = asyncio.Event(), asyncio.Event()
        self.stages: list[list[Child]] = []
        self.tasks: set[asyncio.Task] = set()

    def install_signal_handlers(self) -> None:
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
                loop.add_signal_handler(number, self.request_stop)

    def request_stop(self) -> None:
        if self.stopping.is_set():
            self.forced.set()
            return
        self.stopping.set()
        self.console.print_line("stopping (Ctrl-C again to force)")

    async def start(self, *services: Service) -> None:
        """Start the services as one stage and return when all are ready. Raises CannotStart or Stopped."""
        stage = [self._make_child(service) for service in services]
        self.stages.append(stage)
        for child in stage:
            await child.start()
        await asyncio.gather(*(self._wait_until_ready(child) for child in stage))
        for child in stage:
            self._in_background(self._keep_running(child))

    async def run_to_end(self, service: Service, quiet: bool = False) -> Sequence[str]:
        """Run to the end and return the last lines. Raises CannotStart if it fails, Stopped if the user stops."""
        child = self._make_child(service, quiet)
        stage = [child]
        self.stages.append(stage)
        await child.start()
        while child.is_running:
            await self.pause(0.05)
        self.stages.remove(stage)
        if await child.wait():
            raise CannotStart(self._describe_failure(child, "failed"))
        return list(child.lines)

    async def start_once(self, service: Service) -> Child:
        """Start a service that ends by itself. Its failure does not stop the others."""
        child = self._make_child(service)
        self.stages[-1].append(child)
        await child.start()
        return child

    async def shut_down(self, keep: int = 0) -> list[int]:
        """Stop all stages except the first `keep`, in reverse order. Returns the pids that still run."""
        self.stopping.set()
        for stage in reversed(self.stages[keep:]):
            await asyncio.gather(*(child.stop(self.forced) for child in stage))
        return [child.process.pid for stage in self.stages[:keep] for child in stage if child.is_running]

    def _make_child(self, service: Service, quiet: bool = False) -> Child:
        return Child(service, self.environment, self.console, quiet)

    def _in_background(self, work) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _wait_until_ready(self, child: Child) -> None:
        limit = child.service.ready_timeout
        end = time.monotonic() + limit
        while not await asyncio.to_thread(child.service.ready):
            if not child.is_running:
                raise CannotStart(self._describe_failure(child, "ended before it was ready"))
            if time.monotonic() > end:
                raise CannotStart(f"{child.service.name} is not ready after {limit:.0f} s.")
            await self.pause(0.1)

    async def _keep_running(self, child: Child) -> None:
        delay = FIRST_DELAY
        while not self.stopping.is_set():
            await child.wait()
            if self.stopping.is_set():
                return
            child.kill_group()  # its own children must not run beside the new process
            delay = FIRST_DELAY if time.monotonic() - child.started > STABLE_SECONDS else delay
            self.console.print_line(f"{child.service.name} ended ({child.exit_text}); starting it again in {delay:g} s")
            if await self._stops_within(delay):
                return
            delay = min(2 * delay, MAX_DELAY)
            await child.start()

    async def pause(self, seconds: float) -> None:
        """Sleep, or raise Stopped as soon as the user stops."""
        if await self._stops_within(seconds):
            raise StoppedByUser

    async def _stops_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _describe_failure(self, child: Child, how: str) -> str:
        lines = [line for line in child.lines if line.strip()]
        return f"{child.service.name} {how} ({child.exit_text}): {lines[-1] if lines else 'it wrote nothing'}"
