"""One star drawn with its best fit; what a store, model, catalog or run holds, in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import xarray as xr

from scalespec import figures
from scalespec.config import RunConfig, load_config
from scalespec.errors import StoreError
from scalespec.models.base import Emulator
from scalespec.models.baselines import Baseline
from scalespec.models.networks import Regressor
from scalespec.optimize.objective import Objective, Smoother, as_rows
from scalespec.optimize.result import FitStatus
from scalespec.plan import Block
from scalespec.schema import SpectrumStatus, status_names
from scalespec.stages import folders
from scalespec.stages.card import card_text
from scalespec.stages.columns import label_facts, label_names, label_title
from scalespec.stages.emulators import load_ready
from scalespec.stages.ingest import read_index
from scalespec.store import paths
from scalespec.store.catalog import MANIFEST, catalog_folder, read_part
from scalespec.store.ledger import Ledger, current, read_json
from scalespec.store.model import model_record, standing_model
from scalespec.store.regressor import open_model
from scalespec.store.spectra import count_spectra, open_spectra, read_spectra

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Fitted:
    """A model as the fit used it: on the store's grid, at its resolution, with its smoothing."""

    model: Emulator
    smoother: Smoother | None


def load_fitted(config: RunConfig, store: str, device: str = "cpu") -> list[Fitted]:
    """Load the run's models as the fit used them on the spectra store `store`."""
    head = read_spectra(store, 0, 0)
    grid, attrs = head["wavelength"].to_numpy(), dict(head.attrs)
    ready = load_ready(folders.model_urls(config), grid, attrs, device=device)
    return [Fitted(one.model, one.smoothing) for one in ready]


def best_fit_flux(
    fitted: Sequence[Fitted], spectra: xr.Dataset, best: Mapping[str, npt.NDArray[Any]]
) -> FloatArray:
    """Return the flux of each star's best fit as its data would show it without noise.

    Parameters
    ----------
    fitted : sequence of Fitted
        The models, in the order that ``best["model"]`` counts.
    spectra : xr.Dataset
        n preprocessed spectra: their pixels with weight say how a model is normalized.
    best : mapping of str to (n,) array
        Columns of a fit: model, rv_residual and every label.

    Returns
    -------
    (n, n_pixel) float32
        NaN where a star has no fit.
    """
    flux = np.full(spectra["flux"].shape, np.nan, np.float32)
    for number, one in enumerate(fitted):
        spec = one.model.spec
        labels = np.stack([np.asarray(best[name], np.float64) for name in spec.labels], axis=1)
        known = np.isfinite(labels).all(axis=1) & (np.asarray(best["model"]) == number)
        rows = np.flatnonzero(known)
        if not len(rows):
            continue
        scaled = (labels[rows] - spec.minimum) / (spec.maximum - spec.minimum) - 0.5
        like = one.model.scatter
        rv = as_rows(np.asarray(best["rv_residual"], np.float32)[rows], like)
        with torch.inference_mode():
            objective = Objective.of(
                one.model,
                as_rows(spectra["flux"].to_numpy()[rows], like),
                as_rows(spectra["ivar"].to_numpy()[rows], like),
                rv_start=rv,
                rv_range=1.0,  # any: the velocity stays at its start
                smoother=one.smoother,
            )
            parameters = torch.cat([as_rows(scaled, like), torch.zeros_like(rv)[:, None]], dim=1)
            flux[rows] = objective.predict(parameters).cpu().numpy()
    return flux


def status_text(status: int, flags: type[IntFlag]) -> str:
    """Return the names of the bits that are set, or ``OK``.

    Examples
    --------
    >>> status_text(5, FitStatus)
    'MAX_STEPS, AT_BOUND'
    """
    names = [str(flag.name) for flag in flags if status & flag.value]
    return ", ".join(names) or "OK"


