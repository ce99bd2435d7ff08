"""Errors that a model makes along many pixels at once, as labels with a prior.

A model learned from a few hundred stars misses others by more than noise, and by spectra, not by
pixels: a chi2 that takes such misses for independent believes far too much of them. Their principal
components become labels of the model, each of them 0 +- 1, which a fit knows of and marginalizes.
"""

from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from scalespec.models.base import EmulatorSpec
from scalespec.models.payne import Payne
from scalespec.models.scatter import measure_scatter

REACH = 5.0
"""Sigmas to which an amplitude may go, either way."""
_CLIP = 6.0  # robust sigmas of a pixel as which residuals count at most
_FLOOR = 1e-3  # of flux: the first guess of the scatter that is left

Kind = TypeVar("Kind", bound=Payne)


def with_leeway(
    model: Kind, residual: Tensor, ivar: Tensor, n: int, *, growth: float = 1.0
) -> Kind:
    """Return `model` with `n` more labels: amplitudes of what its residuals have in common.

    Parameters
    ----------
    model : Payne or HotPayne
        Without leeway.
    residual : (n_spectrum, n_pixel) tensor
        Flux less the model's at the stars' own labels; better of stars that it did not learn from.
    ivar : (n_spectrum, n_pixel) tensor
        Of the noise in it; 0 where there is no information.
    n : int
        How many; fewer than the spectra.
    growth : float
        By so much residuals of other stars are greater than these.

    Returns
    -------
    Payne or HotPayne
        With labels ``leeway_1`` to ``leeway_n`` whose prior, 0 +- 1, is in its specification for
        fits to find, and with the scatter that is left.

    Raises
    ------
    ValueError
        If there are not more spectra than labels asked for, or the model has leeway.

    References
    ----------
    Marginalizing a linear model of the errors is a low-rank covariance of pixels: Czekala et al.
    2015, ApJ 812, 128, section 2.3, for what it does to labels.

    Examples
    --------
    >>> wavelength = 5000.0 + np.arange(40)
    >>> model = Payne(EmulatorSpec("toy", ("teff",), [4e3], [6e3], wavelength), hidden=(4,))
    >>> wave = torch.sin(torch.arange(40) / 5.0)
    >>> residual = 0.02 * torch.randn(100, 1, generator=torch.Generator().manual_seed(1)) * wave
    >>> made = with_leeway(model, residual, torch.full((100, 40), 1e8), 1)
    >>> made.spec.labels, made.spec.extra["prior"]
    (('teff', 'leeway_1'), {'leeway_1': [0.0, 1.0]})
    >>> sure, off = (made(torch.tensor([[5000.0, a]])) for a in (0.0, 1.0))
    >>> bool((off - sure)[0].detach().abs().max() > 0.015)
    True
    """
    if model.leeway:
        raise ValueError(f"the model has leeway already: {model.spec.labels}")
    if not 0 < n < len(residual):
        raise ValueError(f"leeway wants more spectra than labels, got {len(residual)} for {n}")
    used = ivar > 0
    left = torch.where(used, residual, 0.0).double()
    usual = torch.where(used, left.abs(), torch.nan).nanmedian(dim=0).values.nan_to_num()
    limit = _CLIP * 1.4826 * usual
    left = left.clamp(-limit, limit)
    u, s, vt = torch.linalg.svd(left, full_matrices=False)
    noise = torch.where(used, 1 / ivar, 0.0).double().sum(dim=0)
    energy = (s[:n] ** 2 - vt[:n] ** 2 @ noise).clamp(min=0)
    templates = growth * vt[:n] * (energy / len(left)).sqrt()[:, None]
    rest = (left - (u[:, :n] * s[:n]) @ vt[:n]).to(residual)
    made = type(model)(_widened(model.spec, n), **model.options | {"leeway": n}).to(model.scatter)
    state = model.state_dict()
    columns = (2 * REACH * templates.T).to(state["output.weight"])
    state["output.weight"] = torch.cat([state["output.weight"], columns], dim=1)
    state["scatter"] = growth * measure_scatter(rest, ivar, _FLOOR, lambda own: own)
    made.load_state_dict(state)
    return made


def _widened(spec: EmulatorSpec, n: int) -> EmulatorSpec:
    """Return the specification with `n` amplitudes, and their priors."""
    names = tuple(f"leeway_{k + 1}" for k in range(n))
    prior = dict(spec.extra.get("prior", {})) | {name: [0.0, 1.0] for name in names}
    return replace(
        spec,
        labels=(*spec.labels, *names),
        minimum=np.append(spec.minimum, np.full(n, -REACH)),
        maximum=np.append(spec.maximum, np.full(n, REACH)),
        extra={**spec.extra, "prior": prior},
    )
