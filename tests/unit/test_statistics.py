"""Sums over blocks: against xarray and numpy on all rows at once, and through the stage."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from scalespec.config import PreprocessTable, RunConfig, RunTable
from scalespec.kernels.wavelength import log_grid
from scalespec.plan import plan_blocks
from scalespec.run import run
from scalespec.schema import PER_SPECTRUM, MaskBit
from scalespec.stages import folders
from scalespec.stages.statistics import (
    add,
    block_statistics,
    components_of,
    mean_spectra,
    read_statistics,
    summary,
)
from scalespec.store.catalog import read_parts
from scalespec.store.ledger import Ledger, read_json
from scalespec.store.spectra import create_spectra, write_spectra

WAVELENGTH = log_grid(3.7, 1e-3, 60)
CLASSES = ["A", "K", "K", "G", "A", "K", "?"]


@pytest.fixture
def spectra():
    rng = np.random.default_rng(0)
    n = len(CLASSES)
    ivar = (rng.uniform(50, 100, (n, 60)) * (rng.random((n, 60)) > 0.2)).astype(np.float32)
    ivar[6] = 0
    flux = np.where(ivar > 0, 1 + 0.1 * rng.normal(size=ivar.shape), 0).astype(np.float32)
    mask = np.where(ivar > 0, 0, int(MaskBit.NO_IVAR)).astype(np.uint32)
    dims = ("spectrum", "wavelength")
    columns = {
        name: ("spectrum", np.full(n, unknown, dtype))
        for name, (dtype, unknown, _) in PER_SPECTRUM.items()
    }
    columns["snr"] = ("spectrum", np.array([5, 20, 30, 40, 80, 900, 0], np.float32))
    columns["rv"] = ("spectrum", np.zeros(n, np.float32))
    attrs = {
        "survey": "made up",
        "wavelength_medium": "vacuum",
        "frame": "rest",
        "flux_unit": "continuum",
        "resolving_power": 400.0,
    }
    pixels = {"flux": (dims, flux), "ivar": (dims, ivar), "mask": (dims, mask)}
    return xr.Dataset(pixels | columns, {"wavelength": WAVELENGTH}, attrs)


def test_sums_of_blocks_are_the_sum_of_all(spectra):
    whole = block_statistics(spectra, CLASSES, with_moments=True)
    parts = [
        block_statistics(spectra.isel(spectrum=slice(a, b)), CLASSES[a:b], with_moments=True)
        for a, b in ((0, 3), (3, 4), (4, 7))
    ]
    total = add(add(parts[0], parts[1]), parts[2])
    assert set(total.variables) == set(whole.variables)
    for name in whole.variables:
        np.testing.assert_allclose(total[name], whole[name]) if name != "class" else None
    assert total["class"].values.tolist() == whole["class"].values.tolist()


def test_a_block_without_rows_adds_nothing(spectra):
    one = block_statistics(spectra, CLASSES)
    none = block_statistics(spectra.isel(spectrum=slice(0, 0)), [])
    xr.testing.assert_allclose(add(one, none), one)


def test_summary_agrees_with_counting(spectra):
    made = summary(block_statistics(spectra, CLASSES))
    good = spectra["ivar"].to_numpy() > 0
    assert made["rows"] == 7
    assert made["spectra"] == 6
    assert made["coverage"] == pytest.approx(good.mean())
    assert made["classes"] == {"?": 1, "A": 2, "G": 1, "K": 3}
    assert made["bits"] == {2: pytest.approx(1 - good.mean())}
    assert sum(made["snr_counts"]) == 7
    assert made["snr_median"] == pytest.approx(30, rel=0.15)  # the width of a bin


def test_mean_spectra_agree_with_numpy(spectra):
    made = mean_spectra(block_statistics(spectra, CLASSES))
    flux, good = spectra["flux"].to_numpy(), spectra["ivar"].to_numpy() > 0
    for name in "AGK":
        rows = [i for i, c in enumerate(CLASSES) if c == name]
        here = np.ma.array(flux[rows], mask=~good[rows])
        one = made.sel({"class": name})
        np.testing.assert_allclose(one["mean"], here.mean(axis=0).filled(0), atol=1e-6)
        # The difference of squares near 1 in float64.
        np.testing.assert_allclose(one["scatter"], here.std(axis=0).filled(0), atol=1e-6)
        np.testing.assert_allclose(one["coverage"], good[rows].mean(axis=0))
    assert not made.sel({"class": "?"})["mean"].any()


def test_components_agree_with_the_singular_value_decomposition(spectra):
    spectra["ivar"][:6] = 1.0
    spectra = spectra.isel(spectrum=slice(0, 6))
    found = components_of(block_statistics(spectra, CLASSES[:6], with_moments=True), 3)
    flux = spectra["flux"].to_numpy().astype(float)
    values = np.linalg.svd(flux - flux.mean(axis=0))[1]
    np.testing.assert_allclose(found.variance, values[:3] ** 2 / 5, rtol=1e-6)


def test_the_stage_keeps_what_the_sums_say(spectra, tmp_path):
    source = f"{tmp_path}/source/spectra.zarr"
    create_spectra(source, spectra, n_spectrum=7, shard_rows=4)
    for block in plan_blocks(7, 4):
        write_spectra(source, block, spectra.isel(spectrum=slice(block.start, block.stop)))
    table = PreprocessTable(
        source=source, steps=("mask",), windows=(), statistics=True, components=2
    )
    config = RunConfig(
        run=RunTable(name="t", workspace=f"{tmp_path}/work", spectra_per_block=4), preprocess=table
    )
    assert run(config, engine="local").exit_code == 0
    folder = folders.spectra_url(config)
    whole = block_statistics(spectra, ["?"] * 7)
    assert read_json(f"{folder}/statistics/summary.json") == {
        **summary(whole),
        "bits": {str(k): v for k, v in summary(whole)["bits"].items()},  # as JSON has it
    }
    xr.testing.assert_allclose(read_statistics(folder, "mean_spectra"), mean_spectra(whole))
    kept = read_statistics(folder, "components")
    assert kept["vectors"].shape == (2, 60)
    np.testing.assert_allclose(kept["wavelength"], WAVELENGTH)


def many(spectra, n):
    """Return n spectra that differ along three directions, and noise; the last has no pixel."""
    rng = np.random.default_rng(4)
    basis = np.linalg.qr(rng.normal(size=(60, 3)))[0].T
    flux = 1 + rng.normal(size=(n, 3)) * [0.3, 0.2, 0.1] @ basis + rng.normal(0, 1e-3, (n, 60))
    made = spectra.isel(spectrum=np.zeros(n, int)).copy(deep=True)
    ivar = np.where(np.arange(n)[:, np.newaxis] < n - 1, np.float32(1e6), np.float32(0))
    dims = ("spectrum", "wavelength")
    ivar = np.broadcast_to(ivar, flux.shape)
    return made.assign(flux=(dims, flux.astype(np.float32)), ivar=(dims, ivar.copy()))


def test_components_of_a_run_in_blocks_are_those_of_numpy_and_give_every_spectrum_its_place(
    spectra, tmp_path
):
    stars, size = many(spectra, 39), 8
    source = f"{tmp_path}/source/spectra.zarr"
    create_spectra(source, stars, n_spectrum=39, shard_rows=size)
    for block in plan_blocks(39, size):
        write_spectra(source, block, stars.isel(spectrum=slice(block.start, block.stop)))
    table = PreprocessTable(
        source=source, steps=("mask",), windows=(), statistics=True, components=3
    )
    config = RunConfig(
        run=RunTable(name="t", workspace=f"{tmp_path}/work", spectra_per_block=size),
        preprocess=table,
    )
    assert run(config, engine="local").exit_code == 0
    target = f"{folders.spectra_url(config)}/statistics"
    assert sorted(Ledger(target).done()) == [0, 1, 2, 3, 4]
    flux = stars["flux"].to_numpy()[:38].astype(np.float64)
    _, values, vectors = np.linalg.svd(flux - flux.mean(axis=0), full_matrices=False)
    kept = read_statistics(folders.spectra_url(config), "components")
    np.testing.assert_allclose(kept["variance"], values[:3] ** 2 / 37, rtol=1e-6)
    largest = np.abs(vectors[:3]).argmax(axis=1)
    signed = vectors[:3] * np.sign(vectors[np.arange(3), largest])[:, np.newaxis]
    np.testing.assert_allclose(kept["vectors"], signed, atol=1e-6)
    (folder,) = [path for path in Path(target, "scores").iterdir() if path.is_dir()]
    scores = read_parts(str(folder)).to_pandas()
    assert scores["row"].tolist() == list(range(39))
    found = np.stack(scores["scores"])
    # float32 of numbers below 1.
    np.testing.assert_allclose(found[:38], (flux - flux.mean(axis=0)) @ signed.T, atol=1e-5)
    assert not found[38].any()
    again = run(config, engine="local")
    assert again.done == 0
