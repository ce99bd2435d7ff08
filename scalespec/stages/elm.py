"""An extreme learning machine from any number of spectra: partial sums on Dask, then one solution.

Every block of a labelled store becomes H'H and H'Y, committed like any other part; adding them is
all there is to combining, so memory is that of one block, and a run goes on where it was stopped.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import xarray as xr

from scalespec.errors import StageError
from scalespec.models.elm import ExtremeLearning, Sums, reduce_sums
from scalespec.models.regressor import Sample
from scalespec.plan import Block, BlockResult, Stage
from scalespec.schema import UNREADABLE
from scalespec.store import paths
from scalespec.store.committed import commit_bytes
from scalespec.store.ledger import Ledger
from scalespec.store.model import pack, unpack
from scalespec.store.spectra import memory_bytes, read_spectra

TRAINING = 0
"""The split that is learned from, where the store has one."""
NAMES = ("flux", "ivar", "labels", "label_err", "split", "status", "snr")


def training_sample(
    spectra: xr.Dataset, labels: Sequence[str], snr_min: float = 0.0, *, split: int = TRAINING
) -> Sample:
    """Return the spectra of one part of a split, from an S/N on, with these labels.

    Raises
    ------
    StageError
        If the store lacks a label.
    """
    there = [str(name) for name in spectra["label"].to_numpy()]
    if lacking := [name for name in labels if name not in there]:
        raise StageError(f"no label {lacking} in the store; there are {there}")
    columns = [there.index(name) for name in labels]
    keep = spectra["status"].to_numpy() & np.uint32(UNREADABLE) == 0
    keep &= spectra["snr"].to_numpy() >= snr_min
    if "split" in spectra:
        keep &= spectra["split"].to_numpy() == split
    known = spectra["labels"].to_numpy()[keep][:, columns]
    errors = np.full_like(known, np.nan)
    if "label_err" in spectra:
        errors = spectra["label_err"].to_numpy()[keep][:, columns]
    return Sample(spectra["flux"].to_numpy()[keep], spectra["ivar"].to_numpy()[keep], known, errors)


def elm_sums_stage(
    source: str, url: str, model: ExtremeLearning, blocks: Sequence[Block], snr_min: float = 0.0
) -> Stage:
    """Return the stage that sums up every block of a labelled store.

    Parameters
    ----------
    source : str
        A spectra store with ``labels``; rows of split 0 are learned from, all where it has none.
    url : str
        Folder of the sums.
    model : ExtremeLearning
        Its `start` has drawn the hidden layer and learned scales from some of the spectra.
    blocks : sequence of Block
    snr_min : float
        Spectra below it are not learned from.
    """
    rows = max((block.size for block in blocks), default=0)
    return Stage(
        name="elm sums",
        url=url,
        blocks=blocks,
        read=partial(_read, source=source, labels=model.spec.labels, snr_min=snr_min),
        compute=partial(_sums, model=model),
        write=partial(_write, url=url),
        runs_on="dask",
        memory_bytes=memory_bytes(rows, model.spec.n_pixel),
    )


def combined_sums(url: str, n_block: int) -> Sums:
    """Add the committed sums, in pairs, in the order of the blocks.

    Raises
    ------
    StageError
        If one of the `n_block` blocks is not committed.
    """
    commits = Ledger(url).commits()
    if len(commits) < n_block:
        raise StageError(
            f"{url}: sums of {len(commits)} of {n_block} blocks are committed: see status, then "
            "run again with --retry-failed"
        )
    return reduce_sums([_load(url, commits[index]) for index in sorted(commits)])


def learn_elm(
    source: str,
    url: str,
    model: ExtremeLearning,
    blocks: Sequence[Block],
    *,
    seed: int,
    snr_min: float = 0.0,
) -> Iterator[Stage]:
    """Yield the stage of the sums, then solve: `model` has learned when the iterator ends.

    The hidden layer and all scales come from the first block; the penalty and the errors from the
    stars of split 1 there.

    Raises
    ------
    StageError
        If there is nothing to learn from.
    """
    first = read_spectra(source, blocks[0].start, blocks[0].stop, names=NAMES)
    labels = model.spec.labels
    sample = training_sample(first, labels, snr_min)
    held = training_sample(first, labels, snr_min, split=1) if "split" in first else sample.take([])
    model.start(sample, seed)
    yield elm_sums_stage(source, url, model, blocks, snr_min)
    model.finish(combined_sums(url, len(blocks)), sample, held)


def _read(block: Block, source: str, labels: Sequence[str], snr_min: float) -> Sample:
    spectra = read_spectra(source, block.start, block.stop, names=NAMES)
    return training_sample(spectra, labels, snr_min)


def _sums(_: None, sample: Sample, model: ExtremeLearning) -> tuple[int, Sums]:
    return len(sample), model.sums(sample)


def _write(block: Block, made: tuple[int, Sums], url: str) -> BlockResult:
    stars, sums = made
    data = pack({"hh": sums.hh, "hy": sums.hy, "n": sums.n})
    return commit_bytes(url, block, data, "npz", counts={"learned from": stars})


def _load(url: str, result: BlockResult) -> Sums:
    where = paths.join(url, next(iter(result.objects)))
    return Sums(**unpack(paths.read_bytes(where), where))
