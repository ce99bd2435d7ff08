"""Networks: shapes, weights, what they see and what they say of nothing."""

import math

import numpy as np
import pytest
import torch
from toy_lines import toy, toy_spec

from scalespec.kernels.fold import fold
from scalespec.models.bayesian import BayesianCNN, MonteCarloDropout
from scalespec.models.folded import FoldedCNN
from scalespec.models.heads import Shape
from scalespec.models.networks import NETWORKS, Regressor
from scalespec.models.residual import Given, PlainMLP, ResidualMLP, principal
from scalespec.models.starnet import StarNet, convolved

SMALL = {
    "residual": {"width": 16, "blocks": 2},
    "mlp": {"hidden": [16, 8]},
    "starnet": {"channels": [2, 3], "hidden": [8, 8]},
    "folded": {"channels": [2, 2, 3], "kernel": 3, "hidden": [8, 4]},
    "bayesian": {"hidden": [8, 8], "samples": 4},
}
LABELS = ("teff", "logg", "fe_h")


@pytest.fixture(scope="module")
def sample():
    return toy(40, snr=(20, 100))[0]


def regressor(sample, network="mlp", **options):
    own = options.pop("options", SMALL[network])
    return Regressor(toy_spec(sample), network=network, options=own, **options).eval()


def shape(n_pixel=143, **known):
    return Shape(np.geomspace(4000, 8000, n_pixel), LABELS, **known)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_gives_means_and_variances_of_any_number_of_pixels(network):
    for n_pixel in (50, 143):
        for n_channel, n_input in ((1, 0), (2, 4)):
            net = NETWORKS[network](
                shape(n_pixel, n_channel=n_channel, n_input=n_input), **SMALL[network]
            )
            made = net(torch.randn(5, n_channel, n_pixel), torch.randn(5, n_input))
            assert made.shape == (5, 2, 3)
            assert torch.isfinite(made).all()


@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_reach_every_weight(network, sample):
    model = regressor(sample, network).train()
    flux, ivar = torch.from_numpy(sample.flux), torch.from_numpy(sample.ivar)
    model(flux, ivar).square().sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name


@pytest.mark.parametrize("network", NETWORKS)
def test_a_spectrum_without_a_pixel_gets_no_number(network, sample):
    flux, ivar = sample.flux[:3].copy(), sample.ivar[:3].copy()
    ivar[1] = 0
    found = regressor(sample, network).predict(flux, ivar)
    assert np.isnan(found.labels[1]).all()
    assert np.isnan(found.sigma[1]).all()
    assert found.out_of_domain[1] == np.inf
    assert np.isfinite(found.labels[[0, 2]]).all()
    assert np.isfinite(found.out_of_domain[[0, 2]]).all()


def test_masked_pixels_and_broken_ones_change_nothing(sample):
    model = regressor(sample)
    flux, ivar = sample.flux.copy(), sample.ivar.copy()
    ivar[:, 10:20] = 0
    before = model.predict(flux, ivar)
    flux[:, 10:15] = np.nan
    flux[:, 15:20] = 1e30
    after = model.predict(flux, ivar)
    assert np.array_equal(before.labels, after.labels)
    assert np.array_equal(before.out_of_domain, after.out_of_domain)
    ivar[:, 10:15] = 5.0  # a pixel that is not finite has no information, whatever its ivar
    assert np.array_equal(before.labels, model.predict(flux, ivar).labels)


def test_results_depend_on_batches_by_rounding_only(sample):
    for network in NETWORKS:
        model = regressor(sample, network)
        whole = model.predict(sample.flux, sample.ivar, batch_size=40)
        parts = model.predict(sample.flux, sample.ivar, batch_size=7)
        # float32 products of other shapes: a few units of the last place of the label's scale
        scale = model.spec.label_std * 1e-5 + 1e-5 * np.abs(whole.labels)
        assert np.all(np.abs(whole.labels - parts.labels) < scale), network


def test_no_spectra_give_no_labels(sample):
    found = regressor(sample).predict(sample.flux[:0], sample.ivar[:0])
    assert found.labels.shape == (0, 3)
    assert found.out_of_domain.shape == (0,)


