"""Draws from posteriors of chosen stars: who is drawn, what is refused, what a page shows."""

from dataclasses import replace

import numpy as np
import pytest
from own_blocks import run_blocks_of_their_own

from scalespec.config import FitTable, PosteriorTable, parse_config
from scalespec.errors import ConfigError, StageError
from scalespec.figures.posterior import Normal, corner, ellipse
from scalespec.optimize import posterior as chains
from scalespec.optimize.posterior import PosteriorStatus
from scalespec.stages import folders, posterior_page
from scalespec.stages.fit import fit
from scalespec.stages.posterior import posterior
from scalespec.stages.posterior_page import posteriors
from scalespec.store.catalog import read_parts
from scalespec.store.ledger import Ledger

OBSID = 2**55


def asked(run, *stars, **fit_settings):
    """The tiny run, asking for the posteriors of some stars."""
    table = PosteriorTable(stars=stars, draws=60, chains=8)
    update = {"posterior": table, "fit": FitTable(**fit_settings)}
    return replace(run, config=run.config.model_copy(update=update))


@pytest.fixture(scope="module")
def fitted(tiny, _one_tiny_run, moved_run, tmp_path_factory):
    """A run whose stars are truly fitted; who draws from it asks for other stars, or moves it."""
    run = moved_run(_one_tiny_run, tmp_path_factory.mktemp("fitted"))
    run = asked(run, OBSID + 1, OBSID + 12, tolerance=0.009)  # other settings, other folder
    tiny.run_stage(fit(run.config))
    return run


@pytest.fixture(scope="module")
def drawn(tiny, fitted, moved_run, tmp_path_factory):
    """The same run with the draws of its two stars."""
    run = moved_run(fitted, tmp_path_factory.mktemp("drawn"))
    tiny.run_stage(posterior(run.config))
    return run


def test_chosen_stars_are_drawn_around_their_fits(drawn):
    stars = read_parts(folders.posterior_url(drawn.config)).to_pylist()
    assert [one["row"] for one in stars] == [1, 12]
    best = read_parts(folders.best_url(drawn.config)).to_pylist()
    for star in stars:
        found = best[star["row"]]
        assert len(star["teff"]) == 480
        assert star["r_hat"] < 1.1
        assert star["posterior_status"] == 0
        for name in ("teff", "logg", "fe_h", "rv"):
            sigma = found[f"{name}_err"]
            assert abs(np.mean(star[name]) - found[name]) < 0.5 * sigma
            assert abs(np.std(star[name]) / sigma - 1) < 0.35  # 480 draws, and bounds nearby


def test_a_star_whose_pixels_share_noise_is_known_less(fitted):
    stage = next(iter(posterior(fitted.config)))
    ready, chosen = stage.setup(), stage.read(stage.blocks[0])
    n = chosen.spectra.sizes["spectrum"]
    shared = chosen.spectra.assign(noise_correlation=("spectrum", np.full(n, 2.0, np.float32)))
    plain, wide = (
        stage.compute(ready, replace(chosen, spectra=spectra)).to_pylist()[0]
        for spectra in (chosen.spectra, shared)
    )
    ratio = np.std(wide["rv"]) / np.std(plain["rv"])
    assert 1.2 < ratio < 1.7  # the root of 2, of 480 draws


def test_draws_are_the_same_whoever_else_is_chosen_and_a_block_reads_no_more_than_its_own(
    drawn, monkeypatch
):
    both = read_parts(folders.posterior_url(drawn.config)).to_pylist()
    one = asked(drawn, OBSID + 12, tolerance=0.009)
    assert run_blocks_of_their_own(posterior(one.config), monkeypatch) == ["posterior"]
    assert read_parts(folders.posterior_url(one.config)).to_pylist() == both[1:]


