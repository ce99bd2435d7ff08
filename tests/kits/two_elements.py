"""A survey of two elements that go together, and what the truth about each is."""

import numpy as np
import torch

from scalespec.models.base import Emulator, EmulatorSpec

PIXELS = 60
LABELS = ("teff", "mg_fe", "si_fe")


def spec():
    return EmulatorSpec("toy", LABELS, [-0.5] * 3, [0.5] * 3, 5000.0 + np.arange(PIXELS))


class Truth(Emulator):
    """Saturating lines: 8 of each element, all of them fading with temperature."""

    def __init__(self):
        super().__init__(spec())
        rng = np.random.default_rng(3)
        center = torch.from_numpy(rng.uniform(4, PIXELS - 4, (2, 8)))
        pixel = torch.arange(PIXELS, dtype=torch.float64)
        self.lines = torch.exp(-0.5 * ((pixel - center[:, :, None]) / 1.2) ** 2)

    def forward_scaled(self, x):
        strength = torch.exp(-1.0 + 2.0 * x[:, 1:] - 1.5 * x[:, :1])
        depth = strength / (1 + strength)
        return 1 - 0.3 * torch.einsum("ne,elp->np", depth.double(), self.lines).to(x)


def correlated(n, seed=1):
    """Labels whose two elements go together exactly."""
    x = np.random.default_rng(seed).uniform(-0.5, 0.5, (n, 2))
    return torch.from_numpy(np.column_stack([x, x[:, 1]]).astype(np.float32))


def references(n=6, seed=2):
    """Stars that need not be like those of the survey, only within the labels' ranges."""
    x = np.random.default_rng(seed).uniform(-0.5, 0.5, (n, 3))
    return torch.from_numpy(x.astype(np.float32))


class Rows:
    """Spectra in memory, alike in every epoch."""

    def __init__(self, x, flux, ivar, shift=None):
        shift = torch.zeros(len(x)) if shift is None else shift
        self.parts = [a.numpy() for a in (x, flux, ivar, shift)]

    def chunks(self, epoch, rank, world_size):
        yield tuple(self.parts)


def gradient_errors(model):
    """Return the relative error of dF/dx per label, at stars that no training has seen."""
    x = references(200, seed=8)
    with torch.no_grad():
        wanted, found = Truth().flux_and_jacobian(x)[1], model.flux_and_jacobian(x)[1]
    return ((found - wanted).square().sum((0, 2)) / wanted.square().sum((0, 2))).sqrt().tolist()
