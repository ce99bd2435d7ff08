"""The Cannon trained by pixels: the same as trained in one piece, on lines brought to rest."""

import numpy as np
import pytest
import torch
from labelled import LABELS, N_PIXEL, ROWS, WAVELENGTH, spectra_with_labels, store_spectra, truth

from scalespec.config import RunConfig, RunTable, TrainTable
from scalespec.engines.local import LocalEngine
from scalespec.errors import StageError
from scalespec.models.base import shift_flux
from scalespec.models.cannon import Cannon
from scalespec.models.regression import fit_pixels
from scalespec.run import Runner
from scalespec.stages import folders, pixels
from scalespec.stages.pixels import at_rest, censored_by, choose, train_pixels
from scalespec.store import paths
from scalespec.store.ledger import Ledger
from scalespec.store.model import load_model, model_record


def table_of(**options):
    return TrainTable(**({"labels": LABELS, "catalog": "a", "model": "cannon"} | options))


@pytest.fixture
def urls(monkeypatch, tmp_path):
    """Folders of pieces, pixels and the model; upstream stages are not run here."""
    monkeypatch.setattr(folders, "pixels_url", lambda _, part: str(tmp_path / part / ("0" * 16)))
    monkeypatch.setattr(pixels, "PIXELS_PER_BLOCK", 50)  # three blocks of 120 pixels
    return str(tmp_path / "model")


def config_of(tmp_path, table):
    run = RunTable(name="t", workspace=str(tmp_path), seed=1)
    return RunConfig.model_construct(run=run, train=table)


def train(tmp_path, url, source, **options):
    """Run the stages one after another, blocks in this process; return the model."""
    config = config_of(tmp_path, table_of(**options))
    for stage in train_pixels(config, source, url):
        reports = list(LocalEngine().map(stage, stage.blocks))
        assert [r.error for r in reports] == [""] * len(stage.blocks)
    return load_model(url)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return store_spectra(str(tmp_path_factory.mktemp("s") / "train.zarr"), spectra_with_labels())


def test_blocks_make_the_model_that_one_piece_makes(source, urls, tmp_path):
    model = train(tmp_path, urls, source)
    sample = choose(source, table_of(), 1)
    labels, flux, ivar, displacement = sample.training.read(np.arange(len(sample.training.rows)))
    flux, ivar = at_rest(flux, ivar, displacement)
    x = (labels - sample.spec.minimum) / (sample.spec.maximum - sample.spec.minimum) - 0.5
    whole = fit_pixels(torch.from_numpy(x), torch.from_numpy(flux), torch.from_numpy(ivar))
    assert isinstance(model, Cannon)
    # float32 of coefficients of order 1
    torch.testing.assert_close(model.coefficients, whole.coefficients.float(), rtol=0, atol=1e-6)
    torch.testing.assert_close(model.scatter, whole.scatter.float(), rtol=0, atol=1e-6)


def test_the_model_says_what_it_is_and_what_it_was_made_of(source, urls, tmp_path):
    model = train(tmp_path, urls, source)
    assert model.spec.labels == LABELS
    np.testing.assert_array_equal(model.spec.wavelength, WAVELENGTH)
    metadata = model_record(urls)["metadata"]
    assert metadata["n_training"] == 160
    assert metadata["n_validation"] == 20
    assert metadata["source"] == "train.zarr"


def test_a_higher_order_comes_nearer_the_truth(source, urls, tmp_path):
    rms = {}
    for order in (1, 2):
        train(tmp_path / str(order), f"{urls}-{order}", source, order=order)
        rms[order] = model_record(f"{urls}-{order}")["metadata"]["history"][0]["validation_rms"]
        for part in folders.PIXEL_PARTS:
            paths.delete_tree(folders.pixels_url(None, part))
    assert rms[2] < 0.7 * rms[1]


def test_lines_are_brought_to_rest():
    spectra = spectra_with_labels()
    labels = torch.from_numpy(spectra["labels"].to_numpy()[:20])
    with torch.no_grad():
        rest = truth()(labels)
    displacement = torch.linspace(-0.5, 0.5, 20)
    moved = shift_flux(rest, displacement).numpy()
    flux, ivar = at_rest(moved, np.ones_like(moved), displacement.numpy())
    inside = slice(9, -9)  # beyond the ends nothing is known
    error = np.abs(flux - rest.numpy())[:, inside].mean()
    displaced = np.abs(moved - rest.numpy())[:, inside].mean()
    assert error < 0.03 * displaced  # what two interpolations of lines 2.6 pixels wide leave
    assert ivar.all()


def noisy_spectra(displaced):
    """Spectra whose pixels scatter by 0.02 beside noise of 0.04, lines off rest or at it."""
    rng = np.random.default_rng(5)
    spectra = spectra_with_labels()
    dims = ("spectrum", "wavelength")
    shape = spectra["flux"].shape
    flux = 1 + np.hypot(0.02, 0.04) * rng.standard_normal(shape)
    rv = spectra["rv"].to_numpy()
    columns = {"rv": ("spectrum", rv if displaced else spectra["rv_shift"].to_numpy())}
    pixels = {"flux": (dims, flux.astype("f4")), "ivar": (dims, np.full(shape, 0.04**-2, "f4"))}
    return spectra.assign(columns | pixels)


