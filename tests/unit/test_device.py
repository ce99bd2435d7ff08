"""Models on another device than the processor: who moves them there, and that fits come out alike.

No GPU is needed: `pretend` has a device that refuses what CUDA refuses, and computes here.
"""

import pickle
import shutil
from copy import deepcopy

import numpy as np
import pytest
import torch
from pretend import DEVICE, Elsewhere, elsewhere
from toy_lines import toy, toy_spec

from scalespec.config import DeriveTable, FitTable, PosteriorTable, parse_config
from scalespec.kernels.continuum import gaussian_smoothing
from scalespec.models.base import EmulatorSpec
from scalespec.models.binary import BinaryEmulator, MainSequence
from scalespec.models.cannon import Cannon
from scalespec.models.estimators import make_estimator
from scalespec.models.networks import Regressor
from scalespec.models.payne import Payne
from scalespec.models.regressor import RegressorSpec
from scalespec.optimize.constraints import Constraints
from scalespec.optimize.fit import FitOptions, fit_labels
from scalespec.optimize.objective import Smoother
from scalespec.optimize.posterior import sample_posterior
from scalespec.optimize.shift import Broadening
from scalespec.optimize.start import best_start, ridge_start, templates
from scalespec.stages import emulators, regress
from scalespec.stages.best_fit import best_fit_stages
from scalespec.stages.derive import derive
from scalespec.stages.emulators import device_here, load_ready, wanted_device
from scalespec.stages.fit import doubted, fit
from scalespec.stages.infer import infer
from scalespec.stages.inference import infer_labels
from scalespec.stages.posterior import posterior
from scalespec.store.model import save_model
from scalespec.store.regressor import save_baseline

N_PIXEL, N_STAR = 256, 5
WAVELENGTH = 10 ** (3.7 + 1e-4 * np.arange(N_PIXEL))
LABELS = ("teff", "fe_h", "mg_h")
LOW, HIGH = np.array([4000.0, -2.0, -2.0]), np.array([6500.0, 0.5, 0.5])
GAUSSIAN = {"method": "gaussian", "width_angstrom": 50.0}
ATTRS = {"resolving_power": 1800.0, "normalization": GAUSSIAN}


def spec_of(normalization=GAUSSIAN):
    return EmulatorSpec("toy", LABELS, LOW, HIGH, WAVELENGTH, 1800.0, normalization)


def payne(activation="silu", **facts):
    """A Payne of random weights, smoothed to lines of R = 1800."""
    model = Payne(spec_of(**facts), hidden=(8, 8), activation=activation, seed=1)
    with torch.no_grad():
        model.output.weight.mul_(3.0)
    model = model.broadened(1.1, resolving_power=1800.0).eval()
    model.scatter.fill_(0.002)
    return model


def cannon():
    """A Cannon with lines of every label and every product of two."""
    model, rng = Cannon(spec_of()), np.random.default_rng(4)
    away = np.arange(N_PIXEL)[:, None, None] - rng.uniform(0, N_PIXEL, (9, 8))
    depth = np.where(np.arange(9) < 3, 0.2, 0.05)[:, None] * rng.normal(size=(9, 8))
    profiles = (depth * np.exp(-0.5 * (away / 2) ** 2)).sum(axis=2)
    with torch.no_grad():
        model.coefficients[:, 1:] = torch.tensor(profiles)
    model.scatter.fill_(0.002)
    return model.eval()


MODELS = {"silu": payne(), "leaky": payne("leaky_relu"), "cannon": cannon()}


def stars(model):
    """Spectra of S/N 100, 20 pixels masked; labels; first labels 0.05 of the box off."""
    rng = np.random.default_rng(3)
    x = rng.uniform(-0.4, 0.4, (N_STAR, 3))
    with torch.inference_mode():
        clean = model.forward_scaled(torch.tensor(x, dtype=torch.float32)).numpy()
    flux = (clean + rng.normal(0, 0.01, clean.shape)).astype(np.float32)
    ivar = np.full_like(flux, 1e4)
    flux[:, 100:120] = ivar[:, 100:120] = 0
    first = x + rng.choice([-0.05, 0.05], x.shape)
    return flux, ivar, LOW + (x + 0.5) * (HIGH - LOW), LOW + (first + 0.5) * (HIGH - LOW)


