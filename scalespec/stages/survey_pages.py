"""What became of a survey's spectra: counts, examples before and after, and what they are like."""

from collections import Counter
from collections.abc import Sequence
from functools import reduce

import numpy as np
import xarray as xr

from scalespec.config import PreprocessTable, RunConfig
from scalespec.figures import spectra as figures_spectra
from scalespec.figures.spectra import Curve
from scalespec.kernels.slitless import BANDS
from scalespec.plan import Block
from scalespec.schema import UNREADABLE, SpectrumStatus
from scalespec.stages import folders
from scalespec.stages.columns import SPECTRUM_STATUS, mask_bit
from scalespec.stages.evidence import committed_blocks
from scalespec.stages.folders import spectra_store
from scalespec.stages.page import Cell, by_status, heading, paragraph, picture, table, tiles
from scalespec.stages.statistics import (
    UNKNOWN,
    add,
    block_statistics,
    mean_spectra,
    read_statistics,
    summary,
)
from scalespec.store import paths
from scalespec.store.ledger import Ledger, read_json
from scalespec.store.spectra import arm_names, count_spectra, read_spectra

KINDS = {"High S/N": 0.95, "Median S/N": 0.5, "Low S/N": 0.05}
"""Examples by the quantile of their S/N among the spectra with information."""
UNUSABLE = np.uint32(UNREADABLE | SpectrumStatus.PADDING)
"""Bits of spectra that are no example of anything."""
SAMPLED_BLOCKS = 64
"""Blocks whose S/N the examples are chosen by, spread evenly over the run."""
STATISTICS_BLOCKS, STATISTICS_ROWS = 8, 256
"""Blocks, and spectra of each, that are summed up where the run did not sum up all."""
EXAMPLE = (
    "Above the spectrum as it was read, arm by arm, below what preprocessing made of it. Bands are "
    "1 σ to either side; grey are pixels without information."
)
MASKS = (
    "A pixel may carry several bits. Survey bits, and those of single exposures, cost a pixel only "
    "where POLICY stands beside them."
)
MEANS = (
    "Mean spectra by class of the survey, shifted upwards one by one, with the scatter from star "
    "to star; below, the part of the spectra that holds information."
)
COMPONENTS = "Directions in which the spectra differ most: lines of one kind of star or another."


def spectra_lead(config: RunConfig) -> str:
    """Say in a line what a run without a catalog has made."""
    steps = " → ".join((config.preprocess or PreprocessTable()).steps)
    return f"{sum(block.size for block in committed_blocks(config)):,} spectra: {steps}"


def spectra_summary(config: RunConfig) -> str:
    """Count the spectra by status, and say what was made of which store."""
    url = folders.spectra_url(config)
    commits = Ledger(url).commits()
    ours = {block.index for block in committed_blocks(config)}
    counts: Counter[str] = Counter()
    for index in sorted(ours):
        counts.update(commits[index].counts)
    done = sum(commits[index].rows for index in ours)
    planned = _planned(config)
    html = tiles([(f"{planned:,}", "spectra planned"), (f"{done:,}", "preprocessed")])
    if planned > done:
        text = f"{planned - done:,} planned spectra are in blocks that failed or are not done yet."
        html += paragraph(f"{text} Run again with --retry-failed.", kind="bad")
    html += by_status(counts, done, SPECTRUM_STATUS)
    before, after = (read_spectra(one, 0, 0) for one in (_source(config), spectra_store(config)))
    rows = [_row("before", before, _source(config)), _row("after", after, spectra_store(config))]
    return html + table(["", "pixels", "from [Å]", "to [Å]", "R", "frame", "flux"], rows)


def _planned(config: RunConfig) -> int:
    if folders.source_url(config):
        return count_spectra(spectra_store(config))
    return sum(segment.n for segment in folders.planned_segments(config))


def _source(config: RunConfig) -> str:
    """Return the store that was preprocessed."""
    return folders.source_url(config) or paths.join(folders.raw_url(config), "spectra.zarr")