def test_chains_that_have_not_met_are_flagged(tiny, fitted, moved_run, tmp_path, monkeypatch):
    monkeypatch.setattr(chains, "R_HAT_MAX", 0.5)
    monkeypatch.setattr(posterior_page, "R_HAT_MAX", 0.5)
    config = moved_run(fitted, tmp_path).config
    tiny.run_stage(posterior(config))
    url = folders.posterior_url(config)
    assert read_parts(url)["posterior_status"].to_pylist() == [PosteriorStatus.NOT_MET] * 2
    commits = Ledger(url).commits().values()
    assert sum(result.counts.get("NOT_MET", 0) for result in commits) == 2
    assert posteriors(config).count("have not met (posterior_status NOT_MET)") == 2


def test_a_page_shows_draws_beside_the_fit_and_the_truth(drawn):
    page = posteriors(drawn.config)
    assert page.count("<img") == 2
    assert "NOT_MET" not in page
    assert page.count("truth</th>") == 2
    assert f"{drawn.labels[12, 0]:,.1f}" in page
    assert f"obsid {OBSID + 12}" in page


@pytest.mark.parametrize("star", [17, "2M00000000+0000000", OBSID + 3])  # row 3 is unreadable
def test_a_star_that_was_not_fitted_is_named(tiny, fitted, star):
    run = asked(fitted, OBSID + 1, star, tolerance=0.009)
    with pytest.raises(StageError, match="are no stars of this run that were fitted") as told:
        tiny.run_stage(posterior(run.config))
    assert str(star) in str(told.value)


@pytest.mark.parametrize(
    "settings", [{"robust": 5.0}, {"polynomial": 2}, {"vsini_kms": (0, 9)}, {"tied": {"a": "b"}}]
)
def test_fits_with_other_parameters_are_refused(tiny, tiny_run, settings):
    run = asked(tiny_run, OBSID, **settings)
    with pytest.raises(ConfigError, match=f"no draws of a fit with {next(iter(settings))}"):
        tiny.run_stage(posterior(run.config))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("stars = []", "name a star at least"),
        ('stars = ["a"]\nchains = 1', "greater than or equal to 2"),
        ("draws = 100", "Field required"),
    ],
)
def test_tables_that_cannot_be_are_refused(table, message):
    text = f'[run]\nname = "a"\nworkspace = "w"\n[posterior]\n{table}'
    with pytest.raises(ConfigError, match=message):
        parse_config(text)


def test_posteriors_want_a_fit():
    with pytest.raises(ConfigError, match=r"\[posterior\] wants a \[fit\] table"):
        parse_config('[run]\nname = "a"\nworkspace = "w"\n[posterior]\nstars = [7]')


def test_an_ellipse_is_as_far_as_it_says():
    cov = np.array([[4.0, 1.2], [1.2, 1.0]])
    x, y = ellipse(np.array([1.0, 2.0]), cov, 2.0)
    away = np.stack([x - 1, y - 2])
    distance = np.einsum("ik,ij,jk->k", away, np.linalg.inv(cov), away)
    assert np.allclose(distance, 4.0)  # Mahalanobis


def test_a_corner_plot_has_a_panel_per_pair():
    draws = np.random.default_rng(1).normal(size=(500, 3)) * [30, 0.1, 0.05] + [4800, 2.5, 0.0]
    normal = Normal(draws.mean(axis=0), np.cov(draws.T))
    figure = corner(
        draws, ["Teff [K]", "log g", "[Fe/H]"], fit=normal, truth=np.array([4800, 2.5, np.nan])
    )
    shown = [axes for axes in figure.axes if axes.axison]
    assert len(shown) == 6
    below = [axes.get_xlabel() for axes in shown if axes.get_xlabel()]
    assert below == ["Teff [K]", "log g", "[Fe/H]"]
    edges = shown[0].get_xlim()
    assert np.allclose(edges, np.median(draws[:, 0]) + np.array([-4, 4]) * draws[:, 0].std())


def test_a_corner_plot_wants_names_for_all():
    with pytest.raises(ValueError, match="want names of each"):
        corner(np.zeros((5, 3)), ["a", "b"])