def test_wrong_sizes_are_refused(sample):
    model = regressor(sample)
    with pytest.raises(ValueError, match=r"must be \(n, 143\)"):
        model.predict(sample.flux[:, :100], sample.ivar[:, :100])
    with pytest.raises(ValueError, match=r"extra \(40, 1\) must be \(40, 0\)"):
        model.predict(sample.flux, sample.ivar, sample.ivar[:, :1])


def test_members_differ_and_their_spread_is_epistemic(sample):
    model = regressor(sample, members=4)
    with torch.no_grad():
        made = model(torch.from_numpy(sample.flux), torch.from_numpy(sample.ivar)).numpy()
    found = model.predict(sample.flux, sample.ivar)
    std = model.spec.label_std
    spread = made[:, :, 0].std(axis=0, ddof=1) * std
    assert np.allclose(found.sigma_epistemic, spread, rtol=1e-3, atol=1e-4 * std)
    mean = made[:, :, 0].mean(axis=0) * std + model.spec.label_mean
    assert np.allclose(found.labels, mean, rtol=1e-5, atol=1e-5)
    noise = np.sqrt(np.exp(made[:, :, 1]).mean(axis=0)) * std
    assert np.allclose(found.sigma_aleatoric, noise, rtol=1e-4)
    one = regressor(sample).predict(sample.flux, sample.ivar)
    assert not one.sigma_epistemic.any()


def test_scales_of_errors_multiply_both_uncertainties(sample):
    model = regressor(sample, members=2)
    before = model.predict(sample.flux, sample.ivar)
    model.errors.level.fill_(math.log(3.0))
    after = model.predict(sample.flux, sample.ivar)
    assert np.allclose(after.sigma, 3 * before.sigma, rtol=1e-5)
    assert np.array_equal(after.labels, before.labels)


def test_weights_depend_on_the_seed_alone(sample):
    torch.manual_seed(1)
    one = regressor(sample, seed=3).state_dict()
    torch.manual_seed(2)
    same, other = regressor(sample, seed=3).state_dict(), regressor(sample, seed=4).state_dict()
    weights = [name for name in one if name.endswith("layers.0.weight")]
    assert weights
    for name in weights:
        assert torch.equal(one[name], same[name])
        assert not torch.equal(one[name], other[name])


def test_inputs_beside_the_spectrum_are_seen_and_may_be_missing(sample):
    sample = sample.take(slice(None))
    sample.extra = np.linspace(10, 14, 40, dtype=np.float32)[:, None]
    spec = toy_spec(sample, inputs=["g_mag"])
    model = Regressor(spec, network="mlp", options=SMALL["mlp"]).eval()
    known = model.predict(sample.flux, sample.ivar, sample.extra)
    none = model.predict(sample.flux, sample.ivar)
    nan = model.predict(sample.flux, sample.ivar, np.full_like(sample.extra, np.nan))
    assert np.array_equal(none.labels, nan.labels)
    assert np.isfinite(none.labels).all()
    assert not np.allclose(known.labels, none.labels)


def test_unknown_networks_and_options_are_refused(sample):
    spec = toy_spec(sample)
    with pytest.raises(ValueError, match="no network 'cnn'; there are"):
        Regressor(spec, network="cnn")
    with pytest.raises(ValueError, match="depth"):
        Regressor(spec, network="residual", options={"depth": 3})
    with pytest.raises(ValueError, match="200 components of 143 pixels"):
        Regressor(spec, network="residual", options={"pca": 200})


def test_activations_keep_their_spread_through_selu_blocks():
    # Klambauer et al.: LeCun weights and SELU have the fixed point mean 0, variance 1.
    torch.manual_seed(0)
    net = ResidualMLP(shape(400, n_channel=1), width=400, blocks=1)
    y = torch.nn.functional.selu(net.first(torch.randn(500, 400)))
    made = net.blocks[0](y).detach()
    assert abs(float(made.mean())) < 0.1
    assert 0.8 < float(made.std()) < 1.2