def _row(name: str, head: xr.Dataset, url: str) -> tuple[Cell, ...]:
    """Say what one store's spectra are."""
    heads = [head] if "flux" in head else [_arm(url, arm, 0, 0) for arm in arm_names(url)]
    grids = [one["wavelength"].to_numpy() for one in heads if one["wavelength"].ndim == 1]
    pixels = sum(one["flux"].shape[1] for one in heads)
    ends = (float(min(g[0] for g in grids)), float(max(g[-1] for g in grids))) if grids else (
        float("nan"), float("nan"))  # fmt: skip
    power = head.attrs.get("resolving_power")
    facts = (float(power) if power else float("nan"), str(head.attrs.get("frame", "")))
    return (name, pixels, *ends, *facts, str(head.attrs.get("flux_unit", "")))


def _arm(url: str, arm: str, start: int, stop: int) -> xr.Dataset:
    return read_spectra(paths.join(url, arm), start, stop)


def before_and_after(config: RunConfig) -> str:
    """Draw a spectrum of high, median and low S/N as it was read and as it was made."""
    chosen = pick_rows(config)
    if not chosen:
        return paragraph("No spectrum holds information.", kind="quiet")
    html = ""
    for kind, row in chosen.items():
        after = read_spectra(spectra_store(config), row, row + 1)
        before = _read_arms(_source(config), row)
        first = next(iter(before.values()))
        title = (
            f"obsid {int(after['obsid'][0])}, row {row} · S/N {float(first['snr'][0]):,.0f} → "
            f"{float(after['snr'][0]):,.0f} · R {_power(first)} → {_power(after)}"
        )
        units = (str(first.attrs.get("flux_unit", "")), str(after.attrs.get("flux_unit", "")))
        curves = [_curve(one, name) for name, one in before.items()]
        figure = figures_spectra.before_after(
            curves, _curve(after), title=title, units=units, bands=_bands(config)
        )
        html += heading(kind) + picture(figure, EXAMPLE, wide=True)
    return html


def _bands(config: RunConfig) -> dict[str, tuple[float, float]]:
    """Return the gratings that were simulated; none if none were."""
    table = config.preprocess
    if table is None or table.simulate is None or "simulate" not in table.steps:
        return {}
    return {name: BANDS[name] for name in table.simulate.bands}


def _power(spectra: xr.Dataset) -> str:
    power = spectra.attrs.get("resolving_power")
    return f"{float(power):,.0f}" if power else "?"


def _read_arms(url: str, row: int) -> dict[str, xr.Dataset]:
    """Return one spectrum, by arm; under "" that of a survey without arms."""
    arms = {name: _arm(url, name, row, row + 1) for name in arm_names(url)}
    return arms or {"": read_spectra(url, row, row + 1)}


def _curve(spectra: xr.Dataset, name: str = "") -> Curve:
    wavelength, flux, ivar = (spectra[n].to_numpy() for n in ("wavelength", "flux", "ivar"))
    if wavelength.ndim == 2:  # each has its own grid; 0 where there is no pixel
        wavelength = wavelength[0]
    there = wavelength > 0
    return Curve(wavelength[there], flux[0][there], ivar[0][there], name)


def pick_rows(config: RunConfig) -> dict[str, int]:
    """Return rows of high, median and low S/N; of a large run, from blocks spread over it."""
    rows, snr = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    for block in _spread(committed_blocks(config), SAMPLED_BLOCKS):
        here = read_spectra(spectra_store(config), block.start, block.stop, names=("snr", "status"))
        some = (here["snr"].to_numpy() > 0) & (here["status"].to_numpy() & UNUSABLE == 0)
        rows.append(block.start + np.flatnonzero(some))
        snr.append(here["snr"].to_numpy()[some])
    every, order = np.concatenate(rows), np.argsort(np.concatenate(snr), kind="stable")
    if not len(order):
        return {}
    places = {kind: order[round(part * (len(order) - 1))] for kind, part in KINDS.items()}
    return {kind: int(every[place]) for kind, place in places.items()}


