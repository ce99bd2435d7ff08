"""An extreme learning machine from any number of spectra: partial sums on Dask, then one solution.

Every block of a labelled store becomes H'H and H'Y, committed like any other part; adding them is
all there is to combining, so memory is that of one block, and a run goes on where it was stopped.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import xarray as xr

from scalespec.errors import ModelError, StageError
from scalespec.models.baselines import joined
from scalespec.models.elm import ExtremeLearning, Sums, reduce_sums
from scalespec.models.regressor import Sample
from scalespec.plan import Block, BlockResult, Stage
from scalespec.schema import UNREADABLE
from scalespec.stages.learning import VALIDATION_SPECTRA, split_of
from scalespec.store import paths
from scalespec.store.committed import commit_bytes
from scalespec.store.ledger import Ledger
from scalespec.store.model import pack, unpack
from scalespec.store.spectra import memory_bytes, read_spectra

TRAINING, VALIDATION = 0, 1
"""The parts that are learned from, and that say how well: the store's, or dealt by row."""
NAMES = ("flux", "ivar", "labels", "label_err", "split", "status", "snr")


def training_sample(
    spectra: xr.Dataset,
    labels: Sequence[str],
    snr_min: float = 0.0,
    *,
    seed: int,
    split: int = TRAINING,
    first: int = 0,
) -> Sample:
    """Return the spectra of one part of a split, from an S/N on, with these labels.

    Parameters
    ----------
    spectra : Dataset
        Rows of a labelled store.
    labels : sequence of str
    snr_min : float
    seed : int
        By which rows are dealt to the parts where the store does not say: see `split_of`.
    split : int
        Which part.
    first : int
        Number in its store of the first row.

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
    keep &= split_of(spectra, seed, first) == split
    known = spectra["labels"].to_numpy()[keep][:, columns]
    errors = np.full_like(known, np.nan)
    if "label_err" in spectra:
        errors = spectra["label_err"].to_numpy()[keep][:, columns]
    return Sample(spectra["flux"].to_numpy()[keep], spectra["ivar"].to_numpy()[keep], known, errors)


def elm_sums_stage(
    source: str,
    url: str,
    model: ExtremeLearning,
    blocks: Sequence[Block],
    *,
    seed: int,
    snr_min: float = 0.0,
) -> Stage:
    """Return the stage that sums up every block of a labelled store.

    Parameters
    ----------
    source : str
        A spectra store with ``labels``; rows of split 0 are learned from.
    url : str
        Folder of the sums.
    model : ExtremeLearning
        Its `start` has drawn the hidden layer and learned scales from some of the spectra.
    blocks : sequence of Block
    seed : int
        Of the split, where the store has none.
    snr_min : float
        Spectra below it are not learned from.
    """
    rows = max((block.size for block in blocks), default=0)
    return Stage(
        name="elm sums",
        url=url,
        blocks=blocks,
        read=partial(_read, source=source, labels=model.spec.labels, snr_min=snr_min, seed=seed),
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
    first `VALIDATION_SPECTRA` stars of split 1.

    Parameters
    ----------
    source, url, blocks, seed, snr_min
        As of `elm_sums_stage`.
    model : ExtremeLearning
        As it was made: it is started here.

    Raises
    ------
    StageError
        If blocks are missing.
    ModelError
        If there is no star of split 1 with a label.
    """
    read = partial(_read, source=source, labels=model.spec.labels, snr_min=snr_min, seed=seed)
    sample, held = read(blocks[0]), read(blocks[0], split=VALIDATION)
    for block in blocks[1:]:
        if len(held) >= VALIDATION_SPECTRA:
            break
        held = joined(held, read(block, split=VALIDATION))
    if not np.isfinite(held.labels).any():
        raise ModelError(
            f"{source}: no validation spectrum of S/N >= {snr_min:g} with one of "
            f"{model.spec.labels}: they choose the penalty and say how large errors are"
        )
    model.start(sample, seed)
    yield elm_sums_stage(source, url, model, blocks, seed=seed, snr_min=snr_min)
    model.finish(combined_sums(url, len(blocks)), sample, held.take(slice(VALIDATION_SPECTRA)))


def _read(
    block: Block,
    source: str,
    labels: Sequence[str],
    snr_min: float,
    seed: int,
    split: int = TRAINING,
) -> Sample:
    spectra = read_spectra(source, block.start, block.stop, names=NAMES)
    return training_sample(spectra, labels, snr_min, seed=seed, split=split, first=block.start)


def _sums(_: None, sample: Sample, model: ExtremeLearning) -> tuple[int, Sums]:
    return len(sample), model.sums(sample)


def _write(block: Block, made: tuple[int, Sums], url: str) -> BlockResult:
    stars, sums = made
    data = pack({"hh": sums.hh, "hy": sums.hy, "n": sums.n})
    return commit_bytes(url, block, data, "npz", counts={"learned from": stars})


def _load(url: str, result: BlockResult) -> Sums:
    where = paths.join(url, next(iter(result.objects)))
    return Sums(**unpack(paths.read_bytes(where), where))
