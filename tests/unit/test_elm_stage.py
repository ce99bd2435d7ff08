"""The closed-form network from partial sums, against the same network from all spectra at once."""

import numpy as np
import pytest
import torch
from labelled import HIGH, LABELS, LOW, ROWS, N, spectra_with_labels, store_spectra, truth

from scalespec.engines.local import LocalEngine
from scalespec.errors import ModelError, StageError
from scalespec.models.elm import ExtremeLearning
from scalespec.models.regressor import describe
from scalespec.plan import plan_blocks
from scalespec.stages.elm import combined_sums, elm_sums_stage, learn_elm, training_sample
from scalespec.stages.learning import split_of
from scalespec.store.spectra import create_spectra, read_spectra, write_spectra


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A store of labelled spectra in two blocks."""
    return store_spectra(str(tmp_path_factory.mktemp("elm") / "train.zarr"), spectra_with_labels())


def drawn(source):
    """A network whose hidden layer is drawn, and all training spectra."""
    whole = training_sample(read_spectra(source, 0, N), LABELS, seed=1)
    spectra = read_spectra(source, 0, 0)
    model = ExtremeLearning(
        describe("elm", LABELS, spectra["wavelength"].to_numpy(), whole), units=40
    )
    model.start(whole, 1)
    return model, whole


def test_sums_of_blocks_are_those_of_all_spectra(source, tmp_path):
    model, whole = drawn(source)
    stage = elm_sums_stage(source, str(tmp_path), model, plan_blocks(N, ROWS), seed=1)
    reports = list(LocalEngine().map(stage, stage.blocks))
    assert [report.error for report in reports] == ["", ""]
    made, expected = combined_sums(str(tmp_path), 2), model.sums(whole)
    np.testing.assert_allclose(made.hh, expected.hh, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(made.hy, expected.hy, rtol=1e-12, atol=1e-11)
    assert made.n.tolist() == expected.n.tolist() == [len(whole)] * 3
    learned = sum(report.result.counts["learned from"] for report in reports)
    assert learned == len(whole) < N  # neither validation nor test


def test_a_second_pass_stores_nothing_anew(source, tmp_path):
    model, _ = drawn(source)
    stage = elm_sums_stage(source, str(tmp_path), model, plan_blocks(N, ROWS), seed=1)
    first = [report.result for report in LocalEngine().map(stage, stage.blocks)]
    again = [report.result for report in LocalEngine().map(stage, stage.blocks)]
    assert first == again


def test_the_network_learns_from_every_block(source, tmp_path):
    model, whole = drawn(source)
    engine = LocalEngine()
    for stage in learn_elm(source, str(tmp_path), model, plan_blocks(N, ROWS), seed=1):
        list(engine.map(stage, stage.blocks))
    made = model.predict(whole.flux, whole.ivar).labels
    error = np.abs(made - whole.labels).mean(axis=0)
    assert np.all(error < 0.6 * whole.labels.std(axis=0))  # 0.8 would be the mean of all stars
    first = training_sample(read_spectra(source, 0, ROWS), LABELS, seed=1)
    fewer, _ = drawn(source)
    fewer.start(first, 1)
    fewer.finish(fewer.sums(first), first, first)
    theirs = np.abs(fewer.predict(whole.flux, whole.ivar).labels - whole.labels).mean(axis=0)
    assert not np.array_equal(error, theirs)  # the second block has taught it something


def library(n, seed):
    """A library: spectra of S/N 15, each of its own star; nothing says who is held back."""
    rng = np.random.default_rng(seed)
    spectra = spectra_with_labels(split=False).isel(spectrum=np.arange(n) % N)
    labels = LOW + rng.uniform(0, 1, (n, 3)) * (HIGH - LOW)
    with torch.inference_mode():
        flux = truth()(torch.tensor(labels)).numpy()
    spectra["flux"][:] = flux + rng.normal(0, 1 / 15, flux.shape)
    spectra["ivar"][:] = 15.0**2
    spectra["labels"][:] = labels
    return spectra


def stored(url, spectra, rows):
    """Store spectra in blocks of some rows; return their blocks."""
    n = spectra.sizes["spectrum"]
    create_spectra(url, spectra, n_spectrum=n, shard_rows=rows)
    for block in plan_blocks(n, rows):
        write_spectra(url, block, spectra.isel(spectrum=slice(block.start, block.stop)))
    return plan_blocks(n, rows)


def learned(url, blocks, folder, **options):
    """A network that has learned from a store, and how many stars the sums are of."""
    head = read_spectra(url, 0, blocks[0].stop)
    some = training_sample(head, LABELS, seed=1)
    model = ExtremeLearning(describe("elm", LABELS, head["wavelength"].to_numpy(), some), **options)
    learned_from = 0
    for stage in learn_elm(url, folder, model, blocks, seed=1):
        reports = list(LocalEngine().map(stage, stage.blocks))
        learned_from += sum(report.result.counts["learned from"] for report in reports)
    return model, learned_from


def test_errors_from_a_library_are_those_on_fresh_stars(tmp_path):
    """Of the stars that it learns from, a network of 600 units says errors a third smaller."""
    url = str(tmp_path / "library.zarr")
    blocks = stored(url, library(2000, 1), 1000)
    model, learned_from = learned(url, blocks, str(tmp_path / "sums"), units=600, components=40)
    dealt = split_of(read_spectra(url, 0, 2000), 1)
    assert learned_from == np.sum(dealt == 0) < 0.95 * 2000
    fresh = library(1500, 2)
    made = model.predict(fresh["flux"].to_numpy(), fresh["ivar"].to_numpy())
    pull = (made.labels - fresh["labels"].to_numpy()) / made.sigma
    assert np.abs(pull.std(axis=0) - 1).max() < 0.15


def test_a_librarys_parts_are_those_of_every_other_model(tmp_path):
    """Whatever the blocks: a row is dealt by its number in the store."""
    url = str(tmp_path / "library.zarr")
    blocks = stored(url, spectra_with_labels(split=False), ROWS)
    whole = read_spectra(url, 0, N)
    dealt = split_of(whole, 7)
    for part in (0, 1):
        found = [
            training_sample(
                read_spectra(url, b.start, b.stop), LABELS, seed=7, split=part, first=b.start
            )
            for b in blocks
        ]
        rows = np.concatenate([one.flux for one in found])
        np.testing.assert_array_equal(rows, whole["flux"].to_numpy()[dealt == part])


def test_validation_stars_of_other_blocks_are_found_and_none_is_refused(tmp_path):
    spectra = spectra_with_labels()
    spectra["split"][:] = np.where(np.arange(N) < ROWS, 0, spectra["split"])
    late = str(tmp_path / "late.zarr")
    blocks = stored(late, spectra, ROWS)
    model, _ = learned(late, blocks, str(tmp_path / "sums"), units=20, components=5)
    assert np.isfinite(model.state()["sigma"]).all()
    spectra["split"][:] = np.where(spectra["split"] == 1, 0, spectra["split"])
    none = str(tmp_path / "none.zarr")
    stored(none, spectra, ROWS)
    with pytest.raises(ModelError, match="no validation spectrum of S/N >= 0 with one of"):
        learned(none, blocks, str(tmp_path / "other"), units=20, components=5)


def test_sums_that_are_not_there_are_said(tmp_path):
    with pytest.raises(StageError, match="sums of 0 of 2 blocks are committed"):
        combined_sums(str(tmp_path), 2)


def test_labels_that_are_not_there_are_said(source):
    with pytest.raises(StageError, match=r"no label \['age'\]"):
        training_sample(read_spectra(source, 0, 3), ["age"], seed=1)