def test_lines_brought_to_rest_leave_the_learned_scatter(urls, tmp_path):
    scatter = {}
    for displaced in (False, True):
        folder = tmp_path / str(displaced)
        source = store_spectra(str(folder / "train.zarr"), noisy_spectra(displaced))
        model = train(folder, f"{urls}-{displaced}", source, order=1)
        scatter[displaced] = float(model.scatter.square().mean().sqrt())
        for part in folders.PIXEL_PARTS:
            paths.delete_tree(folders.pixels_url(None, part))
    assert scatter[False] == pytest.approx(0.02, rel=0.1)  # 160 spectra, 120 pixels: 4 %
    assert scatter[True] == pytest.approx(scatter[False], rel=0.1)


def test_ivar_at_rest_is_that_of_noise_at_rest():
    rng = np.random.default_rng(2)
    ivar = np.full((300, 200), 400.0, np.float32)
    flux = (1 + rng.standard_normal(ivar.shape) / 20).astype(np.float32)
    moved, kept = at_rest(flux, ivar, np.linspace(-0.5, 0.5, 300).astype(np.float32))
    pull = ((moved - 1) * np.sqrt(kept))[:, 9:-9]  # the last pixel repeats beyond the ends
    assert pull.std() == pytest.approx(1.0, abs=0.01)  # of 54,600 pixels: 0.003


def test_a_bad_pixel_taints_its_neighbors_by_its_share():
    flux, ivar = np.ones((3, 40), np.float32), np.ones((3, 40), np.float32)
    flux[:, 20], ivar[:, 20] = 1e6, 0.0
    moved, kept = at_rest(flux, ivar, np.array([0.0, 0.5, 0.02], np.float32))
    assert np.flatnonzero(kept[0] == 0).tolist() == [20]
    assert {19, 20} <= set(np.flatnonzero(kept[1] == 0).tolist())  # it is half of both
    assert np.flatnonzero(kept[2] == 0).tolist() == [20]
    np.testing.assert_allclose(moved[kept > 0], 1.0, atol=1e-5)


def test_a_spectrum_without_information_stays_so():
    zero = np.zeros((1, 40), np.float32)
    flux, ivar = at_rest(zero, zero, np.array([0.3], np.float32))
    assert not flux.any()
    assert not ivar.any()


def test_windows_censor_all_other_pixels(source, urls, tmp_path):
    low, high = float(WAVELENGTH[30]), float(WAVELENGTH[60])
    options = {"windows": {"logg": [[low, high]]}, "order": 1}
    sample = choose(source, table_of(**options), 1)
    censored = censored_by(sample.spec, sample.table)
    assert censored.sum(dim=0).tolist() == [0, N_PIXEL - 31, 0]
    model = train(tmp_path, urls, source, **options)
    slope = model.coefficients[:, 1 + LABELS.index("logg")].abs()
    assert slope[censored[:, 1]].max() == 0
    assert slope[30:61].min() > 0


def test_a_block_that_failed_ends_training_with_its_name(source, urls, tmp_path, monkeypatch):
    stages = train_pixels(config_of(tmp_path, table_of()), source, urls)
    next(stages)  # and none of its blocks is done
    with pytest.raises(StageError, match=r"train pieces: blocks \[0, 1\] of 2 failed"):
        next(stages)


def test_the_reason_of_a_failed_block_is_said(source, urls, tmp_path):
    stages = train_pixels(config_of(tmp_path, table_of()), source, urls)
    cut = next(stages)
    Ledger(cut.url).record_failure(cut.blocks[1], "ModelError: no label 'mg_fe'")
    with pytest.raises(StageError, match=r"failed, block 1: ModelError: no label 'mg_fe': a model"):
        next(stages)


def test_what_is_done_is_not_done_again(source, urls, tmp_path, monkeypatch):
    train(tmp_path, urls, source)
    before = model_record(urls)["weights_sha256"]
    monkeypatch.setattr(pixels, "fit_pixels", None)  # would fail
    config = config_of(tmp_path, table_of())
    runner = Runner(config, "local")
    for stage in train_pixels(config, source, urls):
        runner.map(stage)
    assert runner.summary.done == 0
    assert runner.summary.resumed == N_PIXEL // 50 + 1 + 2 + 1
    assert model_record(urls)["weights_sha256"] == before


def test_pieces_are_cut_along_the_stores_own_blocks(source, urls, tmp_path):
    stage = next(iter(train_pixels(config_of(tmp_path, table_of()), source, urls)))
    assert [(b.start, b.stop) for b in stage.blocks] == [(0, ROWS), (ROWS, 2 * ROWS)]