def smoother(like):
    return Smoother(gaussian_smoothing(WAVELENGTH, 50.0).tiles, like)


@pytest.fixture
def there(monkeypatch):
    """The pretend device."""
    with elsewhere(monkeypatch) as device:
        yield device


# --- the kit


def test_what_is_made_there_stays_there_and_comes_back_by_name_alone(there):
    made = torch.arange(4, device=there).double() * torch.tensor(2.0)
    made[1:3] = torch.zeros(2)  # a copy, as CUDA makes it
    assert isinstance(made, Elsewhere)
    assert made.device.type == there
    assert type(made.cpu()) is torch.Tensor
    assert made[torch.tensor([0, 3])].cpu().tolist() == [0.0, 6.0]  # places may lie here
    assert made.new_tensor([1.0]).device.type == there
    with pytest.raises(RuntimeError, match="numpy"):
        made.numpy()


@pytest.mark.parametrize(
    "mixed",
    [
        lambda a, b: a + b,
        lambda a, b: torch.where(a > 0, a, b),
        lambda a, b: torch.cat([a, b]),
        lambda a, b: a @ b,
        lambda a, b: b[a.long()],
        lambda a, b: a.__setitem__(torch.tensor([0, 1, 2]), b),
        lambda a, _: torch.rand(3, device=a.device, generator=torch.Generator()),
    ],
)
def test_what_cuda_refuses_is_refused(mixed, there):
    here = torch.ones(3)
    mixed(here.clone(), here)
    with pytest.raises(RuntimeError, match=r"same device|on the CPU|generator"):
        mixed(here.to(there), here)


# --- fits

KNOWN = Constraints(
    prior_mean=np.array([5000.0, -1.0, 0.0]), prior_sigma=np.array([300.0, 0.2, np.inf])
)
FITS = {
    "plain": {},
    "smoothed": {"smoothed": True},
    "restarts": {"options": FitOptions(restarts=1, max_steps=5)},
    "robust": {"options": FitOptions(robust=2.0)},
    "every pixel": {"options": FitOptions(exact_covariance=True)},
    "polynomial": {"options": FitOptions(polynomial=2)},
    "line widths": {"options": FitOptions(broadening=Broadening(vsini=(0.0, 60.0)))},
    "prior": {"constraints": KNOWN},
    "tie": {"constraints": Constraints(tied={"mg_h": "fe_h"})},
}


@pytest.mark.parametrize(
    ("kind", "how"),
    [*[("silu", how) for how in FITS], ("leaky", "plain")]
    + [("cannon", how) for how in ("plain", "smoothed", "prior")]
    + [pytest.param("leaky", "restarts", marks=pytest.mark.slow)],
)
def test_a_fit_is_the_same_on_another_device(kind, how, there):
    model, given = MODELS[kind], dict(FITS[how])
    flux, ivar, _, start = stars(model)
    smoothed = given.pop("smoothed", False)
    found = []
    for one in (model, deepcopy(model).to(there)):
        smoothing = smoother(one.scatter) if smoothed else None
        found.append(fit_labels(one, flux, ivar, start=start, smoothing=smoothing, **given))
    here, other = found
    assert here.fitted.all()
    np.testing.assert_array_equal(other.status, here.status)
    # float32 sums in another order, along a path that ends within a tenth of a sigma
    assert (np.abs(other.labels - here.labels) < 0.05 * here.label_err).all()
    assert (np.abs(other.rv - here.rv) < 0.05 * here.rv_err).all()
    np.testing.assert_allclose(other.label_err, here.label_err, rtol=0.01)
    np.testing.assert_allclose(other.chi2, here.chi2, atol=0.02, rtol=1e-4)


