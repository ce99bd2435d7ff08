"""The training set of a run: wrong labels out, crowds thinned, corners filled; tests untouched."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from scalespec.config import TrainingSetTable
from scalespec.errors import ConfigError, StageError
from scalespec.plan import plan_blocks
from scalespec.stages import folders
from scalespec.stages.gather import gather, read_matches
from scalespec.stages.training_set import (
    N_FEATURES,
    check_library,
    features,
    features_stage,
    read_chosen,
    training_rows,
)
from scalespec.store import paths
from scalespec.store.spectra import create_spectra, read_spectra, write_spectra

LABELS = ["teff", "fe_h"]
CELLS = {"teff": 500.0, "fe_h": 0.5}


def matches_of(n=400, seed=0):
    rng = np.random.default_rng(seed)
    rows = np.arange(n)
    own = {"row": rows, "obsid": rows, "star": rng.permutation(n) + 10**12}
    own |= {"split": rng.choice([0, 0, 0, 1, 2], n).astype(np.uint8), "by_id": True}
    own |= {"rank": 0, "n_candidates": 1, "separation_arcsec": np.float32(0)}
    labels = {"teff": rng.normal(5000, 600, n), "fe_h": rng.normal(-0.3, 0.4, n)}
    return pd.DataFrame(own | labels)


def cell_sizes(rows, split=0):
    here = rows[rows["split"] == split]
    return np.unique(np.floor(here[LABELS] / list(CELLS.values())), axis=0, return_counts=True)


def test_without_wishes_every_match_is_kept_as_it_is():
    matches = matches_of()
    chosen = training_rows(matches, LABELS, TrainingSetTable(), "")
    pd.testing.assert_frame_equal(chosen[list(matches)], matches)
    assert (chosen["reason"] == "").all()


def test_crowded_cells_are_thinned_among_training_stars_alone():
    matches = matches_of()
    table = TrainingSetTable(flatten=15, cells=CELLS)
    chosen = training_rows(matches, LABELS, table, "")
    assert cell_sizes(matches)[1].max() > 15
    assert cell_sizes(chosen)[1].max() == 15
    crowded = chosen["reason"] == "crowded"
    assert (chosen["split"][crowded] == 3).all()
    assert (matches["split"][crowded] == 0).all()
    np.testing.assert_array_equal(chosen["split"][~crowded], matches["split"][~crowded])


def test_a_label_of_the_cells_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"training\.cells: \['logg'\] are no labels; .*'teff'"):
        training_rows(matches_of(), LABELS, TrainingSetTable(flatten=5), "")


def test_features_are_means_of_good_pixels_and_the_continuum_where_there_is_none():
    rng = np.random.default_rng(1)
    flux, good = rng.normal(1, 0.1, (3, 1000)), rng.random((3, 1000)) < 0.5
    good[1, :300] = False
    spectra = xr.Dataset(
        {name: (("spectrum", "wavelength"), values.astype(np.float32))
         for name, values in (("flux", np.where(good, flux, 0)), ("ivar", good))}
    )  # fmt: skip
    made = features(spectra)
    edges = np.linspace(0, 1000, N_FEATURES + 1).astype(int)
    for i in range(3):
        for k in range(N_FEATURES):
            part = slice(edges[k], edges[k + 1])
            mean = flux[i, part][good[i, part]].mean() if good[i, part].any() else 1.0
            assert made[i, k] == pytest.approx(mean, abs=1e-6)  # float32


def store_of(url, labels, rng, n_pixel=200, rows=100, **attrs):
    """A store of spectra that are smooth functions of their labels, which it holds, too."""
    n = len(labels)
    t, m = (labels[:, 0] - 5000) / 600, (labels[:, 1] + 0.3) / 0.4
    x = np.linspace(0, 1, n_pixel)
    flux = (
        1 - 0.1 * t[:, None] * x - 0.05 * m[:, None] * (1 - x) + rng.normal(0, 1e-3, (n, n_pixel))
    )
    data = {"flux": flux.astype("f4"), "ivar": np.full((n, n_pixel), 1e6, "f4")}
    made = xr.Dataset(
        {k: (("spectrum", "wavelength"), v) for k, v in data.items()}
        | {
            "labels": (("spectrum", "label"), labels.astype("f4")),
            "snr": ("spectrum", t.astype("f4")),
        }
        | {"obsid": ("spectrum", np.arange(n) + 900)},
        {"wavelength": np.linspace(4000, 5000, n_pixel)},
        {"label_names": LABELS, "normalization": {"method": "continuum"}, **attrs},
    )
    blocks = plan_blocks(n, rows)
    create_spectra(url, made.isel(spectrum=slice(0, rows)), n_spectrum=n, shard_rows=rows)
    for block in blocks:
        write_spectra(url, block, made.isel(spectrum=slice(block.start, block.stop)))
    return made


def test_wrong_labels_are_left_out_of_training_and_never_of_the_test(tmp_path, tiny):
    matches = matches_of()
    rng = np.random.default_rng(2)
    store_of(f"{tmp_path}/s.zarr", matches[LABELS].to_numpy(), rng)
    wrong = rng.choice(400, 20, replace=False)
    matches.loc[wrong, "teff"] += 1500
    url = f"{tmp_path}/features"
    tiny.run_stage([features_stage("a", url, (f"{tmp_path}/s.zarr", matches, 150))])
    chosen = training_rows(matches, LABELS, TrainingSetTable(outlier_sigma=6), url)
    out = np.flatnonzero(chosen["reason"] == "outlier")
    expected = wrong[matches["split"][wrong] != 2]
    assert set(expected) <= set(out)
    assert len(out) <= len(expected) + 4
    assert (chosen["split"][out] == 3).all()
    assert (chosen["split"][matches["split"] == 2] == 2).all()


def test_features_that_are_missing_stop_the_selection(tmp_path, tiny):
    matches = matches_of()
    store_of(f"{tmp_path}/s.zarr", matches[LABELS].to_numpy(), np.random.default_rng(2))
    stage = features_stage("a", f"{tmp_path}/features", (f"{tmp_path}/s.zarr", matches, 150))
    stage.write(stage.blocks[0], stage.compute(None, stage.read(stage.blocks[0])))
    with pytest.raises(StageError, match=r"features of 150 spectra, 400 were matched.*--retry"):
        training_rows(matches, LABELS, TrainingSetTable(outlier_sigma=6), stage.url)


@pytest.fixture
def library(tmp_path):
    rng = np.random.default_rng(3)
    labels = np.stack([rng.uniform(3500, 6500, 600), rng.uniform(-2, 1, 600)], axis=1)
    return store_of(f"{tmp_path}/library.zarr", labels, rng), f"{tmp_path}/library.zarr", labels


def test_sparse_corners_are_filled_from_the_library(library):
    _, url, labels = library
    matches = matches_of()
    table = TrainingSetTable(fill=8, library=url, cells=CELLS)
    chosen = training_rows(matches, LABELS, table, "")
    added = chosen[chosen["reason"] == "library"]
    assert len(added) > 20
    assert (added["split"] == 0).all()
    np.testing.assert_allclose(added[LABELS], labels[-1 - added["row"]], rtol=1e-6)  # float32
    assert not set(added["star"]) & set(matches["star"])
    before = dict(zip(*(map(tuple, cell_sizes(matches)[0]), cell_sizes(matches)[1]), strict=True))
    cells, sizes = cell_sizes(chosen)
    for cell, size in zip(map(tuple, cells), sizes, strict=True):
        assert size <= max(8, before.get(cell, 0))


def test_spectra_of_the_library_stand_beside_those_of_the_survey(library, tmp_path):
    theirs, url, _ = library
    ours = store_of(f"{tmp_path}/s.zarr", matches_of()[LABELS].to_numpy(), np.random.default_rng(4))
    rows = pd.DataFrame({"row": [5, -1, 399, -1 - 77]})
    made = read_chosen(rows, f"{tmp_path}/s.zarr", url)
    for i, (source, row) in enumerate(((ours, 5), (theirs, 0), (ours, 399), (theirs, 77))):
        for name in ("flux", "ivar", "snr"):
            np.testing.assert_array_equal(made[name][i], source[name][row])
    assert made["obsid"].to_numpy().tolist() == [905, -1, 1299, -1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"n_pixel": 100}, "has 100 pixels, .* the spectra 200"),
        ({"normalization": {"method": "other"}}, "is normalized by .*other"),
    ],
)
def test_a_library_on_other_terms_is_refused(more, message, library, tmp_path):
    rng = np.random.default_rng(5)
    store_of(f"{tmp_path}/other.zarr", library[2][:50], rng, rows=50, **more)
    with pytest.raises(ConfigError, match=message):
        check_library(read_spectra(library[1], 0, 0), f"{tmp_path}/other.zarr")


def test_a_library_without_a_label_of_the_cells_is_refused(library):
    matches = matches_of().assign(logg=4.0)
    table = TrainingSetTable(fill=8, library=library[1], cells={"logg": 0.5})
    with pytest.raises(ConfigError, match=r"training\.library: .* has no label \['logg'\]"):
        training_rows(matches, [*LABELS, "logg"], table, "")


def test_the_runs_store_says_what_became_of_each_row(tiny, tiny_run):
    config = tiny_run.config
    training = TrainingSetTable(flatten=1, cells={"teff": 1e6})
    table = config.crossmatch["apogee"].model_copy(update={"training": training})
    wishing = config.model_copy(update={"crossmatch": {"apogee": table}})
    old, new = (folders.matches_url(one, "apogee") for one in (config, wishing))
    paths.write_bytes(f"{new}/matches.parquet", paths.read_bytes(f"{old}/matches.parquet"))
    tiny.run_stage(gather(wishing, "apogee"))
    url = folders.training_url(wishing, "apogee")
    made = read_spectra(f"{url}/train.zarr", 0, 10**6)
    n = len(read_matches(new))
    assert np.bincount(made["split"].to_numpy()).tolist() == [1, 0, 0, n - 1]
    assert made.sizes["spectrum"] == n
