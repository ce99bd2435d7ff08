"""What a Ray has room for: actors and training workers on its nodes, and waiting for it."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from scalespec.config import RayTable
from scalespec.errors import StageError

log = logging.getLogger(__name__)

RESTARTS = 3
"""How often a lost actor's call, or a lost training worker, is started again."""
LOOK_S = 5.0
"""How often what does not answer yet is looked at; the wait after an actor that ended so."""
NOBODY_S = 600.0
"""How long work waits while nobody at all has a place: a new node is there in minutes."""


@dataclass(frozen=True)
class Place:
    """What one actor, or one training worker, takes of one node."""

    cpus: float = 1.0
    gpus: float = 0.0

    @property
    def resources(self) -> dict[str, float]:
        """The same as Ray is asked for it."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}

    def room(self) -> int:
        """Return how many of it the nodes that have joined hold, taken or not."""
        nodes = _nodes()
        room = [_times(node.get("CPU", 0), self.cpus) for node in nodes]
        if self.gpus:  # a part of a GPU is part of one: three times 0.6 want three GPUs
            size, parts = (self.gpus, 1) if self.gpus >= 1 else (1, _times(1, self.gpus))
            held = [parts * _times(node.get("GPU", 0), size) for node in nodes]
            room = [min(both) for both in zip(room, held, strict=True)]
        return sum(room)

    def short(self, *cures: str) -> str:
        """Say what there is, what is wanted of it, and what would help."""
        nodes = _nodes()
        cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
        fewer = ["lower engine.ray.gpus_per_worker"] if self.gpus else []
        return (
            f"Ray has {cpus:g} CPUs and {gpus:g} GPUs on {len(nodes)} nodes, each wants "
            f"{self.cpus:g} and {self.gpus:g} on one node: "
            + " or ".join(["add nodes", *fewer, *cures])
        )

    @contextmanager
    def asked(self, n: int) -> Iterator[Any]:
        """Ask for `n` at once, and let go of them at the end; an autoscaler goes by what is asked.

        It is asked in the name of this driver, and ends with it, too.
        """
        group = placement_group([self.resources] * n)
        try:
            yield group
        finally:
            remove_placement_group(group)


def await_places(name: str, place: Place, n: int, table: RayTable) -> None:
    """Wait until `n` places are free at once, as Ray Train and Ray Tune would for ever, in silence.

    Fewer are no answer: another number of workers would train another model.

    Parameters
    ----------
    name : str
        Of what wants them.
    place : Place
    n : int
    table : RayTable
        Nodes that have yet to join are waited for as long as its ``wait_seconds`` say, at an
        address; places that others hold, for `NOBODY_S`.

    Raises
    ------
    StageError
        If there is no room, or nobody has made any.
    """
    joining = table.wait_seconds if table.address else 0.0
    cures = ["lower engine.ray.workers"] if n > 1 else []
    if table.address:
        cures.append("raise engine.ray.wait_seconds where nodes join later")
    started, said = time.monotonic(), False
    with place.asked(n) as group:
        while True:
            room, waited = place.room(), time.monotonic() - started
            limit = NOBODY_S if room >= n else joining
            why = f"room for {room} of {n} workers" + (", which others hold" if room >= n else "")
            if waited >= limit:
                waited_s = f" after {waited:.0f} s" if limit else ""
                raise StageError(f"{name}: {why}{waited_s}; {place.short(*cures)}")
            if group.wait(1):  # whole seconds, in which Ctrl-C is not heard
                return
            if not said and (room < n or waited > LOOK_S):
                said = True
                log.warning("%s: %s, waits up to %.0f s; %s", name, why, limit, place.short())


def _nodes() -> list[dict[str, float]]:
    """Return what each node that is there has, taken or not."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _times(has: float, wants: float) -> int:
    """Return how often a want fits, whatever binary fractions make of tenths."""
    return int(has / max(wants, 1e-9) + 1e-6)