@pytest.mark.parametrize("smoothed", [False, True])
@pytest.mark.parametrize("kind", ["silu", "cannon"])
def test_first_estimates_are_the_same_on_another_device(kind, smoothed, there):
    model = MODELS[kind]
    flux, ivar, labels, start = stars(model)
    candidates = np.stack([LOW + 0 * labels, labels, start], axis=1)
    found = []
    for one in (model, deepcopy(model).to(there)):
        smoothing = smoother(one.scatter) if smoothed else None
        ridge = ridge_start(one, n_draws=600, smoothing=smoothing)
        spectra = templates(one, 5, smoothing=smoothing)
        best = best_start(one, flux, ivar, candidates, rv=np.ones(N_STAR), smoothing=smoothing)
        found.append((ridge.apply(flux, ivar), *spectra, *best))
    for here, other in zip(*found, strict=True):
        assert type(other) is np.ndarray
        # of labels: float32 spectra, and a basis of their small differences
        np.testing.assert_allclose(other, here, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("residual", {"width": 16, "pca": 5, "noise": 3}),
        ("starnet", {"hidden": [16, 8]}),
        ("bayesian", {"samples": 2, "hidden": [16, 8]}),
        ("folded", {"channels": [4, 4]}),
    ],
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_networks_labels_are_the_same_on_another_device(network, options, precision, there):
    sample, _ = toy(20, seed=1, snr=(20, 100))
    model = Regressor(toy_spec(sample), network=network, members=2, options=options).eval()
    here = infer_labels(model, sample.flux, sample.ivar)
    other = infer_labels(model.to(there), sample.flux, sample.ivar, precision=precision)
    few = 1e-4 if precision == "float32" else 0.2  # eight bits of mantissa, some layers deep
    assert (np.abs(other.labels - here.labels) < few * model.spec.label_std).all()
    np.testing.assert_allclose(other.out_of_domain, here.out_of_domain, rtol=1e-4)


# --- models made ready


def two_stars():
    """Two stars in one spectrum: a model with tables of its own, which cutting it makes anew."""
    spec = EmulatorSpec("two", ("teff", "logg"), [4e3, 2.0], [6e3, 5.0], WAVELENGTH, 1800.0)
    rising, falling = np.array([0.5, 1.0]), np.array([4.7, 4.4])
    return BinaryEmulator(Payne(spec, hidden=(4,)), MainSequence(rising, 6e3 * rising, falling))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_model_keeps_its_device_when_it_is_cut(model, there):
    part = deepcopy(model).to(there).slice_grid(10, 60)
    x = torch.full((2, 3), 0.1)
    here = model.forward_scaled(x).detach()[:, 10:60]
    torch.testing.assert_close(part.forward_scaled(x.to(there)).detach().cpu(), here)


@pytest.mark.parametrize("model", [*MODELS.values(), two_stars()], ids=[*MODELS, "two stars"])
def test_a_model_keeps_its_device_when_it_is_doubted(model, there):
    wide = doubted(deepcopy(model).to(there), 0.01)
    x = torch.full((2, model.spec.n_label), 0.1)
    torch.testing.assert_close(
        wide.forward_scaled(x.to(there)).detach().cpu(), model.forward_scaled(x).detach()
    )
    torch.testing.assert_close(wide.scatter.cpu(), doubted(model, 0.01).scatter)


@pytest.mark.parametrize("kind", ["silu", "cannon"])
def test_a_model_and_its_smoothing_are_made_ready_on_one_device(kind, tmp_path, there, monkeypatch):
    monkeypatch.setattr(emulators, "device_here", {"cuda": there, "cpu": "cpu"}.get)
    model = MODELS[kind]
    model = deepcopy(model)
    model.spec = spec_of({"method": "continuum"})
    save_model(str(tmp_path / "model"), model)
    for device, wanted in (("cuda", there), ("cpu", "cpu")):
        (one,) = load_ready([str(tmp_path / "model")], WAVELENGTH[20:], ATTRS, device=device)
        assert one.model.scatter.device.type == wanted
        smooth = one.smoothing(torch.ones_like(one.model.scatter)[None])
        assert smooth.device.type == wanted


