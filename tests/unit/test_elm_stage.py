"""The closed-form network from partial sums, against the same network from all spectra at once."""

import numpy as np
import pytest
from labelled import LABELS, ROWS, N, spectra_with_labels, store_spectra

from scalespec.engines.local import LocalEngine
from scalespec.errors import StageError
from scalespec.models.elm import ExtremeLearning
from scalespec.models.regressor import describe
from scalespec.plan import plan_blocks
from scalespec.stages.elm import combined_sums, elm_sums_stage, learn_elm, training_sample
from scalespec.store.spectra import read_spectra


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A store of labelled spectra in two blocks."""
    return store_spectra(str(tmp_path_factory.mktemp("elm") / "train.zarr"), spectra_with_labels())


def drawn(source):
    """A network whose hidden layer is drawn, and all training spectra."""
    whole = training_sample(read_spectra(source, 0, N), LABELS)
    spectra = read_spectra(source, 0, 0)
    model = ExtremeLearning(
        describe("elm", LABELS, spectra["wavelength"].to_numpy(), whole), units=40
    )
    model.start(whole, 1)
    return model, whole


def test_sums_of_blocks_are_those_of_all_spectra(source, tmp_path):
    model, whole = drawn(source)
    stage = elm_sums_stage(source, str(tmp_path), model, plan_blocks(N, ROWS))
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
    stage = elm_sums_stage(source, str(tmp_path), model, plan_blocks(N, ROWS))
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
    first = training_sample(read_spectra(source, 0, ROWS), LABELS)
    fewer, _ = drawn(source)
    fewer.start(first, 1)
    fewer.finish(fewer.sums(first), first, first)
    theirs = np.abs(fewer.predict(whole.flux, whole.ivar).labels - whole.labels).mean(axis=0)
    assert not np.array_equal(error, theirs)  # the second block has taught it something


def test_sums_that_are_not_there_are_said(tmp_path):
    with pytest.raises(StageError, match="sums of 0 of 2 blocks are committed"):
        combined_sums(str(tmp_path), 2)


def test_labels_that_are_not_there_are_said(source):
    with pytest.raises(StageError, match=r"no label \['age'\]"):
        training_sample(read_spectra(source, 0, 3), ["age"])
