"""Fits per second on one core, beside the public recipe and the float32 peak of this process.

Run: ``python benchmarks/bench_optimize.py [--quick] [--json F] [--stars N] [--recipe-stars N]``.
CPU time of the process, so a shared machine shows little. The recipe is that of The Payne's own
fitting: scipy's `curve_fit` (TRF, numeric Jacobian), from the middle of the range, velocity within
5 km/s, one star at a time; its Doppler shift interpolates as ours does, so that both minimize the
same chi2. Mocks have S/N about 100, a smooth noise profile each, 3 % bad pixels, RV within 4 km/s.
Ours begin from a ridge's labels and velocities, learned from other spectra of the same network. The
networks are leaky ReLU, as The Payne's, and SiLU, our default; The Cannon is fitted at rest.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import curve_fit

from scalespec.kernels.continuum import gaussian_smoothing, normalize
from scalespec.models.base import EmulatorSpec
from scalespec.models.cannon import Cannon, monomials
from scalespec.models.payne import Payne
from scalespec.optimize.features import fit_at_rest
from scalespec.optimize.fit import FitOptions, Fitter
from scalespec.optimize.matmul import linear
from scalespec.optimize.normalization import Smoother
from scalespec.optimize.objective import Objective
from scalespec.optimize.shift import Shift, log_step
from scalespec.optimize.start import RidgeStart, ridge_start
from scalespec.store.model import load_model

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "emulators"
N_LABEL, N_PIXEL, N_LINE = 25, 7214, 1800
RV_KMS, RV_RANGE_KMS = 4.0, 5.0


@dataclass(frozen=True)
class Mocks:
    """Spectra of known labels and velocities."""

    flux: np.ndarray
    ivar: np.ndarray
    labels: np.ndarray
    rv: np.ndarray


def toy_spectra(x: np.ndarray, wavelength: np.ndarray) -> np.ndarray:
    """Line formation in one layer: (n, 25) scaled labels -> (n, P) flux at R = 22,500.

    Labels 0 to 2 stand for temperature, gravity and microturbulence, 3 to 23 for elements of which
    some have many lines and some few, 24 for macroturbulence.
    """
    rng = np.random.default_rng(3)
    share = rng.dirichlet(np.full(21, 0.6))
    element = rng.choice(21, N_LINE, p=share) + 3
    strength, energy = rng.normal(-1.5, 1.2, N_LINE), rng.uniform(0, 6, N_LINE)
    place = rng.uniform(0, len(wavelength), N_LINE)
    pixel = np.arange(len(wavelength))
    opacity = np.zeros((len(x), len(wavelength)), np.float32)
    width = 1.3 * (1 + 0.5 * (x[:, 24] + 0.5) + 0.15 * x[:, 2])
    for i in range(N_LINE):
        near = slice(max(0, int(place[i]) - 10), int(place[i]) + 11)
        change = 1.6 * x[:, element[i]] - (0.9 * energy[i] / 3 - 1.2) * x[:, 0] + 0.5 * x[:, 1]
        depth = np.exp(strength[i] + change)
        saturated = depth / (1 + depth * (0.3 - 0.2 * x[:, 2]))
        profile = np.exp(-0.5 * ((pixel[near] - place[i]) / width[:, None]) ** 2)
        opacity[:, near] += (saturated * 1.3 / width)[:, None] * profile
    return np.exp(-0.6 * opacity)


def toy_network(steps: int, n_train: int, activation: str) -> Payne:
    """Train 25-300-300-7214 on the toy grid.

    The hidden layers learn principal components of the flux, then the last layer is fitted to every
    pixel in closed form.
    """
    wavelength = 15100.0 * np.exp(np.arange(N_PIXEL) * 1.6e-5)
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.5, 0.5, (n_train + 300, N_LABEL))
    flux = torch.tensor(toy_spectra(x, wavelength).astype(np.float32))
    inputs = torch.tensor(x.astype(np.float32))
    names = tuple(f"label_{k}" for k in range(N_LABEL))
    spec = EmulatorSpec("toy", names, np.zeros(N_LABEL), np.ones(N_LABEL), wavelength)
    model = Payne(spec, hidden=(300, 300), activation=activation)
    mean = flux[:n_train].mean(dim=0)
    _, s, vt = torch.linalg.svd(flux[:1200] - mean, full_matrices=False)
    target = (flux[:n_train] - mean) @ vt[:200].T * (35 / s[:200].clamp(min=0.05 * s[0]))
    head = torch.nn.Linear(300, 200)
    parameters = [*model.hidden.parameters(), *head.parameters()]
    adam = torch.optim.Adam(parameters, lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 4e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(n_train, (256,), generator=generator)
        loss = (head(model.features(inputs[rows])) - target[rows]).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    with torch.no_grad():
        features = torch.nn.functional.pad(model.features(inputs), (0, 1), value=1.0).double()
        train = features[:n_train]
        normal = train.T @ train + 1e-3 * torch.eye(301).double()
        solved = torch.linalg.solve(normal, train.T @ flux[:n_train].double())
        model.output.weight.copy_(solved[:-1].T)
        model.output.bias.copy_(solved[-1])
        rms = (model.forward_scaled(inputs[n_train:]) - flux[n_train:]).square().mean().sqrt()
    print(
        f"toy network, {activation}: rms {float(rms):.4f} of the continuum on 300 spectra left out"
    )
    return model


def make_mocks(model: Payne, n: int, seed: int) -> Mocks:
    """Draw spectra of the model itself: what is fitted is its inverse, and nothing else."""
    rng, spec = np.random.default_rng(seed), model.spec
    x = rng.uniform(-0.45, 0.45, (n, spec.n_label)).astype(np.float32)
    rv = rng.uniform(-RV_KMS, RV_KMS, n)
    with torch.no_grad():
        rest = model.forward_scaled(torch.tensor(x))
        clean = Shift.by(torch.tensor(rv).float(), step=log_step(spec.wavelength)).forward(rest)
    place = np.linspace(-1, 1, spec.n_pixel)
    shape = (
        1 + 0.3 * rng.uniform(-1, 1, (n, 1)) * place + 0.2 * rng.uniform(-1, 1, (n, 1)) * place**2
    )
    sigma = shape / rng.uniform(80, 125, (n, 1))
    flux = clean.numpy() + sigma * rng.standard_normal(clean.shape)
    ivar = np.where(rng.random(clean.shape) < 0.03, 0, sigma**-2)
    labels = model.unscale(torch.tensor(x).double()).numpy()
    return Mocks(flux.astype(np.float32), ivar.astype(np.float32), labels, rv)


def recipe(model: Payne, flux: np.ndarray, ivar: np.ndarray) -> tuple[np.ndarray, int]:
    """Fit one star the public way; return scaled labels with the velocity, and network calls."""
    # In float64, as labels are there: a numeric Jacobian is noise in float32.
    weights = [(p.weight.detach().double().numpy(), p.bias.detach().double().numpy())
               for p in (*model.hidden, model.output)]  # fmt: skip
    step, calls = log_step(model.spec.wavelength), 0

    def shifted(rest: np.ndarray, rv: float) -> np.ndarray:
        moved = Shift.by(torch.tensor([rv]).double(), step=step)
        padded = np.pad(rest, 40, mode="edge")
        first = int(moved.first[0]) + 40
        taps = moved.taps[0].numpy()
        return sum(t * padded[first + j : first + j + len(rest)] for j, t in enumerate(taps))

    def predict(_: Any, *parameters: float) -> np.ndarray:
        nonlocal calls
        calls += 1
        value = np.array(parameters[:-1])
        for k, (weight, bias) in enumerate(weights):
            value = weight @ value + bias
            if k + 1 < len(weights) and model.activation == "silu":
                value = value / (1 + np.exp(-value))
            elif k + 1 < len(weights):
                value = value * (value > 0) + 0.01 * value * (value < 0)
        return shifted(value, parameters[-1])

    sigma = np.where(ivar > 0, 1 / np.sqrt(np.where(ivar > 0, ivar, 1)), 999.0)
    bounds = np.full((2, model.spec.n_label + 1), 0.5)
    bounds[0] = -0.5
    bounds[:, -1] = -RV_RANGE_KMS, RV_RANGE_KMS
    best, _ = curve_fit(
        predict, None, flux, p0=np.zeros(bounds.shape[1]), sigma=sigma, absolute_sigma=True,
        bounds=bounds, ftol=5e-4, xtol=5e-4, method="trf",
    )  # fmt: skip
    return best, calls


def chi2_of(model: Payne, stars: Mocks, parameters: np.ndarray) -> np.ndarray:
    """Evaluate chi2 in float64 at scaled labels and velocities [km/s]."""
    wide = Payne(model.spec, **model.options).double()
    wide.load_state_dict({k: v.double() for k, v in model.state_dict().items()})
    n = len(parameters)
    with torch.no_grad():
        objective = Objective.of(
            wide,
            torch.tensor(stars.flux[:n]).double(),
            torch.tensor(stars.ivar[:n]).double(),
            rv_start=torch.zeros(n).double(),
            rv_range=RV_RANGE_KMS,
        )
        scaled = torch.tensor(parameters).double()
        scaled[:, -1] /= 2 * RV_RANGE_KMS
        return objective.chi2(scaled).numpy()


def cpu_time(function: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Return the least CPU time of several calls, and the last result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        begin = time.process_time()
        result = function()
        best = min(best, time.process_time() - begin)
    return best, result


def peak() -> float:
    """Measure the float32 peak of one thread [FLOP/s]: the better library, large squares."""
    a = torch.randn(2048, 2048)
    with torch.no_grad():
        fast = min(cpu_time(lambda: linear(a, a), 5)[0], cpu_time(lambda: a @ a, 5)[0])
    return 2 * 2048**3 / fast


def flops(model: Payne, result: Any, n_hessian: float) -> float:
    """Return the arithmetic of the products with the last layer and in the Hessians, per star."""
    n_label, (hidden, n_pixel) = model.spec.n_label, model.output.weight.T.shape
    evaluations = float(result.n_steps.mean()) + 1
    layers = 4 * hidden * n_pixel + 6 * hidden * (hidden + n_label)
    return evaluations * layers + n_hessian * (2 * hidden**2 * n_label + 2 * hidden * n_pixel)


def bench(
    name: str, model: Payne, n: int, n_recipe: int, best_flops: float
) -> list[dict[str, Any]]:
    """Fit mocks of one network both ways."""
    stars = make_mocks(model, n, seed=7)
    ridge: RidgeStart = ridge_start(model, n_draws=4000, seed=99, rv_kms=RV_KMS)
    rows = []
    recipe_time, found = 0.0, []
    calls = 0
    for i in range(n_recipe):
        begin = time.process_time()
        one, count = recipe(model, stars.flux[i], stars.ivar[i])
        recipe_time += time.process_time() - begin
        found.append(one)
        calls += count
    recipe_ms = 1e3 * recipe_time / n_recipe
    recipe_chi2 = chi2_of(model, stars, np.array(found))
    print(f"{name}: recipe {recipe_ms:.0f} ms, {calls / n_recipe:.0f} calls")
    for label, options in (
        ("", {"restarts": 0}),
        (", exact covariance", {"restarts": 0, "exact_covariance": True}),
        (", as by default", {}),  # searches of models that go astray are begun again
    ):
        chosen = FitOptions(rv_range=RV_RANGE_KMS, **options)
        once, fitter = cpu_time(lambda o=chosen: Fitter.of(model, options=o), 1)

        def fit(fitter: Fitter = fitter) -> Any:
            start, rv = ridge.estimate(stars.flux, stars.ivar)
            return fitter.fit(stars.flux, stars.ivar, start=start, rv_start=rv)

        seconds, result = cpu_time(fit, 4)  # oneDNN compiles for every new shape, once
        x = np.column_stack([model.scale(torch.tensor(result.labels)).numpy(), result.rv])
        worse = chi2_of(model, stars, x[:n_recipe].astype(float)) - recipe_chi2
        unflagged = worse[result.status[:n_recipe] == 0]
        ms = 1e3 * seconds / n
        fraction = flops(model, result, 3) / (seconds / n) / best_flops
        evaluations = result.n_steps.mean() + 1
        note = (
            f"{recipe_ms / ms:.0f}x; {evaluations:.1f} evaluations; chi2 within +0.1 of the "
            f"recipe's for {np.mean(worse <= 0.1):.1%} of {n_recipe}, worst {worse.max():+.2f}, "
            f"unflagged {unflagged.max(initial=-99):+.2f}, "
            f"better by > 0.1 for {np.mean(worse < -0.1):.1%}; {once:.2f} s once per worker"
        )
        rows.append(
            {
                "name": f"{name}{label}",
                "value": ms,
                "unit": "ms/star/core",
                "limit": flops(model, result, 3) / best_flops * 1e3,
                "recipe": recipe_ms,
                "ratio_to_recipe": recipe_ms / ms,
                "fraction_of_limit": fraction,
                "note": note,
            }
        )
        print(f"  {ms:.3f} ms, {fraction:.0%} of peak; {note}")
    return rows


def normalized(name: str, model: Payne, n: int) -> list[dict[str, Any]]:
    """Fit the same mocks as they are, and smoothed by 50 Å, the model with them."""
    stars = make_mocks(model, n, seed=7)
    ridge = ridge_start(model, n_draws=4000, seed=99, rv_kms=RV_KMS)
    start, rv = ridge.estimate(stars.flux, stars.ivar)
    operator = gaussian_smoothing(model.spec.wavelength, 50.0)
    flux, ivar, _, _ = normalize(stars.flux, stars.ivar, operator)
    spent, steps = [], []
    for data, smoothing in (
        ((stars.flux, stars.ivar), None),
        ((flux, ivar), Smoother(operator.tiles, model.scatter)),
    ):
        options = FitOptions(rv_range=RV_RANGE_KMS, restarts=0)
        fitter = Fitter.of(model, smoothing=smoothing, options=options)
        given = {"start": start, "rv_start": rv}
        seconds, result = cpu_time(lambda f=fitter, d=data: f.fit(*d, **given), 3)  # noqa: B023
        spent.append(1e3 * seconds / n)
        steps.append(result.n_steps.mean())
    note = f"{steps[1]:.1f} steps; as it is {spent[0]:.3f} ms and {steps[0]:.1f}"
    print(f"{name}, normalized: {spent[1]:.3f} ms; {note}")
    blank = dict.fromkeys(("limit", "recipe", "ratio_to_recipe", "fraction_of_limit"))
    row = {"name": f"{name}, normalized by 50 Å", "value": spent[1], "unit": "ms/star/core"}
    return [row | blank | {"note": note}]


def cannon(n: int, n_recipe: int) -> list[dict[str, Any]]:
    """Fit a quadratic Cannon of five labels both ways, at rest; S/N 100, 3 % bad pixels.

    The recipe is TheCannon's (github.com/annayqho/TheCannon, infer_labels.py): scipy's `curve_fit`
    with a numeric Jacobian, per star, from the middle.
    """
    rng, n_pixel = np.random.default_rng(2), 8575
    wavelength = 15_100.0 * 10 ** (6e-6 * np.arange(n_pixel))
    names = tuple(f"label_{k}" for k in range(5))
    spec = EmulatorSpec("quadratic", names, np.zeros(5), np.ones(5), wavelength)
    model = Cannon(spec)
    theta = rng.normal(0, 0.03, model.coefficients.shape) * rng.random((n_pixel, 1)) ** 3
    theta[:, 0] = 0.9
    x = rng.uniform(-0.4, 0.4, (n, 5))
    with torch.no_grad():
        model.coefficients.copy_(torch.tensor(theta))
        model.scatter.copy_(torch.tensor(rng.uniform(0.002, 0.01, n_pixel)))
        clean = model.forward_scaled(torch.tensor(x).float()).numpy()
    sigma = rng.uniform(0.8, 1.2, (n, 1)) / 100
    noise = np.hypot(sigma, model.scatter.numpy())
    flux = (clean + noise * rng.standard_normal(clean.shape)).astype(np.float32)
    ivar = np.where(rng.random(clean.shape) < 0.03, 0, sigma**-2).astype(np.float32)
    seconds, fit = cpu_time(lambda: fit_at_rest(model, flux, ivar), 5)
    factors, theta = monomials(5, 2), model.coefficients.detach().double().numpy()

    def predict(_: Any, *labels: float) -> np.ndarray:
        return theta @ np.append(labels, 1.0)[factors].prod(axis=1)

    found, begin = [], time.process_time()
    for i in range(n_recipe):
        error = np.sqrt(np.where(ivar[i] > 0, 1 / np.maximum(ivar[i], 1e-9), 1e12))
        total = np.hypot(error, model.scatter.numpy())
        start = np.zeros(5)
        found.append(curve_fit(predict, None, flux[i], p0=start, sigma=total)[0])
    recipe_ms = 1e3 * (time.process_time() - begin) / n_recipe
    off = (fit.labels[:n_recipe] - (np.array(found) + 0.5)) / fit.label_err[:n_recipe]
    ms = 1e3 * seconds / n
    note = (
        f"{recipe_ms / ms:.0f}x; labels differ from the recipe's by {np.abs(off).max():.1e} sigma"
    )
    print(f"The Cannon, 5 labels x 8,575 px: {ms:.3f} ms, recipe {recipe_ms:.1f} ms; {note}")
    return [
        {
            "name": "The Cannon, 5 labels x 8,575 px, at rest",
            "value": ms,
            "unit": "ms/star/core",
            "limit": None,
            "recipe": recipe_ms,
            "ratio_to_recipe": recipe_ms / ms,
            "fraction_of_limit": None,
            "note": note,
        }
    ]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stars", type=int, default=1024)
    parser.add_argument("--recipe-stars", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    n, n_recipe = (256, 8) if given.quick else (given.stars, given.recipe_stars)
    best_flops = peak()
    print(f"float32 peak of this process: {best_flops / 1e9:.0f} GFLOP/s")
    rows = []
    steps, n_train = (800, 2000) if given.quick else (2000, 4000)
    for name, activation in (("leaky ReLU", "leaky_relu"), ("SiLU", "silu")):
        model = toy_network(steps, n_train, activation)
        rows += bench(f"25 labels x 7,214 px, {name}", model, n, n_recipe, best_flops)
    if SHARED.is_dir():
        model = load_model(str(SHARED / "giants_4000-5000_lamost.npz"))
        name = "22 labels x 3,909 px, giants 4000-5000 K"
        rows += bench(name, model, n, n_recipe, best_flops) + normalized(name, model, n)
    rows += cannon(n, n_recipe)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