def _spread(blocks: Sequence[Block], n: int) -> list[Block]:
    """Return at most `n` of the blocks, evenly spread."""
    return list(blocks[:: max(1, -(-len(blocks) // n))])


def survey_statistics(config: RunConfig) -> str:
    """Show S/N, coverage, the cost of masks, mean spectra and principal components."""
    url = folders.spectra_url(config)
    if paths.exists(paths.join(url, "statistics", "summary.json")):
        facts = read_json(paths.join(url, "statistics", "summary.json"))
        means = read_statistics(url, "mean_spectra")
        text = "Of all spectra."
    else:
        total = _sampled(config)
        if total is None:
            return paragraph("No spectrum is preprocessed yet.", kind="quiet")
        facts, means = summary(total), mean_spectra(total)
        text = (
            f"Of {facts['rows']:,} spectra in places spread over the run; with [preprocess] "
            "statistics = true all are summed up, by class."
        )
    html = paragraph(text, kind="quiet") + _numbers(facts) + _masks(facts)
    html += _means(facts, means)
    if paths.exists(paths.join(url, "statistics", "components.npz")):
        html += _components(read_statistics(url, "components"))
    return html


def _sampled(config: RunConfig) -> xr.Dataset | None:
    """Sum up some of the spectra; None if there are none."""
    store, parts = spectra_store(config), []
    for block in _spread(committed_blocks(config), STATISTICS_BLOCKS):
        stop = min(block.stop, block.start + STATISTICS_ROWS)
        spectra = read_spectra(store, block.start, stop)
        parts.append(block_statistics(spectra, [UNKNOWN] * (stop - block.start)))
    return reduce(add, parts) if parts else None


def _numbers(facts: dict[str, object]) -> str:
    """Show the numbers to see first, and the distribution of S/N."""
    html = tiles(
        [
            (f"{facts['spectra']:,}", "spectra with information"),
            (f"{facts['snr_median']:.0f}", "median S/N per pixel"),
            (f"{100 * float(str(facts['coverage'])):.1f} %", "of the pixels hold information"),
        ]
    )
    edges, counts = (np.array(facts[name]) for name in ("snr_edges", "snr_counts"))
    figure = figures_spectra.snr_histogram(edges.astype(np.float64), counts.astype(np.int64))
    return html + picture(figure, "Spectra by their median S/N per pixel after preprocessing.")


def _masks(facts: dict[str, object]) -> str:
    """Show which part of the pixels each bit of the mask is on."""
    bits = facts["bits"]
    rows = [
        (mask_bit(int(bit))[0], 100 * float(part), mask_bit(int(bit))[1])
        for bit, part in (bits.items() if isinstance(bits, dict) else ())
    ]
    rows.sort(key=lambda row: -row[1])
    html = heading("What masks cost")
    if not rows:
        return html + paragraph("No pixel carries a mask bit.", kind="quiet")
    return html + table(["bit", "% of pixels", "why"], rows) + paragraph(MASKS, kind="quiet")


def _means(facts: dict[str, object], means: xr.Dataset) -> str:
    """Draw the mean spectrum of each class."""
    classes = facts["classes"]
    names = [str(name) for name in means["class"].values]
    rows = [int(classes[name]) for name in names] if isinstance(classes, dict) else []
    titles = ["all" if names == [UNKNOWN] else name for name in names]
    figure = figures_spectra.class_means(
        means["wavelength"].to_numpy(),
        *(means[name].to_numpy() for name in ("mean", "scatter", "coverage")),
        names=titles,
        rows=rows,
    )
    return heading("Mean spectra") + picture(figure, MEANS, wide=True)


def _components(found: xr.Dataset) -> str:
    """Draw the first principal components."""
    part = found["variance"].to_numpy() / max(float(found["total_variance"]), 1e-300)
    wavelength, vectors = found["wavelength"].to_numpy(), found["vectors"].to_numpy()
    figure = figures_spectra.components(wavelength, vectors, part)
    text = f"{len(part)} components hold {100 * part.sum():.1f} % of the variance. {COMPONENTS}"
    return heading("Principal components") + picture(figure, text, wide=True)
