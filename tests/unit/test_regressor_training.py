"""Training of regressors: the loss, noisier copies, what is learned, and errors that are right."""

import math

import numpy as np
import pytest
import torch
from toy_lines import HALF, toy, toy_spec

from scalespec.models.degrade import degrade, jittered, spectrum_snr
from scalespec.models.domain import Domain
from scalespec.models.estimators import make_estimator
from scalespec.models.label_loss import VARIANCE_SHARE, label_loss
from scalespec.models.networks import Regressor
from scalespec.models.regression_training import (
    InMemory,
    RegressionOptions,
    calibrate,
    train_regressor,
)
from scalespec.models.training import SameProcess
from scalespec.store.checkpoints import CheckpointFolder

GUESS = HALF / 2
"""Mean absolute error of who always says the middle."""
SHORT = RegressionOptions(epochs=4, batch_size=64, checkpoint_every=1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def small(sample, seed=0, **options):
    return Regressor(
        toy_spec(sample), network="mlp", seed=seed, options={"hidden": [16]}, **options
    )


def train(model, training, validation, options=SHORT, **known):
    return train_regressor(
        model, InMemory(training, 1), validation, options=options, context=SameProcess(), **known
    )


# --- the loss


@pytest.mark.parametrize("kind", ["gaussian", "mae"])
def test_a_loss_without_labels_is_zero_with_finite_gradients(kind):
    made = torch.randn(4, 2, 3, generator=generator()).requires_grad_()
    loss = label_loss(made, torch.full((4, 3), torch.nan), torch.full((4, 3), torch.nan), kind)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(made.grad, torch.zeros_like(made))


@pytest.mark.parametrize("kind", ["gaussian", "mae"])
def test_missing_labels_count_as_if_they_were_not_there(kind):
    made = torch.randn(5, 2, 2, generator=generator())
    labels = torch.randn(5, 2, generator=generator(1))
    labels[3] = torch.nan
    errors = torch.zeros_like(labels)
    without = [0, 1, 2, 4]
    dense = label_loss(made[without], labels[without], errors[without], kind)
    assert torch.allclose(label_loss(made, labels, errors, kind), dense)


@pytest.mark.parametrize("kind", ["gaussian", "mae"])
@pytest.mark.parametrize("error", [np.inf, 1e20])  # its square is infinite in float32
def test_a_label_of_infinite_error_is_a_missing_one(kind, error):
    made = torch.randn(5, 2, 2, generator=generator()).requires_grad_()
    labels, errors = torch.randn(5, 2, generator=generator(1)), torch.full((5, 2), 0.1)
    errors[3, 1] = error
    labels[2, 0] = torch.nan
    errors[2, 0] = torch.inf
    missing = torch.where(errors < 1, labels, torch.nan)
    losses = [
        label_loss(made, labels, errors, kind),
        label_loss(made, missing, errors * 0 + 0.1, kind),
    ]
    slopes = [torch.autograd.grad(loss, made)[0] for loss in losses]
    assert torch.equal(*losses)
    assert torch.equal(*slopes)
    assert torch.isfinite(slopes[0]).all()


def test_the_loss_is_the_normal_distributions_when_nothing_is_missing():
    made = torch.randn(6, 2, 3, generator=generator()).double()
    labels = torch.randn(6, 3, generator=generator(1)).double()
    errors = torch.rand(6, 3, generator=generator(2)).double()
    variance = made[:, 1].exp() + errors.square()
    density = torch.distributions.Normal(made[:, 0], variance.sqrt()).log_prob(labels)
    each = (-density - 0.5 * math.log(2 * math.pi)) * variance.sqrt()  # beta 0.5: times v**0.5
    assert torch.allclose(label_loss(made, labels, errors, "gaussian"), each.mean())


def test_the_loss_is_least_at_the_residuals_own_variance():
    residual = torch.tensor([0.3, -0.3, 0.3, -0.3])[:, None]
    log_variance = torch.zeros(4, 1, requires_grad=True)
    for _ in range(400):
        made = torch.stack([residual, log_variance.mean().expand(4, 1)], dim=1)
        loss = label_loss(made, torch.zeros(4, 1), torch.full((4, 1), 0.1), "mae")
        (gradient,) = torch.autograd.grad(loss, log_variance)
        log_variance = (log_variance - 2 / VARIANCE_SHARE * gradient).detach().requires_grad_()
    # what the label's own error of 0.1 does not explain
    assert float(log_variance.mean().exp().detach()) == pytest.approx(0.3**2 - 0.1**2, rel=0.02)


def test_the_absolute_error_moves_means_by_its_sign_alone():
    made = torch.tensor([[[2.0, -0.1]], [[0.0, 0.0]]]).transpose(0, 1).reshape(1, 2, 2)
    made = made.clone().requires_grad_()
    label_loss(made, torch.zeros(1, 2), torch.zeros(1, 2), "mae").backward()
    assert made.grad[0, 0].tolist() == [0.5, -0.5]


# --- noisier copies


def test_degraded_spectra_have_the_snr_and_the_noise_they_say():
    n = 400
    flux, ivar = torch.ones(n, 300), torch.full((n, 300), 100.0**2)
    clean = flux + torch.randn(flux.shape, generator=generator(1)) / 100
    noisy, left = degrade(clean, ivar, torch.full((n,), 20.0), generator())
    assert torch.allclose(spectrum_snr(torch.ones(n, 300), left), torch.tensor(20.0), rtol=0.02)
    pull = (noisy - flux) * left.sqrt()
    assert float(pull.std()) == pytest.approx(1, abs=0.01)  # 120,000 draws: 0.002


def test_noise_keeps_its_profile_and_masked_pixels_their_mask():
    ivar = torch.tensor([[100.0**2, 50.0**2, 0.0, 100.0**2]])
    _, left = degrade(torch.ones(1, 4), ivar, torch.tensor([10.0]), generator())
    assert left[0, 2] == 0
    assert float(left[0, 0] / left[0, 1]) == pytest.approx(4)


def test_spectra_below_the_wanted_snr_stay_as_they_are():
    flux, ivar = torch.rand(2, 50, generator=generator()) + 1, torch.full((2, 50), 25.0)
    noisy, left = degrade(flux, ivar, torch.tensor([50.0, torch.inf]), generator())
    assert torch.equal(noisy, flux)
    assert torch.allclose(left, ivar)


def test_spectra_without_noise_get_the_same_noise_everywhere():
    flux = torch.ones(1, 5000)
    noisy, left = degrade(flux, torch.full_like(flux, torch.inf), torch.tensor([25.0]), generator())
    assert torch.allclose(left, torch.tensor(625.0))
    assert float((noisy - 1).std()) == pytest.approx(1 / 25, rel=0.05)
    same, none = degrade(
        flux, torch.full_like(flux, torch.inf), torch.tensor([torch.inf]), generator()
    )
    assert torch.equal(same, flux)
    assert torch.isinf(none).all()


def test_jitter_is_a_part_of_each_pixels_own_noise():
    sigma = torch.tensor([0.01, 0.1, 1.0]).repeat(4000, 1)
    made = jittered(torch.ones(4000, 3), sigma**-2, 0.3, generator())
    # A standard deviation of 4,000 draws is known to 1.1 %.
    assert torch.allclose((made - 1).std(dim=0) / sigma[0], torch.tensor(0.3), rtol=0.05)
    assert torch.allclose(made.mean(dim=0), torch.ones(3), atol=0.02)
    dead = jittered(torch.ones(2, 3), torch.zeros(2, 3), 0.3, generator())
    assert torch.equal(dead, torch.ones(2, 3))


def test_training_jitters_spectra_that_have_noise_and_no_others():
    def last_loss(sample, jitter):
        options = RegressionOptions(epochs=1, batch_size=40, snr_range=None, jitter=jitter)
        return train(small(sample), sample, sample, options)[-1]["loss"]

    noisy, clean = toy(80, seed=1, snr=(15, 25))[0], toy(80, seed=1)[0]
    assert last_loss(noisy, 0.0) != last_loss(noisy, 0.5)
    assert last_loss(clean, 0.0) == last_loss(clean, 0.5)


def test_an_empty_spectrum_has_no_snr_and_stays_empty():
    flux = torch.full((1, 4), torch.nan)
    assert spectrum_snr(flux, torch.zeros(1, 4)).item() == 0
    assert not degrade(flux, torch.zeros(1, 4), torch.tensor([5.0]), generator())[1].any()


# --- errors that are right


def test_strange_spectra_are_far_from_the_domain():
    training, _ = toy(400, seed=1, snr=(20, 100))
    held, _ = toy(400, seed=2, snr=(20, 100))
    spec = toy_spec(training)
    std = torch.tensor(spec.flux_std).float()

    def scaled(sample):
        x = (torch.from_numpy(sample.flux) - torch.tensor(spec.flux_mean).float()) / std
        return x, 1 / (torch.from_numpy(sample.ivar) * std.square())

    domain = Domain(143)
    domain.learn(scaled(training)[0])
    domain.reach(*scaled(held))
    usual = domain(*scaled(toy(400, seed=3, snr=(20, 100))[0]))
    assert 0.9 < float((usual < 1).float().mean()) <= 1  # 1 % and as much for each of two distances
    emission, tilt = toy(20, seed=4, snr=(20, 100))[0], toy(20, seed=4, snr=(20, 100))[0]
    emission.flux[:, 70:73] += 1.0
    tilt.flux *= np.linspace(0.7, 1.3, 143, dtype=np.float32)
    assert float(domain(*scaled(emission)).min()) > 2
    assert float(domain(*scaled(tilt)).min()) > 2


# --- the loop


@pytest.fixture(scope="module")
def data():
    return toy(600, seed=1)[0], toy(200, seed=2)[0]


def test_the_same_seed_trains_the_same_model(data):
    first, second = small(data[0]), small(data[0])
    assert train(first, *data, seed=5) == train(second, *data, seed=5)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    other = small(data[0])
    assert train(other, *data, seed=6) != train(small(data[0]), *data, seed=5)


def test_training_leaves_the_global_random_numbers_alone(data):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    train(small(data[0]), *data)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_resumed_training_ends_where_an_unbroken_one_does(data, tmp_path):
    whole = small(data[0], members=2)
    history = train(whole, *data, checkpoints=CheckpointFolder(str(tmp_path / "whole")))

    class KilledError(Exception):
        pass

    class Keeper(CheckpointFolder):
        def save(self, step, arrays, meta):
            super().save(step, arrays, meta)
            if step == 2:
                raise KilledError

    folder = str(tmp_path / "broken")
    with pytest.raises(KilledError):
        train(small(data[0], members=2), *data, checkpoints=Keeper(folder))
    again = small(data[0], members=2)
    assert train(again, *data, checkpoints=CheckpointFolder(folder)) == history
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_another_models_checkpoint_is_refused(data, tmp_path):
    keeper = CheckpointFolder(str(tmp_path))
    train(small(data[0]), *data, checkpoints=keeper)
    with pytest.raises(ValueError, match="checkpoint is of another model"):
        train(small(data[0], members=2), *data, checkpoints=keeper)


def test_training_stops_when_it_no_longer_helps(data):
    still = RegressionOptions(epochs=50, batch_size=64, learning_rate=1e-12, patience=2)
    assert len(train(small(data[0]), *data, still)) <= 5


def test_an_exploding_loss_is_said(data):
    wild = data[0].take(slice(None))
    wild.labels = wild.labels.copy()
    wild.labels[0] = 1e38
    with pytest.raises(ValueError, match="loss of epoch 0 is"):
        train(small(data[0]), wild, data[1])


def test_training_without_validation_is_refused(data):
    with pytest.raises(ValueError, match="at least one validation spectrum"):
        train(small(data[0]), data[0], data[1].take(slice(0)))
    with pytest.raises(ValueError, match="calibration wants at least one validation spectrum"):
        calibrate(small(data[0]), data[1].take(slice(0)), SHORT)


def test_ranks_share_the_rows_of_an_epoch(data):
    reader = InMemory(data[0], 3)
    parts = [next(reader.samples(2, rank, 3)) for rank in range(3)]
    assert [len(part) for part in parts] == [200, 200, 200]
    seen = np.concatenate([part.labels for part in parts])
    assert np.array_equal(np.sort(seen, axis=0), np.sort(data[0].labels, axis=0))
    assert not np.array_equal(
        seen, np.concatenate([p.labels for p in [next(reader.samples(3, 0, 1))]])
    )


def test_missing_labels_teach_the_others_nothing_wrong():
    training, validation = toy(1000, seed=1)[0], toy(200, seed=2)[0]
    rng = np.random.default_rng(0)
    training.labels[rng.random(training.labels.shape) < 0.3] = np.nan
    validation.labels[::3, 1] = np.nan
    options = {"hidden": [64, 64], "epochs": 15, "batch_size": 64}
    estimator = make_estimator("mlp", toy_spec(training), **options)
    estimator.fit(training, validation, seed=1)
    test, _ = toy(300, seed=3, snr=(50, 100))
    error = np.abs(estimator.predict(test.flux, test.ivar).labels - test.labels).mean(axis=0)
    assert (error < 0.25 * GUESS).all(), error / GUESS


@pytest.mark.parametrize("network", ["residual", "starnet", "folded", "bayesian"])
def test_every_network_learns(network):
    small_options = {
        "residual": {"width": 48, "pca": 24},
        "starnet": {"hidden": [64, 32]},
        "folded": {"channels": [8, 16, 16], "kernel": 3, "hidden": [64, 32], "loss": "mae"},
        "bayesian": {"channels": [4, 8], "hidden": [64, 32], "dropout": 0.02, "samples": 4},
    }
    training, validation = toy(800, seed=1)[0], toy(100, seed=2)[0]
    known = {"epochs": 8, "batch_size": 32, "learning_rate": 2e-3, "snr_range": (20, 200)}
    estimator = make_estimator(network, toy_spec(training), **known, **small_options[network])
    estimator.fit(training, validation, seed=1)
    test, _ = toy(300, seed=3, snr=(40, 100))
    error = np.abs(estimator.predict(test.flux, test.ivar).labels - test.labels).mean(axis=0)
    assert (error < 0.5 * GUESS).all(), error / GUESS


@pytest.mark.slow
def test_pulls_are_of_one_at_every_snr():
    training, validation = toy(4000, seed=1)[0], toy(2000, seed=2)[0]
    estimator = make_estimator(
        "residual", toy_spec(training), width=128, epochs=25, members=2, batch_size=128
    )
    estimator.fit(training, validation, seed=1)
    test, snr = toy(12_000, seed=3, snr=(5, 200))
    found = estimator.predict(test.flux, test.ivar)
    pull = (found.labels - test.labels) / found.sigma
    for low, high in ((5, 10), (10, 20), (20, 40), (40, 80), (80, 200)):
        std = pull[(snr >= low) & (snr < high)].std(axis=0)
        assert ((std > 0.9) & (std < 1.1)).all(), (low, std)  # the limits wanted


def test_errors_grow_with_noise_and_are_calibrated():
    training, validation = toy(2000, seed=1)[0], toy(800, seed=2)[0]
    estimator = make_estimator("mlp", toy_spec(training), hidden=[64, 64], epochs=12, batch_size=64)
    estimator.fit(training, validation, seed=1)
    pulls, sigmas = [], []
    for low, high in ((6, 9), (25, 35), (100, 140)):
        test, _ = toy(1000, seed=3, snr=(low, high))
        found = estimator.predict(test.flux, test.ivar)
        pulls.append(((found.labels - test.labels) / found.sigma).std(axis=0))
        sigmas.append(np.median(found.sigma, axis=0))
    assert (np.diff(sigmas, axis=0) < 0).all()
    # 0.9 to 1.1 is asked of larger samples (slow test); 200 validation stars per bin give 5 %
    assert (np.abs(np.array(pulls) - 1) < 0.2).all(), pulls


@pytest.mark.slow
def test_label_errors_are_not_taken_for_the_stars():
    training, validation = toy(2000, seed=1)[0], toy(500, seed=2)[0]
    rng = np.random.default_rng(0)
    for sample in (training, validation):
        sample.label_err = np.broadcast_to(np.float32([200, 0.3, 0.25]), sample.labels.shape).copy()
        sample.labels = (
            sample.labels + sample.label_err * rng.normal(size=(len(sample), 3))
        ).astype("f4")
    estimator = make_estimator("mlp", toy_spec(training), hidden=[64, 64], epochs=12, batch_size=64)
    estimator.fit(training, validation, seed=1)
    test, _ = toy(1000, seed=3, snr=(100, 150))
    found = estimator.predict(test.flux, test.ivar)
    error = (found.labels - test.labels).std(axis=0)
    assert (error < 0.6 * np.array([200, 0.3, 0.25])).all()  # the noise of labels averages out
    assert (np.median(found.sigma, axis=0) < 0.9 * np.array([200, 0.3, 0.25])).all()
