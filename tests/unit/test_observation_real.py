"""Made-up LAMOST spectra are distributed as the real ones: loosely, sample by sample."""

from types import ModuleType

import numpy as np
import pytest
from scripts import load


@pytest.fixture(scope="module")
def comparison() -> ModuleType:
    return load("benchmarks/compare_mock_lamost.py")


@pytest.fixture(scope="module")
def samples(comparison, shared) -> dict:
    return {
        layout: (
            comparison.measure(comparison.real_sample(layout)),
            comparison.measure(comparison.mock_sample(layout)),
        )
        for layout in comparison.SAMPLES
    }


@pytest.mark.parametrize("layout", ["pilot", "image", "coadd"])
def test_signal_to_noise_is_distributed_as_in_real_files(samples, layout):
    real, mock = samples[layout]
    for p in (25, 50, 75):
        a, b = (np.percentile(m["snr"], p) for m in (real, mock))
        assert np.abs(np.log10(a / b)) < 0.25, p  # magnitudes are the real ones, nights are not
    assert np.abs(np.log10(np.median(real["level"]) / np.median(mock["level"]))) < 0.3


@pytest.mark.parametrize(("layout", "reddest"), [("pilot", 9050), ("coadd", 9050), ("image", 6200)])
def test_signal_to_noise_runs_along_the_spectrum_as_in_real_files(
    comparison, samples, layout, reddest
):
    """Of M dwarfs to 6200 Å: theirs are redder than the coolest stars of our synthesis."""
    real, mock = samples[layout]
    for (first, last), a, b in zip(
        comparison.WINDOWS, real["relative"], mock["relative"], strict=True
    ):
        if last <= reddest and np.isfinite(a) and first >= 4000:
            assert a == pytest.approx(b, rel=0.35), first


@pytest.mark.parametrize("layout", ["pilot", "image", "coadd"])
def test_pixels_without_weight_are_as_many_and_where_they_are_in_real_files(
    comparison, samples, layout
):
    real, mock = samples[layout]
    assert real["lost_all"] == pytest.approx(mock["lost_all"], abs=0.03)
    for (first, _), a, b in zip(comparison.WINDOWS, real["lost"], mock["lost"], strict=True):
        assert a == pytest.approx(b, abs=0.15), first


def test_residuals_over_stated_errors_are_as_wide_as_in_real_files(samples):
    """Where noise outweighs lines; 1 would be an honest, white survey's, LAMOST's are narrower."""
    for layout in ("pilot", "coadd"):
        real, mock = samples[layout]
        for i in (0, 1):
            assert real["width"][i] == pytest.approx(mock["width"][i], rel=0.3)
            assert mock["width"][i] < 0.95
        assert abs(real["spikes"] - mock["spikes"]) < 0.005
