"""A run's plan grows by segments: inputs found later are appended as blocks of their own.

``plan/<digest>/segments/000000.json`` says which rows the first planning made, ``000001.json``
which the next one added, and so on; each is written once, create-only, after the lists of inputs it
names. A segment begins at the next whole block, so blocks done before stay as they are, in every
stage, and the last block of a segment may be short. Between two segments there may so be rows that
nothing was planned for: stores fill them with ``SpectrumStatus.PADDING`` and catalogs leave them
out. ``row // spectra_per_block`` is the index of a block everywhere.

A segment belongs to a run if all that it was listed from is named by the run file: with a further
entry in ``[ingest] files`` a run goes on where the shorter one stood.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from scalespec.errors import StoreError
from scalespec.plan import Block
from scalespec.store import paths
from scalespec.store.ledger import read_json, write_json


@dataclass(frozen=True)
class Segment:
    """What one planning found.

    Attributes
    ----------
    start, stop : int
        Rows.
    spectra_per_block : int
    files : tuple of str
        The entries of ``[ingest] files`` it was listed from; none if from a release catalog.
    bytes : int
        Of all inputs whose size is known.
    n_files : int
    sha256 : str
        Of the lists of inputs.
    attempt : str
        Names the folder of the lists.
    """

    start: int
    stop: int
    spectra_per_block: int
    files: tuple[str, ...]
    bytes: int
    n_files: int
    sha256: str
    attempt: str

    @property
    def blocks(self) -> list[Block]:
        """The segment's blocks: whole ones, but for the last."""
        size = self.spectra_per_block
        starts = range(self.start, self.stop, size)
        return [Block("spectrum", s // size, s, min(s + size, self.stop)) for s in starts]

    @property
    def n(self) -> int:
        """Number of spectra."""
        return self.stop - self.start


def read_segments(plan_url: str, files: Sequence[str] = ()) -> tuple[Segment, ...]:
    """Return a plan's segments whose entries are all among `files`, in the order of their rows.

    Raises
    ------
    StoreError
        If a record is damaged.
    """
    folder = paths.join(plan_url, "segments")
    found = [_read(paths.join(folder, key)) for key in paths.list_keys(folder)]
    return tuple(segment for segment in found if set(segment.files) <= set(files))


def _read(url: str) -> Segment:
    record = read_json(url)
    try:
        return Segment(**(record | {"files": tuple(record["files"])}))
    except (KeyError, TypeError) as error:
        raise StoreError(
            f"{url}: no segment of a plan ({error!r}); delete it to plan anew"
        ) from error


def is_planned(plan_url: str) -> bool:
    """Whether a plan has its first segment."""
    return paths.exists(paths.join(plan_url, "segments", "000000.json"))


def next_start(plan_url: str) -> tuple[int, int]:
    """Return number and first row of the segment that would come next, whoever's the others are."""
    folder = paths.join(plan_url, "segments")
    found = [_read(paths.join(folder, key)) for key in paths.list_keys(folder)]
    last = max((segment.stop for segment in found), default=0)
    size = found[0].spectra_per_block if found else 1
    return len(found), -(-last // size) * size


def add_segment(plan_url: str, number: int, segment: Segment) -> bool:
    """Append a segment; False if another driver has added one with this number meanwhile."""
    url = paths.join(plan_url, "segments", f"{number:06d}.json")
    return write_json(url, asdict(segment), create=True) or _read(url).attempt == segment.attempt


def part_url(plan_url: str, attempt: str, block: Block) -> str:
    """Return where the inputs of one block are listed."""
    return paths.join(plan_url, "inputs", attempt, f"{block.index:06d}.parquet")


def find_part(plan_url: str, block: Block) -> str:
    """Return where the inputs of a planned block are listed, whosever segment it is in.

    Raises
    ------
    StoreError
        If no segment has that block.
    """
    folder = paths.join(plan_url, "segments")
    for key in reversed(paths.list_keys(folder)):
        segment = _read(paths.join(folder, key))
        if segment.start <= block.start < segment.stop:
            return part_url(plan_url, segment.attempt, block)
    raise StoreError(f"{plan_url}: no inputs are planned for block {block.index}")