def star_title(star: Mapping[str, Any], labels: Sequence[str]) -> str:
    """Return what is known of one star, in two lines; the second is empty without a fit."""
    status = status_text(int(star["fit_status"]), FitStatus)
    parts = []
    for name in labels[:3]:
        if np.isfinite(star[name]):
            digits = 0 if label_facts(name)[0] == "K" else 2
            value, err = star[name], star[f"{name}_err"]
            parts.append(f"{label_title(name)} {value:.{digits}f} ± {err:.{digits}f}")
    if parts and star["n_used"]:
        parts.append(f"χ²/pixel {star['chi2'] / star['n_used']:.2f}")
    return f"obsid {star['obsid']} · S/N {star['snr']:.0f} · {status}\n" + " · ".join(parts)


def draw_star(config: RunConfig, obsid: int, picture: str | Path) -> str:
    """Draw one spectrum with its best fit, and return what is known of it.

    Parameters
    ----------
    config : RunConfig
        A run that has come at least to preprocess.
    obsid : int
        Which spectrum.
    picture : path
        To write; its ending is one of `figures.PICTURES`.

    Raises
    ------
    StoreError
        If no spectrum of the run has this obsid.
    """
    store = folders.spectra_store(config)
    n = count_spectra(store)
    found = np.flatnonzero(read_spectra(store, 0, n, names=["obsid"])["obsid"].to_numpy() == obsid)
    if not len(found):
        raise StoreError(f"{store}: none of its {n} spectra has obsid {obsid}")
    row = int(found[0])
    block = next(b for b in folders.planned_blocks(config) if b.start <= row < b.stop)
    spectra = read_spectra(store, row, row + 1)
    status = status_text(int(spectra["status"][0]), SpectrumStatus)
    lines = [f"obsid {obsid}: row {row}, block {block.index}, spectrum: {status}"]
    index = read_index(folders.raw_url(config), block).iloc[row - block.start]
    lines += [
        f"  {name}: {value}" for name, value in index.items() if str(value) not in ("", "nan")
    ]
    best = _best_row(config, block, row - block.start)
    model, title = None, lines[0]
    if best is not None:
        labels = label_names(best)
        star = {name: values[0] for name, values in best.items()}
        title = star_title(star | {"snr": float(spectra["snr"][0])}, labels)
        lines += [f"  fit: {status_text(int(star['fit_status']), FitStatus)}"]
        lines += [_line(name, star) for name in (*labels, "rv") if np.isfinite(star[name])]
        fit = best_fit_flux(load_fitted(config, store), spectra, best)[0]
        model = fit if np.isfinite(fit).all() else None
    wavelength, flux, ivar = (spectra[name].to_numpy() for name in ("wavelength", "flux", "ivar"))
    figure = figures.spectrum_fit(wavelength, flux[0], ivar[0], model, title=title)
    form = Path(picture).suffix.removeprefix(".").lower()
    Path(picture).write_bytes(figures.to_picture(figure, form))
    return "\n".join(lines)


def _best_row(config: RunConfig, block: Block, place: int) -> dict[str, npt.NDArray[Any]] | None:
    """Return one row of the best labels, or None if the block is not fitted."""
    if config.fit is None:
        return None
    url = folders.best_url(config)
    if Ledger(url).committed(block) is None:
        return None
    table: pa.Table = read_part(url, block).slice(place, 1)
    return {name: table[name].to_numpy() for name in table.column_names}


def _line(name: str, star: Mapping[str, Any]) -> str:
    unit = "km/s" if name == "rv" else label_facts(name)[0]
    return f"  {name}: {star[name]:.4g} ± {star[f'{name}_err']:.2g} {unit}".rstrip()


def inspect_url(url: str) -> str:
    """Say what a spectra store, model, catalog, workspace or run file holds.

    Raises
    ------
    StoreError
        If it is none of these.
    """
    if paths.plain(url).endswith(".toml"):
        url = load_config(url).run.workspace
    if paths.exists(paths.join(url, MANIFEST)):
        return _catalog_text(url)
    if paths.exists(paths.join(url, "zarr.json")):
        return _spectra_text(url)
    if paths.plain(url).endswith(".npz") or paths.exists(
        paths.join(standing_model(url), "model.json")
    ):
        return _model_text(url)
    if paths.exists(paths.join(url, "run.json")):
        return _workspace_text(url)
    raise StoreError(f"{url}: no spectra store, model, catalog, workspace or run file of ours")


