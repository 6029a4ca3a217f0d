"""Input and output types of placement. Every size is in bytes, every time in seconds."""

from dataclasses import dataclass, field
from enum import StrEnum

from engines.base import MemoryEstimate


class Reason(StrEnum):
    """Why a device was refused, or an instance may not be evicted. Messages: placement/reason_messages.py."""

    NODE_STALE = "silent"  # the node's agent sends no heartbeat
    ENGINE = "engine"  # the engine is not installed there; `text` says what is missing
    SUSPECT = "suspect"  # the device itself is not trusted; `text` says why
    OTHER_NODE = "other_node"  # the profile names another node
    CORES = "cores"
    TOO_SMALL = "too_small"  # does not fit even on the empty device
    NO_ROOM = "no_room"
    TOO_FEW = "too_few"  # the node has too few such devices with enough free memory
    MAIN_MEMORY = "main_memory"  # too little on the node; a GPU engine needs some too
    LIMIT = "limit"  # max_concurrent_models instances run already
    PINNED = "pinned"
    BUSY = "busy"  # requests in flight
    HAS_WAITERS = "awaited"  # requests wait for it
    STARTING = "starting"
    RECENTLY_STARTED = "young"  # became ready only a moment ago
    SAME_MODEL = "sibling"  # another replica of the same model
    HIGHER_PRIORITY = "higher"  # has a higher priority than the new one
    RECENTLY_USED = "used"  # had a request a short time ago
    REPLICATED = "scaled"  # one of several replicas
    EARLIER_WAITER = "ahead"  # an earlier start waits for memory there


@dataclass(frozen=True)
class DeviceView:
    """One device as placement sees it. `reserved` excludes reservations of instances that are being evicted."""

    id: int
    node_id: str
    node_name: str
    kind: str
    index: int
    total: int
    usable: int
    reserved: int
    foreign: int = 0
    cores: int | None = None
    stale: bool = False
    node_problem: str = ""  # why the engine cannot start on its node now
    suspect: str = ""

    @property
    def capacity(self) -> int:
        """What our processes may use: the usable share, less if other processes hold more than the rest."""
        return min(self.usable, self.total - self.foreign)

    @property
    def free(self) -> int:
        return self.capacity - self.reserved

    @property
    def label(self) -> str:
        return f"{self.kind}:{self.index}"


@dataclass(frozen=True)
class Occupant:
    """An instance that holds memory: `held_bytes` maps a device's id to bytes.

    `idle` is None while requests are in flight; `resident` is the seconds since it became ready, None before that.
    `stopping`: it is stopping already, so reserving its memory evicts nothing. `has_waiters`: requests wait for it.
    """

    instance_id: str
    model_id: str
    model_name: str
    tenant_id: str
    held_bytes: dict[int, int]
    priority: int = 5
    idle: float | None = None
    resident: float | None = None
    pinned: bool = False
    has_waiters: bool = False
    stopping: bool = False
    replicated: bool = False


@dataclass(frozen=True)
class ResourceOption:
    """A device configuration that the model may run on: `count` devices of one kind on one node, `share` on each."""

    kind: str
    count: int
    share: int
    estimate: MemoryEstimate
    source: str = "files"
    profile: str = ""
    main_memory: int = 0  # that an engine on GPUs needs on the node in addition
    cores: float = 0
    node: str = ""  # the only node allowed; empty: any
    digest: str = ""  # of all that its memory use depends on; key of the recorded peaks


Claims = tuple[tuple[DeviceView, int], ...]  # what is to be reserved on each device, in bytes


@dataclass(frozen=True)
class PlacementRequest:
    """Options to run `model_id`, best first. `is_retry`: a retry for missing replicas, not a request of a user now."""

    model_id: str
    options: tuple[ResourceOption, ...]
    priority: int = 5
    is_retry: bool = False


@dataclass(frozen=True)
class ClusterView:
    """All devices and the instances on them. `slots`: how many more may run. `awaited`: devices that an earlier
    start waits for; this one evicts nothing there. `residency`: how long a new instance is safe from eviction."""

    devices: tuple[DeviceView, ...]
    occupants: tuple[Occupant, ...] = ()
    slots: int = 1_000_000
    residency: float = 60
    awaited: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Candidate:
    """The result for one device and one option. `why` is empty if it has room; `taken`: it was chosen."""

    profile: str
    node: str
    device: str
    needed: int
    free: int
    capacity: int
    why: str = ""
    text: str = ""
    taken: bool = False


@dataclass(frozen=True)
class EvictionVerdict:
    """The result for one instance: it is evicted, or `why` it is not."""

    instance_id: str
    model_id: str
    model_name: str
    tenant_id: str
    evicted: bool
    why: str = ""


@dataclass(frozen=True)
class PlacementDecision:
    """`claims`: device id → bytes, empty if nothing fits. `victims` must release their memory first.

    `waits`: nothing fits now, but it will on the devices `wanted` once their busy, new or starting instances may
    be evicted.
    """

    option: ResourceOption | None = None
    devices: tuple[DeviceView, ...] = ()
    claims: dict[int, int] = field(default_factory=dict)
    victims: tuple[Occupant, ...] = ()
    trace: tuple[Candidate, ...] = ()
    verdicts: tuple[EvictionVerdict, ...] = ()
    waits: bool = False
    wanted: frozenset[int] = frozenset()

    @property
    def placed(self) -> bool:
        return self.option is not None