def test_principal_components_are_those_of_an_svd():
    rng = np.random.default_rng(0)
    x = (
        rng.normal(size=(300, 40))
        * np.geomspace(10, 0.1, 40)
        @ np.linalg.qr(rng.normal(size=(40, 40)))[0]
    )
    vectors, spread = principal(torch.from_numpy(x), 5)
    _, singular, right = np.linalg.svd(x, full_matrices=False)
    assert np.allclose(spread, singular[:5] / np.sqrt(300), rtol=1e-6)
    assert np.allclose(np.abs(np.sum(vectors.numpy() * right[:5], axis=1)), 1, atol=1e-6)


def test_components_beyond_the_rank_are_orthonormal_and_empty():
    vectors, spread = principal(torch.randn(3, 20, generator=torch.Generator().manual_seed(0)), 6)
    assert torch.allclose(vectors @ vectors.T, torch.eye(6), atol=1e-5)
    assert float(spread[3:].max()) < 1e-5


def test_the_pca_variant_sees_components_and_the_mean_weight_alone(sample):
    model = regressor(sample, "residual", options=SMALL["residual"] | {"pca": 4})
    net = model.members[0]
    x = model.see(torch.from_numpy(sample.flux), torch.from_numpy(sample.ivar)).x
    net.given.learn(x)
    assert net.first.in_features == 5
    projected = torch.nn.functional.linear(x[:, 0], net.given.components)
    assert float(projected.square().mean()) == pytest.approx(1, rel=1e-3)
    across = x.clone()
    across[:, 0] -= projected @ torch.linalg.pinv(net.given.components).T
    across[:, 1] = across[:, 1].flip(1)
    none = x[:, 0, :0]
    moved = x.clone()
    moved[:, 0] -= across[:, 0]
    moved[:, 1] = across[:, 1]
    assert torch.allclose(net(x, none), net(moved, none), atol=1e-4)


def steep(n=400, n_pixel=40, seed=0):
    """Draw spectra whose spread falls a hundredfold from direction to direction."""
    rng = np.random.default_rng(seed)
    turned = np.linalg.qr(rng.normal(size=(n_pixel, n_pixel)))[0]
    x = rng.normal(size=(n, n_pixel)) * np.geomspace(1, 1e-2, n_pixel) @ turned
    return torch.from_numpy(x).float()[:, None]


@pytest.mark.parametrize("whiten", [0.0, 0.5, 1.0])
def test_components_are_divided_by_a_power_of_their_spread(whiten):
    x = steep()
    given = Given(shape(40, n_channel=1), pca=8, whiten=whiten)
    given.learn(x)
    made = given(x, x[:, 0, :0])
    _, singular, _ = np.linalg.svd(x[:, 0].double().numpy(), full_matrices=False)
    expected = (singular[:8] / singular[0]) ** (1 - whiten)
    found = made.square().mean(dim=0).sqrt().numpy()
    assert np.allclose(found / found[0], expected, rtol=2e-3)  # float32 subspace iteration
    assert float(made.square().mean()) == pytest.approx(1, rel=1e-3)


def test_pixels_stand_beside_the_components_where_asked_for(sample):
    model = regressor(sample, "mlp", options={"hidden": [8], "pca": 5, "pixels": True})
    x = model.see(torch.from_numpy(sample.flux), torch.from_numpy(sample.ivar)).x
    given = model.members[0].given
    given.learn(x)
    made = given(x, x[:, 0, :0])
    assert made.shape[1] == given.size == 5 + 2 * 143
    assert torch.equal(made[:, 5:], x.flatten(1))


def test_small_components_survive_products_in_bfloat16():
    x = steep()
    given = Given(shape(40, n_channel=1), pca=40, whiten=1.0)
    given.learn(x)
    exact = given(x, x[:, 0, :0])
    with torch.autocast("cpu", torch.bfloat16):
        made = given(x, x[:, 0, :0])
    # Of 8 bits, the rounding of the largest component would drown the smallest.
    assert torch.equal(made, exact)


