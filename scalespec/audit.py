"""`verify --deep`: what is stored is not only as it was written, but means what it should.

`verify` compares bytes with their checksums. This decodes them: spectra without NaN, with weights
that are none or positive and flux 0 where there is none, tables whose rows are those of the store.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from scalespec.config import RunConfig
from scalespec.errors import ScalespecError
from scalespec.plan import Block
from scalespec.stages import folders
from scalespec.stages.ingest import read_index
from scalespec.store import paths
from scalespec.store.catalog import read_part
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import arm_names, read_spectra

Found = list[str]


def audit_run(config: RunConfig) -> tuple[Found, int]:
    """Decode every committed block of a run and say what is wrong with it.

    Returns
    -------
    problems, n_checked
        One sentence per problem; blocks decoded.
    """
    problems, checked = [], 0
    for stage, url, check in _checks(config):
        committed = Ledger(url).done()
        for block in folders.planned_blocks(config):
            if block.index not in committed:
                continue
            checked += 1
            found = _told(partial(check, block))
            problems += [f"{stage}: block {block.index}: {line}" for line in found]
    return problems, checked


def _told(check: Callable[[], Found]) -> Found:
    """Return what a check finds; what cannot be decoded is a problem, too."""
    try:
        return check()
    except (ScalespecError, ValueError, KeyError) as error:
        return [str(error)]


def _checks(config: RunConfig) -> Iterator[tuple[str, str, Callable[[Block], Found]]]:
    """Yield stage, folder and the check of one block of it, as far as the run has come."""
    raw, spectra = _known(config, "raw_url"), _known(config, "spectra_url")
    if config.ingest is not None and raw:
        yield "ingest", raw, partial(_raw, raw)
    if config.preprocess is None or not spectra or config.preprocess.source:
        return
    yield "preprocess", spectra, partial(_spectra, spectra, raw)
    for stage, name in (("infer", "first_url"), ("fit", "best_url"), ("publish", "catalog_url")):
        url = _known(config, name)
        if getattr(config, stage) is not None and url:
            yield stage, url, partial(_table, url, spectra)


def _known(config: RunConfig, name: str) -> str:
    try:
        return str(getattr(folders, name)(config))
    except ScalespecError:  # upstream never ran
        return ""


def _raw(url: str, block: Block) -> Found:
    store = paths.join(url, "spectra.zarr")
    found = _pixels(store, block, empty=False)
    if (rows := len(read_index(url, block))) != block.size:
        found.append(f"its index has {rows} rows, not {block.size}")
    return found


def _spectra(url: str, raw: str, block: Block) -> Found:
    store = paths.join(url, "spectra.zarr")
    found = _pixels(store, block, empty=True)
    names = ("obsid", "source_id")
    if not raw:
        return found
    ours = read_spectra(store, block.start, block.stop, names=names)
    theirs = read_spectra(paths.join(raw, "spectra.zarr"), block.start, block.stop, names=names)
    return found + [
        f"{name} is not that of the raw spectra"
        for name in names
        if name in ours and not np.array_equal(ours[name], theirs[name])
    ]


def _pixels(store: str, block: Block, *, empty: bool) -> Found:
    """Look at flux, ivar and mask of every arm; `empty`: flux is 0 where there is no weight."""
    found = []
    for arm in ("", *arm_names(store)):
        spectra = read_spectra(paths.join(store, arm) if arm else store, block.start, block.stop)
        if "flux" in spectra:
            arrays = [spectra[name].to_numpy() for name in ("flux", "ivar", "mask")]
            found += [f"{arm} {line}".strip() for line in _wrong(*arrays, empty=empty)]
    return found


def _wrong(flux: Any, ivar: Any, mask: Any, *, empty: bool) -> Found:
    blank = ivar == 0
    checks = {
        "pixels of flux are not finite": ~np.isfinite(flux),
        "pixels of ivar are negative or not finite": ~(np.isfinite(ivar) & (ivar >= 0)),
        "pixels have no weight, and no mask bit says why": blank & (mask == 0),
        "pixels have flux, but no weight": blank & (flux != 0) if empty else np.zeros(0, bool),
    }
    return [f"{int(bad.sum())} {what}" for what, bad in checks.items() if bad.any()]


def _table(url: str, spectra: str, block: Block) -> Found:
    table = read_part(url, block, columns=_ROWS)
    store = paths.join(spectra, "spectra.zarr")
    obsid = read_spectra(store, block.start, block.stop, names=("obsid",))["obsid"].to_numpy()
    rows = np.arange(block.start, block.stop)
    found = []
    if not np.array_equal(table["row"].to_numpy(), rows):
        found.append(f"its rows are not {block.start}:{block.stop}")
    elif not np.array_equal(table["obsid"].to_numpy(), obsid):
        found.append("its obsid is not that of the spectra")
    return found


_ROWS: Sequence[str] = ("row", "obsid")
