"""A batch without a star that can be fitted: zero rows of every emulator, and no fit breaks."""

import numpy as np
import pytest
import torch

from scalespec.models.base import EmulatorSpec
from scalespec.optimize.fit import FitOptions, fit_labels
from scalespec.optimize.result import FitStatus
from scalespec.store.model import MODELS

N_PIXEL, N_LABEL = 120, 4
SPEC = EmulatorSpec(
    "m", ("teff", "logg", "fe_h", "mg_fe"), [4000, 1, -1, -0.3], [6500, 5, 0.5, 0.5],
    10 ** (3.7 + 1e-4 * np.arange(N_PIXEL)), resolving_power=1800.0,
)  # fmt: skip
SMALL = {
    "transformer": {"width": 8, "layers": 1, "heads": 2, "waves": 8},
    "phdlspec": {"width": 8, "layers": 1, "heads": 2, "features": 6},
}


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_rows_of_any_number_have_their_flux_and_derivatives(name, n):
    model = MODELS[name](SPEC, **SMALL.get(name, {})).eval()
    x = torch.zeros(n, N_LABEL)
    with torch.no_grad():
        flux, slopes = model.flux_and_jacobian(x)
        alone = model(model.unscale(x))
    assert flux.shape == alone.shape == (n, N_PIXEL)
    assert slopes.shape == (n, N_LABEL, N_PIXEL)


@pytest.fixture(params=sorted(MODELS))
def model(request):
    made = MODELS[request.param](SPEC, **SMALL.get(request.param, {}))
    return made.eval()


@pytest.mark.parametrize("n", [0, 1, 9])
def test_stars_without_a_pixel_get_their_rows(model, n):
    flux = np.ones((n, N_PIXEL), np.float32)
    fit = fit_labels(model, flux, 0 * flux, options=FitOptions(restarts=1))
    assert fit.status.tolist() == [int(FitStatus.NO_PIXELS)] * n
    assert np.isnan(fit.labels).all()
    assert fit.labels.shape == (n, N_LABEL)


def test_a_last_batch_without_a_good_star_spoils_no_other(model):
    """Batches of 4: the second holds but one star, and that has no pixel."""
    flux = np.ones((5, N_PIXEL), np.float32)
    ivar = np.full_like(flux, 1e4)
    ivar[4] = 0
    options = FitOptions(stars_per_batch=4, max_steps=3)
    together, alone = (fit_labels(model, flux[:k], ivar[:k], options=options) for k in (5, 4))
    np.testing.assert_array_equal(together.labels[:4], alone.labels)
    assert together.fitted.tolist() == [True] * 4 + [False]
