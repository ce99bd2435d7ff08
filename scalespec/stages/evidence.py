"""What a run has come to, in memory that does not grow with it: counts, and samples of its rows.

The catalog's parts are read once, one in memory at a time. Every row is counted; figures and
statistics are drawn from samples.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import pyarrow as pa
import pyarrow.types as patypes

from scalespec.config import RunConfig
from scalespec.errors import ScalespecError
from scalespec.optimize.result import FitStatus
from scalespec.plan import Block, plan_blocks
from scalespec.schema import UNREADABLE, SpectrumStatus, status_names
from scalespec.stages import folders
from scalespec.stages.columns import measured_labels
from scalespec.stages.inspect import Fitted, load_fitted
from scalespec.stages.rankings import LIMITS, LISTS, head_of, poor_probability
from scalespec.stages.samples import Array, Columns, Rows, Sample
from scalespec.store import paths
from scalespec.store.catalog import iterate_parts, read_schema
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import count_spectra

SAMPLE_ROWS = 50_000
"""Most rows that a figure or a statistic is drawn from; medians of so many are good to 0.6 %."""
NEAR_ROWS = 2048
"""Good rows that lie together in the store: what is read of it for the mean residual."""
CHUNK_ROWS = 256
"""Rows that lie together."""
OWN = (
    *("row", "obsid", "ra", "dec", "snr", "spectrum_status", "fit_status", "at_bound"),
    *("prior_dominated", "model", "chi2", "dof", "n_used", "rv", "rv_err", "rv_residual"),
    *("vsini", "vsini_err", "lsf", "lsf_err", "out_of_domain", "ebv", "anomaly"),
    *("age", "age_err", "age_status", "m_k"),
)
"""Columns that a page needs beside the labels."""


Counts = Counter[tuple[str, str]]
"""Rows by what was counted and its value: ("fit_status", "AT_BOUND"), ("rows", "readable"), ..."""


def count(rows: Rows) -> Counts:
    """Count rows by status, and by what is said of each label."""
    columns = rows.columns
    spectrum, fit = columns["spectrum_status"], columns["fit_status"]
    readable = spectrum & np.uint32(UNREADABLE) == 0
    asked = readable & (fit & np.uint32(FitStatus.NOT_SELECTED) == 0)
    kinds: dict[str, Array] = {
        "all": np.ones(len(rows), bool),
        "readable": readable,
        "asked": asked,
        "fitted": rows.fitted,
        "good": rows.good,
        "unflagged": rows.fitted & (fit == 0),
    }
    found = {("rows", name): int(where.sum()) for name, where in kinds.items()}
    for name, values, flags in (
        ("fit_status", fit, FitStatus),
        ("spectrum_status", spectrum, SpectrumStatus),
    ):
        found |= {(name, flag): n for flag, n in status_names(values, flags).items()}
    for label in rows.labels:
        for name in ("at_bound", "prior_dominated"):
            found[name, label] = int((rows.fitted & rows.has_bit(name, label)).sum())
        found["trusted", label] = int(rows.trusted(label).sum())
    for name, limit in LIMITS.items():
        found["metal-poor", name] = int((poor_probability(rows, limit) > 0.5).sum())
    return Counter(found)


@dataclass(frozen=True)
class Evidence:
    """What a run has come to.

    Attributes
    ----------
    config : RunConfig
    planned : int
        Spectra of the plan.
    counts : Counter
        Of every row.
    stars : Rows
        A sample of all rows, without what other catalogs say.
    matched : mapping of str to Rows
        A sample of the rows that a label catalog knows, and what it says.
    near : Rows
        Good rows in chunks of the store.
    extremes : Rows
        The rows that are the most of their kind.
    dated : Rows
        A sample of the rows that have an age to be trusted.
    lists : mapping of str to Rows
        The heads of the lists of `rankings`, the first row first.
    """

    config: RunConfig
    planned: int
    counts: Counts
    stars: Rows
    matched: Mapping[str, Rows] = field(default_factory=dict)
    near: Rows = field(default_factory=lambda: Rows({}, ()))
    extremes: Rows = field(default_factory=lambda: Rows({}, ()))
    dated: Rows = field(default_factory=lambda: Rows({}, ()))
    lists: Mapping[str, Rows] = field(default_factory=dict)

    @property
    def store(self) -> str:
        """The preprocessed spectra."""
        return folders.spectra_store(self.config)

    @cached_property
    def models(self) -> list[Fitted]:
        """The run's models, as the fit used them."""
        return load_fitted(self.config, self.store)

    def drawn_from(self, rows: Rows, kind: tuple[str, str] = ("rows", "all")) -> str:
        """Say that `rows` are a sample, if they are; `kind` counts what they are a sample of."""
        if len(rows) >= self.counts[kind]:
            return ""
        return f"Of a sample of {len(rows):,} out of {self.counts[kind]:,} rows. "


EXTREMES: dict[str, Callable[[Rows], tuple[Array, Array]]] = {
    "The lowest S/N with labels": lambda r: (r.columns["snr"], r.fitted),
    "The worst χ²": lambda r: (-r.chi2_dof, r.fitted),
    "A label at the edge of the model": lambda r: (
        -r.columns["snr"],
        r.fitted & (r.columns["fit_status"] & np.uint32(FitStatus.AT_BOUND) != 0),
    ),
    "A broken file": lambda r: (
        r.columns["row"],
        r.columns["spectrum_status"] & np.uint32(UNREADABLE) != 0,
    ),
}
"""Kinds of rows of which the page shows the one with the least key: (key, which rows can be it)."""


