"""What placement is asked, what it sees and what it answers. Every size is in bytes, every time in seconds."""

from dataclasses import dataclass, field
from enum import StrEnum

from engines.base import Estimate


class Why(StrEnum):
    """Why a device was refused, or a holder of memory kept. Messages: placement/reason_messages.py."""

    SILENT = "silent"  # the node's agent does not answer
    ENGINE = "engine"  # the engine is missing there; `text` has its words
    SUSPECT = "suspect"  # the device itself is not trusted; `text` says why
    OTHER_NODE = "other_node"  # the profile names another node
    CORES = "cores"
    TOO_SMALL = "too_small"  # would not fit even if it were empty
    NO_ROOM = "no_room"
    TOO_FEW = "too_few"  # the node has not enough such devices with room
    MAIN_MEMORY = "main_memory"  # of the node, which a GPU engine needs too
    LIMIT = "limit"  # as many instances run as may
    PINNED = "pinned"
    BUSY = "busy"  # requests in flight
    AWAITED = "awaited"  # requests wait for it
    STARTING = "starting"
    YOUNG = "young"  # not resident for long enough
    SIBLING = "sibling"  # another replica of the same model
    HIGHER = "higher"  # more important than the one that asks
    USED = "used"  # had a request not long ago
    SCALED = "scaled"  # one of several replicas
    AHEAD = "ahead"  # somebody who came earlier waits for room there


@dataclass(frozen=True)
class DeviceView:
    """One device as placement sees it. `reserved` leaves out what its owners are about to give back."""

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
    silent: bool = False
    node_problem: str = ""  # why the engine cannot start on its node now
    suspect: str = ""

    @property
    def capacity(self) -> int:
        """What ours may take: what others hold beyond the share that is kept back for them is lost to us."""
        return min(self.usable, self.total - self.foreign)

    @property
    def free(self) -> int:
        return self.capacity - self.reserved

    @property
    def label(self) -> str:
        return f"{self.kind}:{self.index}"


@dataclass(frozen=True)
class Holder:
    """An instance that holds memory: `holds` maps a device's id to bytes.

    `idle` is None while requests are in flight, `resident` (seconds since it was ready) None before it is.
    `going`: it is being stopped anyway, so that its memory can be promised at no cost.
    """

    instance_id: str
    model_id: str
    model_name: str
    tenant_id: str
    holds: dict[int, int]
    priority: int = 5
    idle: float | None = None
    resident: float | None = None
    pinned: bool = False
    awaited: bool = False
    going: bool = False
    scaled: bool = False


@dataclass(frozen=True)
class Way:
    """One device configuration that the model may run in: `count` devices of a kind on one node, `share` on each."""

    kind: str
    count: int
    share: int
    estimate: Estimate
    source: str = "files"
    profile: str = ""
    main_memory: int = 0  # of the node besides, for an engine on GPUs
    cores: float = 0
    node: str = ""  # only there
    digest: str = ""  # of what its memory depends on; peaks are recorded under it


Claims = tuple[tuple[DeviceView, int], ...]  # what is to be reserved on each device, in bytes


@dataclass(frozen=True)
class PlacementRequest:
    """The ways to run `model_id`, the best first. `standing`: nobody asks now, but an earlier wish still stands."""

    model_id: str
    ways: tuple[Way, ...]
    priority: int = 5
    standing: bool = False


@dataclass(frozen=True)
class Snapshot:
    """All devices and holders. `slots`: instances that may still be added; `awaited`: devices that an earlier
    comer waits for, on which nobody is evicted for this request; `residency`: how long an instance is safe."""

    devices: tuple[DeviceView, ...]
    holders: tuple[Holder, ...] = ()
    slots: int = 1_000_000
    residency: float = 60
    awaited: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Candidate:
    """The word on one device for one way. `why` is empty where it has the room (`taken`: and was chosen)."""

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
class Verdict:
    """The word on one holder: it has to go, or `why` it may stay."""

    instance_id: str
    model_id: str
    model_name: str
    tenant_id: str
    evicted: bool
    why: str = ""


@dataclass(frozen=True)
class Decision:
    """`claims`: device id → bytes, empty where nothing fits. `victims` have to give back their memory first.

    `waits`: nothing fits now, but would on `wanted` once what is busy, young or starting may be evicted.
    """

    way: Way | None = None
    devices: tuple[DeviceView, ...] = ()
    claims: dict[int, int] = field(default_factory=dict)
    victims: tuple[Holder, ...] = ()
    trace: tuple[Candidate, ...] = ()
    holders: tuple[Verdict, ...] = ()
    waits: bool = False
    wanted: frozenset[int] = frozenset()

    @property
    def placed(self) -> bool:
        return self.way is not None
