"""One block after another, in this process: to debug, and to serve a laptop."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from scalespec.engines.worker import run_blocks
from scalespec.plan import Block, BlockReport, Stage, Training


class LocalContext:
    """A training loop's surroundings when it is alone."""

    rank = 0
    world_size = 1
    device = "cpu"

    def wrap(self, model: Any) -> Any:
        """Return the module as it is."""
        return model

    def report(self, metrics: Mapping[str, float]) -> None:
        """Nobody listens: the loop keeps its own history."""


class LocalEngine:
    """Runs blocks here."""

    workers = 1

    def map(self, stage: Stage, blocks: Iterable[Block]) -> Iterator[BlockReport]:
        """Yield one report per block, in order; blocks are drawn a call at a time."""
        queue = iter(blocks)
        while call := list(islice(queue, max(stage.blocks_per_call, 4))):
            yield from run_blocks(stage, call)

    def train(self, training: Training) -> None:
        """Run the loop here."""
        training.loop(LocalContext())

    def close(self) -> None:
        """Nothing was started."""
