"""True spectra: one star as its model has it, two as their light adds."""

import numpy as np
import pytest
import torch

from scalespec.models.base import Emulator, EmulatorSpec
from scalespec.schema import C_KMS
from scalespec.stages.mock_spectra import load_lines, model_flux, star_flux, synthesis_model

STEP = 2e-5
GRID = 10 ** (3.7 + STEP * np.arange(3000))
SIGMA = 3.0  # pixels: resolved lines


class Line(Emulator):
    """One line, deeper for cooler stars."""

    def __init__(self, wavelength: np.ndarray = GRID) -> None:
        super().__init__(
            EmulatorSpec("line", ("teff", "logg"), [4000.0, 0.0], [9000.0, 5.0], wavelength)
        )
        middle = np.log10(wavelength[len(wavelength) // 2])
        away = (np.log10(wavelength) - middle) / (SIGMA * STEP)
        self.profile = torch.tensor(np.exp(-0.5 * away**2)).float()

    def forward_scaled(self, x: torch.Tensor) -> torch.Tensor:
        return 1 - (0.5 - 0.4 * x[:, :1].float()) * self.profile


def stars(**changes):
    """Two single stars and a binary between them."""
    columns = {
        "teff": [5000.0, 6000.0, 5000.0],
        "logg": [4.5, 4.4, 4.5],
        "rv": [0.0, 30.0, 0.0],
        "binary": [False, True, False],
        "rv_2": [np.nan, -70.0, np.nan],
        "area_2": [0.0, 0.5, 0.0],
        "teff_2": [np.nan, 4800.0, np.nan],
        "logg_2": [np.nan, 4.6, np.nan],
    } | changes
    return {name: np.array(values) for name, values in columns.items()}


def planck(wavelength, teff):
    """Black body by its definition, in arbitrary units."""
    return wavelength**-5 / (np.exp(1.438776877e8 / (wavelength * teff)) - 1)


def test_a_star_alone_is_its_models():
    flux = star_flux(Line(), stars())
    with torch.no_grad():
        expected = Line()(torch.tensor([[5000.0, 4.5], [5000.0, 4.5]])).numpy()
    np.testing.assert_array_equal(flux[[0, 2]], expected)
    assert flux.dtype == np.float32


def test_two_stars_are_added_with_their_light_and_velocities():
    """Against the sum of black bodies times lines, each at its own velocity, without a grid."""
    flux = star_flux(Line(), stars())[1]
    middle = GRID[len(GRID) // 2]
    total, light = 0.0, 0.0
    for teff, rv, area in ((6000.0, 0.0, 1.0), (4800.0, -100.0, 0.5)):
        depth = 0.5 - 0.4 * ((teff - 4000) / 5000 - 0.5)
        shift = np.log10(np.sqrt((1 + rv / C_KMS) / (1 - rv / C_KMS)))
        away = (np.log10(GRID / middle) - shift) / (SIGMA * STEP)
        continuum = area * planck(GRID, teff)
        total = total + continuum * (1 - depth * np.exp(-0.5 * away**2))
        light = light + continuum
    inside = slice(20, -20)
    assert np.abs(flux - total / light)[inside].max() < 2e-5  # float32, and 16-point interpolation


def test_equal_stars_of_one_velocity_are_one_star():
    twin = stars(teff_2=[np.nan, 6000.0, np.nan], rv_2=[np.nan, 30.0, np.nan])
    alone = stars(binary=[False, False, False])
    assert np.allclose(star_flux(Line(), twin), star_flux(Line(), alone), atol=1e-6)


def test_a_faint_companion_hides():
    faint = stars(area_2=[0.0, 1e-6, 0.0])
    alone = stars(binary=[False, False, False])
    assert np.allclose(star_flux(Line(), faint), star_flux(Line(), alone), atol=1e-5)


def test_binaries_want_an_even_grid():
    with pytest.raises(ValueError, match="uniform in log wavelength, got steps of"):
        star_flux(Line(np.linspace(5000.0, 5700.0, 500)), stars())
    alone = stars(binary=[False] * 3)
    assert star_flux(Line(np.linspace(5000.0, 5700.0, 500)), alone).shape == (3, 500)


def test_many_stars_are_made_in_batches():
    labels = np.stack([np.linspace(4000, 9000, 150), np.full(150, 4.0)], 1)
    with torch.no_grad():
        expected = Line()(torch.tensor(labels)).numpy()
    np.testing.assert_array_equal(model_flux(Line(), labels), expected)
    assert model_flux(Line(), labels[:0]).shape == (0, 3000)


def test_our_synthesis_serves_lamosts_grid():
    model = synthesis_model(("teff", "logg", "fe_h"))
    steps = np.diff(np.log10(model.spec.wavelength))
    assert np.allclose(steps, 5e-5)
    assert model.spec.wavelength[0] < 10**3.5682
    assert model.spec.labels == ("teff", "logg", "fe_h")


def test_the_packages_lines_are_sorted_and_in_vacuum():
    lines = load_lines()
    assert len(lines.element) == len(lines.wavelength) > 2000
    assert np.all(np.diff(lines.wavelength) >= 0)
    sodium = [w for w, e in zip(lines.wavelength, lines.element, strict=True) if e == "Na"]
    assert min(abs(w - 5891.583) for w in sodium) < 0.02  # NIST, vacuum
