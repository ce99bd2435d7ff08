"""Made-up stars are the same wherever they are drawn, and lie where stars lie."""

import numpy as np
import pytest

from scalespec.kernels.population import (
    FIELD_STARS,
    draw_library,
    draw_stars,
    field_center,
    star_of,
)

LABELS = ("teff", "logg", "fe_h", "c_fe", "mg_fe", "v_fe", "vmic")
LOW = np.array([3800.0, 0.0, -2.5, -1, -1, -1, 0.5])
HIGH = np.array([7500.0, 5.0, 0.5, 1, 1, 1, 3.0])


@pytest.fixture(scope="module")
def stars() -> dict[str, np.ndarray]:
    return draw_stars(3, np.arange(2000), LABELS, LOW, HIGH)


def test_a_star_is_the_same_in_any_company(stars):
    some = draw_stars(3, np.array([1999, 7]), LABELS, LOW, HIGH)
    for name, values in some.items():
        assert values.tolist() == [stars[name][1999], stars[name][7]]


def test_another_seed_is_another_survey(stars):
    other = draw_stars(4, np.arange(5), LABELS, LOW, HIGH)
    assert not np.any(other["teff"] == stars["teff"][:5])


def test_stars_fill_the_kiel_diagram_as_promised(stars):
    teff, logg, fe_h = (stars[name] for name in ("teff", "logg", "fe_h"))
    assert teff.min() >= 4000
    assert teff.max() <= 6800
    assert logg.min() >= 0.5
    assert logg.max() <= 4.8
    assert fe_h.min() >= -2.3
    assert fe_h.max() <= 0.4
    assert 0.3 < np.mean(logg > 4.1) < 0.5
    assert np.corrcoef(teff[logg < 3.5], logg[logg < 3.5])[0, 1] > 0.7  # the giant branch
    assert np.corrcoef(fe_h, stars["mg_fe"])[0, 1] < -0.6  # alpha sequences
    assert np.all(np.abs(stars["rv"]) <= 300)


def test_every_element_named_gets_its_own_abundance(stars):
    assert 0.05 < stars["v_fe"].std() < 0.11
    assert abs(np.corrcoef(stars["v_fe"], stars["mg_fe"])[0, 1]) < 0.1  # 4.5 / sqrt(2000)


def test_stars_stay_in_the_box_of_a_model():
    low, high = np.array([4900.0, 0.5, -1.0]), np.array([5400.0, 3.4, 0.3])
    stars = draw_stars(1, np.arange(400), LABELS[:3], low, high)
    labels = np.stack([stars[name] for name in LABELS[:3]], 1)
    assert np.all((labels >= low) & (labels <= high))
    assert np.all(labels.std(0) > 0.1 * (high - low))  # and do not pile up


def test_a_tenth_of_the_spectra_show_an_earlier_star_of_their_field():
    spectra = np.arange(4 * FIELD_STARS)
    shown = star_of(1, spectra)
    assert 0.08 < np.mean(shown != spectra) < 0.12  # 4 sigma of 4000 draws
    assert np.all(shown <= spectra)
    assert np.all(shown // FIELD_STARS == spectra // FIELD_STARS)
    assert np.all(star_of(1, shown) == shown)  # a star shown again was shown before


def test_stars_lie_within_their_field(stars):
    ra, dec = np.array([field_center(3, 0), field_center(3, 1)]).T
    field = np.arange(2000) // FIELD_STARS
    east = (stars["ra"] - ra[field] + 180) % 360 - 180
    off = np.hypot(east * np.cos(np.radians(stars["dec"])), stars["dec"] - dec[field])
    assert off.max() < 2.5
    speed = np.hypot(stars["pmra"], stars["pmdec"])
    assert speed.min() >= 1
    assert speed.max() <= 200


def test_library_covers_the_survey(stars):
    drawn = draw_library(np.random.default_rng(1), 4000, LABELS, LOW, HIGH)
    labels = np.stack([stars[name] for name in LABELS], 1)
    assert np.all(np.quantile(labels, 0.001, axis=0) > drawn.min(axis=0))
    assert np.all(np.quantile(labels, 0.999, axis=0) < drawn.max(axis=0))
    hot = drawn[:, 0] > 6800
    assert drawn[hot, 1].min() > 2.8  # no hot supergiants


def test_library_stays_in_the_box_of_a_model():
    low, high = np.array([4900.0, 0.0, -0.6]), np.array([6000.0, 3.5, 0.6])
    drawn = draw_library(np.random.default_rng(1), 500, ("teff", "logg", "c_fe"), low, high)
    assert np.all((drawn >= low) & (drawn <= high))
