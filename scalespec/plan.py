"""The words that stages and engines share: Block, Stage, Engine and their kin. Data only."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class Block:
    """Half-open range along one axis: the unit of work, of writing and of resuming.

    The axis is the spectra of a store (most stages), its pixels (training The Cannon) or nested
    HEALPix cells of one order, or rows of a label catalog (crossmatch).
    """

    axis: Literal["spectrum", "pixel", "healpix", "row"]
    index: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of items in the block."""
        return self.stop - self.start


def plan_blocks(
    n: int, size: int, *, axis: Literal["spectrum", "pixel", "healpix", "row"] = "spectrum"
) -> list[Block]:
    """Cut ``[0, n)`` into blocks of `size`; the last one may be shorter.

    Raises
    ------
    ValueError
        If `n` is negative or `size` is not positive.

    Examples
    --------
    >>> [(b.start, b.stop) for b in plan_blocks(10, 4)]
    [(0, 4), (4, 8), (8, 10)]
    """
    if n < 0 or size < 1:
        raise ValueError(f"a plan wants n >= 0 and size >= 1, got n = {n}, size = {size}")
    starts = range(0, n, size)
    return [Block(axis, i, start, min(start + size, n)) for i, start in enumerate(starts)]


@dataclass(frozen=True)
class BlockResult:
    """What a worker stored for one block; the content of its commit record.

    Attributes
    ----------
    rows : int
        Rows stored.
    objects : dict
        Object key relative to the stage's folder -> sha256 of its bytes, in hex.
    counts : dict
        Rows by status name, fallbacks, and whatever else the stage counts.
    attempt : str
        The attempt that wrote the attempt-named objects.
    """

    rows: int
    objects: Mapping[str, str]
    counts: Mapping[str, int] = field(default_factory=dict)
    attempt: str = ""


@dataclass(frozen=True)
class BlockReport:
    """What became of one block: a result, or the error that ended its last try."""

    block: Block
    result: BlockResult | None
    error: str = ""
    seconds: float = 0.0
    worker: str = ""  # machine and process that did it
    memory_bytes: int = 0  # most that the process has held so far

    @property
    def ok(self) -> bool:
        """Whether the block is stored and committed."""
        return self.result is not None

    @property
    def rows(self) -> int:
        """Rows of the block; of one that is a piece of the sky, those that were stored."""
        if self.block.axis != "healpix":
            return self.block.size
        return self.result.rows if self.result is not None else 0


@dataclass(frozen=True)
class Stage:
    """One step of a run: which blocks, and what to do with each.

    ``read`` fetches what a block needs, ``compute(value, data)`` is pure, ``write`` stores it and
    returns what was stored. The engine reads one block ahead and writes one behind. ``setup`` runs
    once per worker and its value is handed to ``compute``: a loaded model, an operator, an index.
    Every callable must pickle and carry no secret: ``functools.partial`` over module functions.
    """

    name: str
    url: str  # the folder it stores in; commits and failures lie there
    blocks: Sequence[Block]
    read: Callable[[Block], Any]
    compute: Callable[[Any, Any], Any]
    write: Callable[[Block, Any], BlockResult]
    runs_on: Literal["dask", "ray"]
    setup: Callable[[], Any] | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: int = 0
    blocks_per_call: int = 1


class TrainContext(Protocol):
    """What a training loop may know of where it runs."""

    rank: int
    world_size: int
    device: str

    def wrap(self, model: Any) -> Any:
        """Make the module's gradients common to all ranks (identity for one)."""
        ...

    def report(self, metrics: Mapping[str, float]) -> None:
        """Say how training goes; called by every rank at the same steps."""
        ...


@dataclass(frozen=True)
class Training:
    """The one step that is not a map over blocks: a loop that every training worker runs.

    ``loop`` reads its data and its last complete checkpoint from the store and leaves the model
    there, so a restarted worker, or a restarted driver, goes on where the checkpoint was.
    """

    name: str
    url: str
    loop: Callable[[TrainContext], None]


class Engine(Protocol):
    """Runs blocks somewhere. Order is not promised; every block taken is reported exactly once."""

    workers: int

    def map(self, stage: Stage, blocks: Iterable[Block]) -> Iterator[BlockReport]:
        """Yield one report per block, as they finish; `blocks` is drawn lazily."""
        ...

    def close(self) -> None:
        """Let go of workers this engine started."""
        ...