def find_extremes(rows: Rows) -> dict[str, int | None]:
    """Return the place of the row that is the most of each kind; None where none is of it."""
    found: dict[str, int | None] = {}
    for kind, make in EXTREMES.items():
        key, where = make(rows)
        places = np.flatnonzero(where & np.isfinite(key))
        found[kind] = int(places[np.argmin(key[places])]) if len(places) else None
    return found


def gather(config: RunConfig, planned: int, parts: Iterable[Rows]) -> Evidence:
    """Count and sample rows that come part by part.

    Parameters
    ----------
    config : RunConfig
    planned : int
        Spectra of the plan.
    parts : iterable of Rows
        The catalog's rows, in its order; one part at least.
    """
    counts: Counts = Counter()
    stars, near = Sample(SAMPLE_ROWS), Sample(NEAR_ROWS, together=CHUNK_ROWS)
    matched = {name: Sample(SAMPLE_ROWS) for name in config.crossmatch or {}}
    dated = Sample(SAMPLE_ROWS)
    lists: dict[str, Rows] = {}
    extremes: list[Rows] = []
    for part in parts:
        counts.update(count(part))
        own = [n for n in part.columns if n in own_columns(part.labels)]
        mine = part.take(np.ones(len(part), bool), own)
        stars.add(mine)
        near.add(mine.take(mine.good))
        if "age" in mine.columns:
            has_age = np.isfinite(mine.columns["age"]) & (mine.columns["age_status"] == 0)
            counts["rows", "dated"] += int(has_age.sum())
            dated.add(mine.take(has_age))
        for name, rank in LISTS.items():
            before = [lists[name]] if name in lists else []
            lists[name] = head_of(Rows.join([*before, mine]), rank)
        for name, sample in matched.items():
            others = [n for n in part.columns if n.startswith(f"{name}_")]
            known = part.fitted & _any_known(part, others)
            counts["matched", name] += int(known.sum())
            sample.add(part.take(known, dict.fromkeys([*own, *others])))
        both = Rows.join([*extremes, mine])
        places = [place for place in find_extremes(both).values() if place is not None]
        extremes = [both.take(np.unique(np.array(places, np.int64)))]
    return Evidence(
        config,
        planned,
        counts,
        stars.rows(),
        {name: sample.rows() for name, sample in matched.items()},
        near.rows(),
        extremes[0],
        dated.rows(),
        lists,
    )


def own_columns(labels: Sequence[str]) -> frozenset[str]:
    """Return the columns that a page needs, but for what other catalogs say."""
    ends = ("", "_err", "_cal", "_cal_err")
    return frozenset((*OWN, *(f"{label}{end}" for label in labels for end in ends)))


def _any_known(rows: Rows, names: Sequence[str]) -> Array:
    """(n,) bool: the catalog says something of the row."""
    known = np.zeros(len(rows), bool)
    for name in names:
        if rows.columns[name].dtype.kind == "f":
            known |= np.isfinite(rows.columns[name])
    return known


def read_evidence(config: RunConfig) -> Evidence:
    """Read what the pages need of the run's catalog: memory of the samples and of one part.

    Raises
    ------
    StoreError
        If nothing is published yet.
    """
    url = folders.catalog_url(config)
    planned = sum(segment.n for segment in folders.planned_segments(config))
    schema = read_schema(url)
    numeric = [f.name for f in schema if patypes.is_integer(f.type) or patypes.is_floating(f.type)]
    labels = measured_labels(numeric)
    own = own_columns(labels)
    catalogs = tuple(f"{name}_" for name in config.crossmatch or {})
    names = [name for name in numeric if name in own or name.startswith(catalogs)]
    return gather(config, planned, _parts(url, names, labels))


def _parts(url: str, names: Sequence[str], labels: Sequence[str]) -> Iterator[Rows]:
    for table in iterate_parts(url, names):
        yield Rows(_columns(table), labels)


def _columns(table: pa.Table) -> Columns:
    return {name: table[name].to_numpy() for name in table.column_names}


def committed_blocks(config: RunConfig) -> list[Block]:
    """Return the blocks whose spectra are preprocessed."""
    url = folders.spectra_url(config)
    done = Ledger(url).done()
    if folders.source_url(config):
        n = count_spectra(paths.join(url, "spectra.zarr"))
        blocks = plan_blocks(n, config.run.spectra_per_block)
    else:
        blocks = folders.planned_blocks(config)
    return [block for block in blocks if block.index in done]


def stage_folders(config: RunConfig) -> dict[str, str]:
    """Return the folders of the run's stages that are known, by name."""
    calls: dict[str, Callable[[], str]] = {
        "raw": partial(folders.raw_url, config),
        "spectra": partial(folders.spectra_url, config),
        "statistics": lambda: paths.join(folders.spectra_url(config), "statistics"),
    }
    for name in config.crossmatch or {}:
        calls[f"matches/{name}"] = partial(folders.matches_url, config, name)
        calls[f"matches/{name}/train"] = partial(folders.training_url, config, name)
    calls |= {
        "library": partial(folders.library_url, config),
        "model": partial(folders.model_url, config),
        "first": partial(folders.first_url, config),
        **({"best": partial(folders.best_url, config)} if config.fit else {}),
        **({"posterior": partial(folders.posterior_url, config)} if config.posterior else {}),
        "binaries": partial(folders.binaries_url, config),
        "calibrated": partial(folders.calibrated_url, config),
        "derived": partial(folders.derived_url, config),
        "ages": partial(folders.ages_url, config),
        "catalog": partial(folders.catalog_url, config),
    }
    known = {}
    for name, call in calls.items():
        try:
            known[name] = call()
        except ScalespecError:
            continue
    return known
