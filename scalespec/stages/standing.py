"""Whether what a stage is to build on stands: which of its blocks, and whether one failed."""

import logging

from scalespec.config import RunConfig
from scalespec.errors import StageError
from scalespec.plan import Block
from scalespec.stages import folders
from scalespec.store.ledger import Ledger

log = logging.getLogger(__name__)


def blocks_done(config: RunConfig, url: str) -> list[Block]:
    """Return those of the run's blocks that the stage at `url` has committed."""
    done = Ledger(url).done()
    return [block for block in folders.planned_blocks(config) if block.index in done]


def refuse_failures(url: str, *, unit: str = "block") -> None:
    """Go on only if no block of the stage at `url` failed.

    Raises
    ------
    StageError
        If one did: it names the first, and why.
    """
    if failures := Ledger(url).failures():
        index, why = min(failures.items())
        raise StageError(f"{url}: {unit} {index} failed: {why}; then run with --retry-failed")


def whole(url: str, n: int) -> bool:
    """Whether all `n` blocks are there; a run that was stopped goes on later.

    Raises
    ------
    StageError
        If a block failed.
    """
    refuse_failures(url)
    if len(Ledger(url).done()) < n:
        log.info("%s: stopped before the last block", url)
        return False
    return True