# --- who wants a GPU, and where there is none


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (0.25, "cuda"), (1, "cuda")])
def test_gpus_that_actors_hold_are_wanted(gpus, device):
    text = '[run]\nname = "toy"\nworkspace = "toy"\n'
    assert wanted_device(parse_config(f"{text}[engine.ray]\ngpus_per_worker = {gpus}")) == device


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("wanted", ["cpu", "cuda"])
def test_a_gpu_that_torch_does_not_see_is_said_once(wanted, seen, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen)
    assert device_here(wanted) == (wanted if seen else "cpu")
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == (wanted == "cuda" and not seen)
    assert all("wants a GPU, torch sees none" in one for one in said)


def with_gpus(config, gpus):
    ray = config.engine.ray.model_copy(update={"gpus_per_worker": gpus})
    return config.model_copy(update={"engine": config.engine.model_copy(update={"ray": ray})})


def computed(stage):
    """The first block of a stage, as a worker does it."""
    stage = pickle.loads(pickle.dumps(stage))
    return stage.compute(stage.setup(), stage.read(stage.blocks[0]))


@pytest.fixture
def run(tiny_run):
    """The tiny run, one of whose stars has a posterior asked for."""
    update = {"fit": FitTable(scatter=0.001), "posterior": PosteriorTable(stars=(2**55 + 1,))}
    return tiny_run.config.model_copy(update=update)


STORED = {"fit": FitTable()}
"""The fits that the tiny run has in store."""


def best_fits(config):
    config = config.model_copy(update=STORED)
    return best_fit_stages(config, f"{config.run.workspace}/catalog/made")


def residuals(config):
    """Where residuals are drawn, and where all are compared with those that are usual."""
    table = DeriveTable(anomaly_sample=1000, anomaly_components=2)
    for stage in derive(config.model_copy(update=STORED | {"derive": table})):
        if stage.runs_on == "ray":
            yield stage
        value = stage.setup() if stage.setup else None
        for block in stage.blocks:
            stage.write(block, stage.compute(value, stage.read(block)))


STAGES = {verb.__name__: verb for verb in (infer, fit, posterior, best_fits, residuals)}


@pytest.mark.parametrize("verb", STAGES.values(), ids=STAGES)
@pytest.mark.parametrize(("gpus", "wanted"), [(0.5, "cuda"), (0, "cpu")])
def test_a_stage_loads_its_models_where_its_actors_hold_gpus(verb, gpus, wanted, run, monkeypatch):
    asked = []
    monkeypatch.setattr(emulators, "device_here", lambda device: asked.append(device) or "cpu")
    stages = verb(with_gpus(run, gpus))
    for _ in range(2 if verb is residuals else 1):
        asked.clear()
        stage = pickle.loads(pickle.dumps(next(stages)))
        assert "cuda" not in asked[:-1]  # the driver checks models on its processor
        asked.clear()
        stage.setup()
        assert asked == [wanted]
        assert stage.gpus == gpus


def test_no_gpu_is_asked_for_where_none_is_used(run):
    """By what is derived without models; `test_compare` has the models that compete."""
    config = with_gpus(run.model_copy(update={"derive": DeriveTable()}), 1)
    assert next(derive(config)).gpus == 0


