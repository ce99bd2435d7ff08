"""Reference gradients: read, brought to the data's grid, resolution, normalization and scaling."""

import numpy as np
import pytest
import torch
from labelled import GAUSSIAN, HIGH, LABELS, LOW, WAVELENGTH, spectra_with_labels, store_spectra

from scalespec.config import TrainTable
from scalespec.engines.local import LocalContext
from scalespec.errors import ModelError, StoreError
from scalespec.kernels.continuum import gaussian_smoothing
from scalespec.models.base import EmulatorSpec
from scalespec.models.payne import Payne
from scalespec.stages.gradients import load_references, make_prior
from scalespec.stages.train import train_loop
from scalespec.store import paths
from scalespec.store.model import model_record, pack, save_model

CONTINUUM = {"method": "continuum"}
GRID = 10 ** (3.7 + 1e-4 * np.arange(600))


def spec_of(**changes):
    parts = {"wavelength": GRID, "resolving_power": 1800.0, "normalization": CONTINUUM} | changes
    return EmulatorSpec("student", LABELS, LOW, HIGH, **parts)


def teacher(**changes):
    """A Payne with lines of R = 1800, that is some 2.4 pixels wide."""
    made = Payne(spec_of(**changes), hidden=(6,), seed=4)
    return made.broadened(1.1, resolving_power=1800.0).eval()


def physical_gradient(model, labels, k):
    """Return the derivative by label `k` from central differences of the flux, one star."""
    step = 0.01 * (HIGH[k] - LOW[k])
    shift = step * np.eye(3)[k]
    with torch.no_grad():
        up, down = (model.double()(torch.from_numpy(labels + s)) for s in (shift, -shift))
    return ((up - down) / (2 * step)).numpy()


@pytest.fixture
def arrays():
    """A file of gradients at 4 stars, its labels in another order than the student's."""
    model = teacher().double()
    labels = LOW + np.random.default_rng(1).uniform(0, 1, (4, 3)) * (HIGH - LOW)
    with torch.no_grad():
        flux = model(torch.from_numpy(labels)).numpy()
    by = ["fe_h", "teff"]
    gradients = [physical_gradient(model, labels, LABELS.index(name)) for name in by]
    order = [2, 0, 1]
    return {
        "labels": np.array([LABELS[k] for k in order]),
        "reference_labels": labels[:, order],
        "reference_flux": flux,
        "gradient_labels": np.array(by),
        "gradients": np.stack(gradients, axis=1),
        "wavelength_vac": GRID,
        "resolving_power": np.array(1800.0),
    }


@pytest.fixture
def prior_of(tmp_path):
    def make(arrays, spec=None):
        url = str(tmp_path / "gradients.npz")
        paths.write_bytes(url, pack(arrays))
        spec = spec or spec_of()
        references = load_references(url, spec, np.zeros((0, 3)), n=1, seed=0)
        return make_prior(references, spec, strength=2.0, url=url)

    return make


def rows_of(prior, label):
    return prior.gradient[prior.label == LABELS.index(label)].numpy()


def test_gradients_are_by_scaled_labels_in_the_models_order(arrays, prior_of):
    prior = prior_of(arrays)
    assert len(prior) == 8
    assert prior.strength == 2.0
    assert sorted(set(prior.label.tolist())) == [0, 2]
    wanted = arrays["gradients"][:, 1] * (HIGH - LOW)[0]
    np.testing.assert_allclose(rows_of(prior, "teff"), wanted, rtol=1e-5, atol=1e-7)
    x = (arrays["reference_labels"][:, [1, 2, 0]] - LOW) / (HIGH - LOW) - 0.5
    np.testing.assert_allclose(prior.x[::2].numpy(), x, atol=1e-6)
    assert prior.known.all()


def test_a_teacher_gives_the_derivatives_of_its_flux(tmp_path):
    save_model(str(tmp_path), teacher(), {})
    sample = LOW + np.random.default_rng(2).uniform(0, 1, (50, 3)) * (HIGH - LOW)
    references = load_references(str(tmp_path), spec_of(), sample, n=5, seed=3)
    assert len(references.reference_labels) == 5
    assert {tuple(row) for row in references.reference_labels} <= {tuple(row) for row in sample}
    wanted = physical_gradient(teacher(), references.reference_labels, 1)
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(references.gradients[:, 1], wanted, atol=2e-3 * scale)


