"""Small trained-looking networks for the optimizer's tests: smooth lines, one linear layer last."""

import numpy as np
import torch

from scalespec.models.base import EmulatorSpec
from scalespec.models.payne import Payne

STEP_LOG10 = 1e-4
LABELS = ("teff", "logg", "fe_h", "mg_fe")
MINIMUM, MAXIMUM = np.array([4000.0, 0.0, -2.0, -0.5]), np.array([6000.0, 4.0, 0.5, 0.5])


def small_payne(
    *,
    n_pixel: int = 600,
    n_label: int = 4,
    hidden: int = 24,
    activation: str = "silu",
    seed: int = 3,
) -> Payne:
    """A network whose outputs are lines 3 pixels wide that respond smoothly to labels."""
    wavelength = 10 ** (3.7 + STEP_LOG10 * np.arange(n_pixel))
    names = (*LABELS, *(f"x{k}_fe" for k in range(n_label)))[:n_label]
    low = np.concatenate([MINIMUM, np.full(n_label, -0.5)])[:n_label]
    high = np.concatenate([MAXIMUM, np.full(n_label, 0.5)])[:n_label]
    spec = EmulatorSpec("small", names, low, high, wavelength, resolving_power=1800.0)
    model = Payne(spec, hidden=(hidden, hidden), activation=activation, seed=seed)
    rng = np.random.default_rng(seed)
    center = rng.uniform(0, n_pixel, n_pixel // 8)
    profile = np.exp(-0.5 * ((np.arange(n_pixel)[:, None] - center) / 1.4) ** 2)
    response = rng.normal(0, 0.35, (len(center), hidden))
    with torch.no_grad():
        model.output.weight.copy_(torch.tensor(-profile @ response))
        model.output.bias.copy_(torch.tensor(1 - profile @ rng.uniform(0.1, 0.4, len(center))))
    return model


def small_mocks(
    model: Payne, n: int, *, snr: float = 80.0, seed: int = 0, spread: float = 0.4, rv: float = 30.0
) -> dict[str, np.ndarray]:
    """Noisy spectra of the network itself at random labels and velocities, 3 % masked."""
    from scalespec.optimize.shift import Shift, log_step

    rng = np.random.default_rng(seed)
    x = rng.uniform(-spread, spread, (n, model.spec.n_label))
    velocity = rng.uniform(-rv, rv, n)
    with torch.no_grad():
        rest = model.forward_scaled(torch.tensor(x).float())
        shift = Shift.by(torch.tensor(velocity).float(), step=log_step(model.spec.wavelength))
        clean = shift.forward(rest).numpy()
    flux = clean + rng.standard_normal(clean.shape) / snr
    ivar = np.where(rng.random(clean.shape) < 0.03, 0.0, snr**2)
    labels = model.unscale(torch.tensor(x)).numpy()
    return {
        "x": x,
        "labels": labels,
        "rv": velocity,
        "clean": clean,
        "flux": flux.astype(np.float32),
        "ivar": ivar.astype(np.float32),
    }