@pytest.mark.parametrize("name", ["best_fits", "residuals"])
def test_what_is_left_of_spectra_is_the_same_on_another_device(name, run, monkeypatch, request):
    def made(config):
        return [computed(stage) for stage in STAGES[name](config)]

    here = made(run)
    there = request.getfixturevalue("there")
    monkeypatch.setattr(emulators, "device_here", {"cuda": there, "cpu": "cpu"}.get)
    shutil.rmtree(run.run.workspace + "/derived", ignore_errors=True)
    for one, other in zip(here, made(with_gpus(run, 1)), strict=True):
        if name == "best_fits":
            np.testing.assert_allclose(other["flux"], one["flux"], atol=1e-5)
        elif isinstance(one, np.ndarray):
            np.testing.assert_allclose(other, one, atol=0.01)  # sigmas of S/N up to 500
        else:
            scores = [table["anomaly"].to_numpy() for table in (one, other)]
            np.testing.assert_allclose(*scores, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("name", ["infer", "fit"])
def test_a_stage_finds_the_same_on_another_device(name, run, monkeypatch, request):
    here = computed(next(STAGES[name](run)))
    there = request.getfixturevalue("there")
    monkeypatch.setattr(emulators, "device_here", {"cuda": there, "cpu": "cpu"}.get)
    other = computed(next(STAGES[name](with_gpus(run, 1))))
    assert list(other) == list(here)
    for column in here.columns.intersection(["first_teff", "first_rv", "teff", "teff_err", "rv"]):
        np.testing.assert_allclose(other[column], here[column], rtol=1e-3, atol=0.05)


def test_draws_from_a_posterior_are_the_same_on_another_device(there):
    model = MODELS["cannon"]
    flux, ivar, _, start = stars(model)
    best = fit_labels(model, flux, ivar, start=start)
    here, other = (
        sample_posterior(one, flux, ivar, best, n_draws=4, n_chains=2, constraints=KNOWN)
        for one in (model, deepcopy(model).to(there))
    )
    # a chain of float32's chi2: its draws are the same but for rounding
    np.testing.assert_allclose(other.samples, here.samples, rtol=1e-3, atol=0.02)


def test_a_run_that_wants_gpus_runs_where_there_is_none(run, caplog):
    made = computed(next(fit(with_gpus(run, 1))))
    assert made["fit_status"].notna().all()
    assert caplog.text.count("torch sees none") == 1


@pytest.mark.parametrize("classical", [False, True])
def test_a_network_goes_to_the_gpu_and_a_classical_regressor_stays(
    classical, tmp_path, there, monkeypatch
):
    sample, _ = toy(40, seed=1, snr=(20, 100))
    monkeypatch.setattr(regress, "device_here", {"cuda": there}.get)
    url = str(tmp_path / "regressor")
    if classical:
        model = make_estimator("ridge", toy_spec(sample))
        model.fit(sample, sample, seed=0)
        save_baseline(url, model, {})
        assert isinstance(regress.load_there(url, "cuda"), type(model))
        return
    save_model(url, Regressor(toy_spec(sample), network="mlp", options={"hidden": [4]}))
    assert regress.load_there(url, "cuda").label_mean.device.type == DEVICE


@pytest.mark.parametrize(("gpus", "wanted"), [(0.5, "cuda"), (0, "cpu")])
def test_a_regressor_is_loaded_where_its_actors_hold_gpus(
    gpus, wanted, tiny, run, tmp_path, monkeypatch
):
    sample, _ = toy(40, n_pixel=200, seed=1, snr=(20, 100))
    known = {"wavelength": tiny.WAVELENGTH.tolist(), "normalization": GAUSSIAN}
    spec = RegressorSpec.from_dict(toy_spec(sample).to_dict() | known)
    url, asked = str(tmp_path / "regressor"), []
    save_model(url, Regressor(spec, network="mlp", options={"hidden": [4]}))
    infer_table = run.infer.model_copy(update={"models": (url,), "spectra_per_batch": 8})
    monkeypatch.setattr(regress, "device_here", lambda device: asked.append(device) or "cpu")
    made = computed(next(infer(with_gpus(run.model_copy(update={"infer": infer_table}), gpus))))
    assert asked == [wanted]
    assert made["first_teff"].notna().any()