def test_normalization_is_the_datas_own(arrays, prior_of):
    prior = prior_of(arrays, spec_of(normalization=GAUSSIAN))
    smooth = gaussian_smoothing(GRID, 50.0)
    norm = smooth.apply(np.ones((1, 600)))
    step = 1e-3 * (HIGH - LOW)[0]  # K
    made = []
    for sign in (1, -1):
        flux = arrays["reference_flux"] + sign * step * arrays["gradients"][:, 1]
        made.append(flux / (smooth.apply(flux) / norm))
    wanted = (made[0] - made[1]) / (2 * step) * (HIGH - LOW)[0]
    # float32 fluxes of 1 over a step that changes them by about 1e-4
    np.testing.assert_allclose(rows_of(prior, "teff"), wanted, atol=3e-3)


def test_part_of_the_grid_is_known_and_no_more(arrays, prior_of):
    part = slice(100, 500)
    for name in ("reference_flux", "gradients", "wavelength_vac"):
        arrays[name] = arrays[name][..., part]
    assert np.flatnonzero(prior_of(arrays).known).tolist() == list(range(100, 500))
    known = prior_of(arrays, spec_of(normalization=GAUSSIAN)).known
    # 50 Å are 43 pixels: the normalization of the first hundred leans on what is not there.
    assert not known[:150].any()
    assert known[200:400].all()


def test_sharper_gradients_are_broadened(arrays, prior_of):
    prior = prior_of(arrays, spec_of(resolving_power=1200.0))
    sharp, blurred = (np.abs(rows_of(p, "teff")).max() for p in (prior_of(arrays), prior))
    assert blurred < 0.95 * sharp


@pytest.mark.parametrize(
    ("edit", "spec", "said"),
    [
        (lambda a: a | {"resolving_power": np.array(900.0)}, {}, "R = 900, the data R = 1800"),
        (lambda a: a | {"wavelength_vac": GRID * 1.00002}, {}, "are not among the data's"),
        (lambda a: a | {"wavelength_vac": GRID * 2}, {}, "are not among the data's"),
        (lambda a: a | {"labels": np.array(["fe_h", "teff", "vmic"])}, {}, r"no label \['logg'\]"),
        (lambda a: a | {"reference_labels": a["reference_labels"] + 1e4}, {}, "none lies in"),
        (lambda a: a | {"gradient_labels": np.array(["a", "b"])}, {}, "no gradient is by one of"),
        (
            lambda a: a | {"gradients": a["gradients"][:2]},
            {},
            r"\(2, 2, 600\), wanted \(4, 2, 600\)",
        ),
        (lambda a: {k: v for k, v in a.items() if k != "labels"}, {}, "no labels in this file"),
        (lambda a: a, {"normalization": {"method": "spline"}}, "cannot be made like data"),
        (lambda a: a, {"resolving_power": None}, "does not say its resolving power"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(arrays, prior_of, edit, spec, said):
    with pytest.raises(ModelError, match=said):
        prior_of(edit(arrays), spec_of(**spec))


def test_references_outside_the_labels_are_left_out_and_said(arrays, prior_of, caplog):
    arrays["reference_labels"][0, 1] = 20000.0  # K
    assert len(prior_of(arrays)) == 6
    assert "1 of 4 reference stars lie outside" in caplog.text


def test_a_teacher_of_other_labels_is_refused(tmp_path):
    parts = {"wavelength": GRID, "resolving_power": 1800.0}
    other = Payne(EmulatorSpec("t", ("teff", "vsini"), [4e3, 0], [6e3, 9], **parts), hidden=(3,))
    save_model(str(tmp_path), other, {})
    with pytest.raises(ModelError, match=r"labels \['vsini'\], which train.labels lack"):
        load_references(str(tmp_path), spec_of(), np.zeros((5, 3)), n=2, seed=0)


def test_gradients_that_are_not_there_are_said(tmp_path):
    with pytest.raises(StoreError, match=r"nothing\.npz"):
        load_references(str(tmp_path / "nothing.npz"), spec_of(), np.zeros((5, 3)), n=2, seed=0)


@pytest.mark.parametrize("normalization", [CONTINUUM, GAUSSIAN])
def test_the_run_file_brings_the_prior_to_training(tmp_path, normalization):
    source = store_spectra(str(tmp_path / "train.zarr"), spectra_with_labels())
    made = teacher(wavelength=WAVELENGTH, normalization=normalization)
    save_model(str(tmp_path / "teacher"), made, {})
    options = {"hidden": 8, "rounds": (0, 3), "gradients": str(tmp_path / "teacher")}
    table = TrainTable(labels=LABELS, catalog="a", **options)
    train_loop(LocalContext(), table, source, str(tmp_path / "model"), 1)
    history = model_record(str(tmp_path / "model"))["metadata"]["history"]
    assert history[1]["gradient_error"] < history[0]["gradient_error"]
