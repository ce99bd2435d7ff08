"""What tests of training loops share: where a loop runs alone, and what gradients should be."""

import torch

from scalespec.models.weighed import Spectra

FLOOR = 0.01
STEP = 1e-5


class Alone:
    """One rank, which may be killed while it reports."""

    rank, world_size, device = 0, 1, "cpu"

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.reports = []

    def wrap(self, model):
        return model

    def report(self, metrics):
        self.reports.append(metrics)
        if self.stop_after == len(self.reports):
            raise KeyboardInterrupt


def weighed(x, flux, ivar=torch.inf, shift=0.0):
    """Spectra as variable projection takes them."""
    ivar = torch.as_tensor(ivar, dtype=torch.float32).expand(flux.shape)
    shift = torch.as_tensor(shift, dtype=torch.float32).expand(len(x))
    return Spectra.weigh(x, flux, ivar, shift, FLOOR)


def difference_quotient(problem, weight, place):
    """Slope of what a problem evaluates to along one weight, from a step to either side."""
    values = []
    for sign in (1, -1):
        weight.data[place] += sign * STEP
        values.append(problem.evaluate())
        weight.data[place] -= sign * STEP
    return (values[0] - values[1]) / (2 * STEP)