def test_noise_stands_in_the_place_of_weights_as_its_logarithm_by_bands():
    rng = np.random.default_rng(3)
    variance = np.exp(rng.normal(-3, 1, (60, 1)) + rng.normal(0, 0.1, (60, 40)))
    variance[:, 30:] *= 100
    variance[7, 5:25] = np.inf  # masked
    x = torch.from_numpy(np.stack([rng.normal(size=(60, 40)), 1 / (1 + variance)], 1)).float()
    given = Given(shape(40), noise=4)
    given.learn(x)
    made = given(x, x[:, 0, :0])
    assert made.shape[1] == given.size == 40 + 4
    assert torch.equal(made[:, :40], x[:, 0])
    bands = np.delete(np.log(variance).reshape(60, 4, 10).mean(axis=2), 7, axis=0)
    there = np.delete(made[:, 40:].double().numpy(), 7, axis=0)
    for k in range(4):  # each band, but for a shift and a factor
        assert np.corrcoef(bands[:, k], there[:, k])[0, 1] > 1 - 1e-9
    assert np.allclose(made[:, 40:].mean(dim=0), 0, atol=1e-5)
    assert np.allclose(made[:, 40:].std(dim=0, correction=0), 1, atol=1e-5)
    # A band without a good pixel, and pixels that are masked, say nothing that is not finite.
    assert torch.isfinite(made).all()
    again = x.clone()
    again[7, 0, 5:25] = 9.0
    assert torch.equal(given(again, x[:, 0, :0])[7, 40:], made[7, 40:])


def test_noise_is_given_beside_components_alone(sample):
    options = {"hidden": [8], "pca": 5, "noise": 3}
    model = regressor(sample, "mlp", options=options)
    assert model.members[0].given.size == 5 + 3
    assert np.isfinite(model.predict(sample.flux, sample.ivar).labels).all()
    with pytest.raises(ValueError, match="use_ivar"):
        regressor(sample, "mlp", options=options, use_ivar=False)
    with pytest.raises(ValueError, match="noise = 144 bands of 143 pixels"):
        regressor(sample, "mlp", options=options | {"noise": 144})


@pytest.mark.parametrize("whiten", [-0.1, 1.1])
def test_whitening_is_a_part_of_one(whiten):
    with pytest.raises(ValueError, match="wanted 0 to 1"):
        Given(shape(), pca=4, whiten=whiten)


def test_the_plain_network_takes_either_activation_and_no_other():
    x, none = torch.randn(20, 1, 143), torch.zeros(20, 0)
    made = [
        PlainMLP(shape(n_channel=1), hidden=[8], activation=name, dropout=0.5).eval()(x, none)
        for name in ("selu", "gelu")
    ]
    assert not torch.allclose(*made)
    with pytest.raises(ValueError, match="no activation 'relu6'"):
        PlainMLP(shape(), activation="relu6")


@pytest.mark.parametrize(
    ("n_in", "n_out", "kernel", "n_pixel"), [(2, 4, 8, 50), (3, 2, 5, 16), (1, 1, 3, 7)]
)
def test_the_fast_convolution_is_torchs(n_in, n_out, kernel, n_pixel):
    torch.manual_seed(0)
    layer = torch.nn.Conv1d(n_in, n_out, kernel)
    x = torch.randn(3, n_pixel, n_in)
    for pool in (1, 2, 3, 4, 8):
        slow = convolved(x, layer, pool=pool)  # with gradients: torch's own
        with torch.inference_mode():
            fast = convolved(x, layer, pool=pool)
        assert torch.allclose(fast, slow, atol=1e-5)  # float32 sums of 24 numbers


def test_a_convolution_keeps_the_pixels_positive_and_the_largest():
    torch.manual_seed(0)
    layer, x = torch.nn.Conv1d(2, 3, 4), torch.randn(1, 9, 2)
    padded = np.pad(x[0].numpy(), ((1, 2), (0, 0)))
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    slow = [np.einsum("kc,ock->o", padded[i : i + 4], weight) + bias for i in range(9)]
    slow = np.maximum(slow, 0)
    made = convolved(x, layer)[0].detach()
    assert np.allclose(made, slow, atol=1e-6)
    pooled = convolved(x, layer, pool=4)[0].detach()
    assert np.allclose(pooled, [slow[:4].max(0), slow[4:8].max(0), slow[8]], atol=1e-6)