def _catalog_text(url: str) -> str:
    manifest = read_json(paths.join(url, MANIFEST))
    lines = [f"catalog {manifest['key']}: {manifest['rows']:,} rows"]
    if manifest["missing_blocks"]:
        lines.append(f"blocks missing: {manifest['missing_blocks']}")
    lines += [
        f"  {c['name']:<24}{c['type']:<12.12}{c['unit']:<8}{c['description']}"
        for c in manifest["columns"]
    ]
    return "\n".join(lines)


def _spectra_text(url: str) -> str:
    spectra = open_spectra(url)
    grid = spectra["wavelength"].to_numpy()
    counts = status_names(spectra["status"].to_numpy(), SpectrumStatus)
    size = f"{spectra.sizes['spectrum']:,} of {len(grid):,} pixels"
    lines = [
        f"spectra: {size}, {grid[0]:.2f}-{grid[-1]:.2f} Å in vacuum",
        "status: " + ", ".join(f"{name} {n:,}" for name, n in counts.items()),
    ]
    lines += [f"  {name:<18}{v.dtype!s:<9}{v.dims}" for name, v in spectra.variables.items()]
    lines += [f"  {key} = {value}" for key, value in spectra.attrs.items()]
    return "\n".join(lines)


def _regressor_text(model: Regressor | Baseline) -> str:
    spec = model.spec
    grid = spec.wavelength
    if isinstance(model, Baseline):
        kind = model.name
    else:
        kind = f"{model.options['members']} x {model.options['network']}"
    beside = f", beside {', '.join(spec.inputs)}" if spec.inputs else ""
    lines = [
        f"regressor {spec.name}: {kind}, flux to labels",
        f"grid: {len(grid):,} pixels, {grid[0]:.2f}-{grid[-1]:.2f} Å in vacuum{beside}",
        f"normalization: {dict(spec.normalization)}, R = {spec.resolving_power}",
    ]
    scales = zip(spec.labels, spec.label_mean, spec.label_std, strict=True)
    lines += [
        f"  {n:<12}{mean:>10.4g} ± {std:<10.4g}{label_facts(n)[0]}" for n, mean, std in scales
    ]
    return "\n".join(lines)


def _model_text(url: str) -> str:
    model = open_model(url)
    if isinstance(model, Regressor | Baseline):
        return "\n".join([_regressor_text(model), *_card_lines(url)])
    spec = model.spec
    grid = spec.wavelength
    lines = [
        f"model {spec.name}: {len(spec.labels)} labels, R = {spec.resolving_power}",
        f"grid: {len(grid):,} pixels, {grid[0]:.2f}-{grid[-1]:.2f} Å in vacuum",
        f"normalization: {dict(spec.normalization)}",
    ]
    ranges = zip(spec.labels, spec.minimum, spec.maximum, strict=True)
    lines += [
        f"  {n:<12}{low:>10.4g} to {high:<10.4g}{label_facts(n)[0]}" for n, low, high in ranges
    ]
    return "\n".join(lines + _card_lines(url))


def _card_lines(url: str) -> list[str]:
    """Return a model's card, if it has one, as lines."""
    card = None if paths.plain(url).endswith(".npz") else model_record(url)["metadata"].get("card")
    return card_text(card) if card else []


def _workspace_text(url: str) -> str:
    name = read_json(paths.join(url, "run.json"))["config"]["run"]["name"]
    lines = [f"workspace of the run '{name}'"]
    for stage in ("raw", "spectra", "first", "best", "catalog"):
        if record := current(url, stage):
            commits = Ledger(paths.join(url, stage, record["digest"])).commits().values()
            rows = sum(result.rows for result in commits)
            lines.append(f"  {stage:<9}{record['digest']}  {len(commits)} blocks, {rows:,} rows")
    try:
        folder = catalog_folder(url)
    except StoreError:
        return "\n".join([*lines, "no catalog yet"])
    return "\n".join([*lines, _catalog_text(folder)])
