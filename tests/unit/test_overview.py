"""Sky and abundances: what is drawn is what is to be trusted."""

import io

import numpy as np
import pytest
from matplotlib.image import imread

from scalespec import figures
from scalespec.figures import catalog as figures_catalog
from scalespec.figures.learning import learning_curve
from scalespec.stages.evidence import Evidence, read_evidence
from scalespec.stages.overview import abundances, sky
from scalespec.stages.publish import publish
from scalespec.stages.samples import Rows


def drawn(figure):
    return imread(io.BytesIO(figures.to_png(figure, dpi=60)))


def test_right_ascension_grows_to_the_left_around_zero():
    figure = figures_catalog.sky_map(np.array([10.0, 350.0, 180.0]), np.array([0.0, 30.0, np.nan]))
    places = figure.axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(np.degrees(places), [[-10, 0], [10, 30]], atol=1e-9)
    assert drawn(figure).std() > 0


def test_a_sky_without_stars_says_so():
    figure = figures_catalog.sky_map(np.full(3, np.nan), np.zeros(3))
    assert figure.axes[0].texts[0].get_text() == "no star has a position"


@pytest.mark.parametrize("n", [50, figures.CROWD + 1])
def test_each_ratio_has_its_panel(n):
    rng = np.random.default_rng(0)
    iron = rng.normal(-0.5, 0.3, n)
    ratios = {f"[{e}/Fe]": rng.normal(0, 0.1, n) for e in ("C", "Mg", "Si", "Ca", "Ti")}
    ratios["[Ti/Fe]"][:] = np.nan
    figure = figures_catalog.abundance_planes(iron, ratios, name="[Fe/H]")
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_ylabel() for axes in shown] == list(ratios)
    assert [len(axes.collections) for axes in shown] == [1, 1, 1, 1, 0]
    assert drawn(figure).std() > 0


def evidence_of(tiny_run, **columns):
    n = 4
    base = {"row": np.arange(n), "fit_status": np.zeros(n, np.uint32), "ra": np.arange(n) * 1.0}
    base |= {"dec": np.arange(n) * 1.0, "fe_h": np.full(n, -0.5), "mg_fe": np.full(n, 0.3)}
    base |= {"at_bound": np.array([0, 2, 0, 0], np.uint64)}
    rows = Rows(base | columns, ("fe_h", "mg_fe"))
    return Evidence(tiny_run.config, n, {("rows", "all"): n}, rows)


def test_ratios_at_their_bounds_are_left_out(tiny_run, monkeypatch):
    seen = {}

    def planes(iron, ratios, *, name):
        seen.update(ratios)
        return learning_curve([])

    monkeypatch.setattr(figures_catalog, "abundance_planes", planes)
    assert "<img" in abundances(evidence_of(tiny_run))
    np.testing.assert_array_equal(seen["[Mg/Fe]"], [0.3, np.nan, 0.3, 0.3])


def test_the_sky_counts_the_stars_with_labels(tiny_run):
    labels = np.array([0.0, np.nan, 0.0, 0.0])
    assert "3 stars with labels" in sky(evidence_of(tiny_run, fe_h=labels))


def test_a_model_without_ratios_has_no_such_section(tiny, tiny_run):
    tiny.run_stage(publish(tiny_run.config))
    evidence = read_evidence(tiny_run.config)
    assert abundances(evidence) == ""
    assert "19 stars with labels" in sky(evidence)
