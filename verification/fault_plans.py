"""Random sequences of user actions and faults; a sequence depends only on its seed."""

import random
from dataclasses import dataclass

MODELS, REPLICAS = 2, 2
MIN_STEPS, MAX_STEPS = 5, 10
MAX_PAUSE = 0.8  # seconds; some steps start while the one before runs
# What a step does: (weight of the choice, number of targets).
STEPS = {
    "start": (5, MODELS),
    "stop": (2, MODELS),
    "stop by force": (2, MODELS),
    "restart": (3, MODELS),
    "scale": (4, MODELS * REPLICAS),
    "delete": (1, MODELS),
    "kill an engine": (4, 100),
    "kill a shim": (3, 100),
    "kill a worker": (1, 2),
    "kill the scheduler": (1, 1),
    "lose Valkey": (1, 1),
    "end Postgres": (1, 1),
}
ENGINE_ARGUMENTS = {"": 4, "--delay 0.5": 2, "--delay 2": 1, "--fails": 1}  # arguments: weight of the choice


@dataclass(frozen=True)
class FaultStep:
    """`target`: number of the model or machine, or of the process among those that run at that time."""

    after: float
    action: str
    target: int

    def __str__(self):
        return f"+{self.after:.2f}s {self.action} {self.target}"


@dataclass(frozen=True)
class FaultPlan:
    seed: int
    engines: tuple[str, ...]
    steps: tuple[FaultStep, ...]

    def __str__(self):
        return f"{self.seed}: engines {list(self.engines)}; {'; '.join(map(str, self.steps))}"


def make(seed: int) -> FaultPlan:
    """Equal seeds give equal plans."""
    rng = random.Random(seed)
    engines = rng.choices(list(ENGINE_ARGUMENTS), weights=list(ENGINE_ARGUMENTS.values()), k=MODELS)
    verbs = rng.choices(list(STEPS), [weight for weight, _ in STEPS.values()], k=rng.randint(MIN_STEPS, MAX_STEPS))
    first = FaultStep(0.0, "start", 0)
    steps = [FaultStep(rng.uniform(0, MAX_PAUSE), verb, rng.randrange(STEPS[verb][1])) for verb in verbs]
    return FaultPlan(seed, tuple(engines), (first, *steps))