def test_starnet_is_the_same_with_and_without_gradients():
    torch.manual_seed(0)
    for n_pixel in (64, 143, 150):
        net, x = StarNet(shape(n_pixel), **SMALL["starnet"]), torch.randn(4, 2, n_pixel)
        slow = net(x, x[:, 0, :0])
        with torch.inference_mode():
            assert torch.allclose(net(x, x[:, 0, :0]), slow, atol=1e-5)


def test_spectra_are_folded_as_the_kernel_folds_them():
    net = FoldedCNN(shape(4096), **SMALL["folded"])
    pixels = np.arange(4096)
    assert np.array_equal(net.order.numpy().reshape(64, 64), fold(pixels))
    assert net.side == 64


def test_the_folded_network_of_the_paper_has_its_size():
    # methods.md 3.2: convolutions 5,248 + 663,680 + 2,654,464, dense 2,097,280 + 8,256
    net = FoldedCNN(shape(4096, n_channel=1))
    count = sum(p.numel() for part in (net.convolutions, net.dense) for p in part.parameters())
    assert count == 5_248 + 663_680 + 2_654_464 + 2_097_280 + 8_256


def test_a_kernel_without_a_middle_is_refused():
    with pytest.raises(ValueError, match="odd; got 8"):
        FoldedCNN(shape(), kernel=8)


def test_dropout_masks_can_be_drawn_again():
    layer = MonteCarloDropout(0.3, seed=5).eval()
    x = torch.ones(2, 1000)
    assert torch.equal(layer(x), x)
    layer.sample = 1
    first = layer(x)
    assert torch.equal(first[0], first[1])
    layer.sample = 2
    assert not torch.equal(layer(x), first)
    layer.sample = 1
    assert torch.equal(layer(x), first)
    assert 0.25 < float((first == 0).float().mean()) < 0.35  # 3 sigma of 1,000 draws of 0.3
    with pytest.raises(ValueError, match="below 1, got 1"):
        MonteCarloDropout(1.0, 0)


def test_dropout_makes_a_single_network_doubt(sample):
    found = regressor(sample, "bayesian").predict(sample.flux, sample.ivar)
    assert (found.sigma_epistemic > 0).all()


def test_a_censored_label_sees_its_windows_alone():
    spec = shape()
    low, high = spec.wavelength[[40, 60]]
    net = BayesianCNN(spec, windows={"fe_h": [[low, high]]}, **SMALL["bayesian"]).eval()
    x, none = torch.randn(3, 2, 143), torch.zeros(3, 0)
    far = x.clone().requires_grad_()
    told = net(far, none)
    gradient = torch.autograd.grad(
        net.branches["fe_h"](far[:, :, net.windows["fe_h"]].flatten(1)).sum(), far
    )[0]
    seen = gradient.abs().sum((0, 1)) > 0
    assert seen[40:61].all()
    assert not seen[:40].any()
    assert not seen[61:].any()
    # Beyond its windows the other labels are all it knows: where they stand still, it does.
    whole = torch.autograd.grad(told[:, 0, 2].sum(), far, retain_graph=True)[0]
    others = torch.autograd.grad(told[:, 0, :2].sum(), far)[0]
    assert torch.equal(whole.abs().sum((0, 1)) > 0, (others.abs().sum((0, 1)) > 0) | seen)


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ({"c_fe": [[4000, 5000]]}, "not among"),
        ({"fe_h": [[1.0, 2.0]]}, "hold no pixel"),
        ({name: [[4000, 5000]] for name in LABELS}, "leave no label"),
    ],
)
def test_windows_that_make_no_sense_are_refused(windows, message):
    with pytest.raises(ValueError, match=message):
        BayesianCNN(shape(), windows=windows)
