"""Metal-poor, dated, reddened and odd stars on a page: counted, ranked and listed as they are."""

from dataclasses import replace

import numpy as np
import pytest
from pages import Reader
from scipy.stats import norm

from scalespec.config import AgesTable, DeriveTable
from scalespec.optimize.result import FitStatus
from scalespec.stages import folders, report
from scalespec.stages.ages import AgeStatus
from scalespec.stages.derive import derive
from scalespec.stages.evidence import gather, read_evidence
from scalespec.stages.findings import ages, metal_poor, reddening, unusual
from scalespec.stages.publish import publish
from scalespec.stages.rankings import (
    LIST_ROWS,
    least_usual,
    metallicity,
    most_metal_poor,
    poor_probability,
)
from scalespec.stages.report import WANTS
from scalespec.stages.samples import Rows
from scalespec.store import paths

N = 300
LABELS = ("teff", "logg", "fe_h", "c_fe")


def columns_of(n=N, **more):
    """Columns of a catalog of n good stars, from solar to [Fe/H] = -4.5."""
    rng = np.random.default_rng(5)
    made = {"row": np.arange(n), "obsid": 5000 + np.arange(n), "snr": rng.uniform(10, 90, n)}
    made |= {"fit_status": np.zeros(n, np.uint32), "spectrum_status": np.zeros(n, np.uint32)}
    made |= {"at_bound": np.zeros(n, np.uint64), "prior_dominated": np.zeros(n, np.uint64)}
    made |= {"teff": rng.uniform(4500, 6500, n), "logg": rng.uniform(1, 4.8, n)}
    made |= {"fe_h": rng.uniform(-4.5, 0.3, n), "fe_h_err": rng.uniform(0.02, 0.3, n)}
    made |= {"c_fe": rng.normal(0, 0.3, n), "chi2": np.full(n, 100.0), "n_used": np.full(n, 100)}
    return made | more


def evidence_of(config, columns, *, pieces=1):
    """What the page reads of a catalog that comes in so many pieces."""
    rows = Rows(columns, LABELS)
    cut = np.array_split(np.arange(len(rows)), pieces)
    plain = config.model_copy(update={"crossmatch": None})
    return gather(plain, len(rows), [rows.take(places) for places in cut])


# --- metal-poor stars


def test_stars_are_counted_by_the_probability_of_their_metallicity(tiny_run):
    columns = columns_of()
    counts = evidence_of(tiny_run.config, columns, pieces=7).counts
    for name, limit in {"VMP": -2.0, "EMP": -3.0, "UMP": -4.0}.items():
        chance = norm(columns["fe_h"], columns["fe_h_err"]).cdf(limit)
        assert counts["metal-poor", name] == (chance > 0.5).sum()


def test_doubtful_stars_are_not_candidates():
    columns = columns_of()
    columns["fit_status"][0] = FitStatus.POOR_FIT
    columns["at_bound"][1] = 1 << LABELS.index("fe_h")
    columns["prior_dominated"][2] = 1 << LABELS.index("fe_h")
    columns["at_bound"][3] = 1 << LABELS.index("c_fe")  # another's bound is no matter
    columns["fe_h_err"][4] = 0.0
    columns["fe_h"][:5] = -3.5
    chance = poor_probability(Rows(columns, LABELS), -2.0)
    assert chance[:5].round(3).tolist() == [0, 0, 0, 1, 0]


def test_the_list_is_led_by_the_surest_whatever_pieces_the_catalog_comes_in(tiny_run):
    columns = columns_of()
    whole, cut = (evidence_of(tiny_run.config, columns, pieces=n) for n in (1, 11))
    rows = whole.lists["metal-poor"].columns["row"]
    assert rows.tolist() == cut.lists["metal-poor"].columns["row"].tolist()
    bound = columns["fe_h"] + 2 * columns["fe_h_err"]
    wanted = [row for row in np.argsort(bound) if columns["fe_h"][row] < -2][:LIST_ROWS]
    assert rows.tolist() == wanted


def test_calibrated_metallicities_are_preferred(tiny_run):
    columns = columns_of()
    columns |= {"fe_h_cal": columns["fe_h"] + 1, "fe_h_cal_err": np.full(N, 0.1)}
    value, err = metallicity(Rows(columns, LABELS))
    np.testing.assert_allclose(value, columns["fe_h"] + 1)
    assert (err == 0.1).all()
    text = Reader(metal_poor(evidence_of(tiny_run.config, columns))).text
    assert "[Fe/H], calibrated, + 2 errors" in text


def test_the_table_says_each_star_and_hides_what_is_not_to_be_trusted(tiny_run):
    columns = columns_of()
    first = int(np.argmin(columns["fe_h"] + 2 * columns["fe_h_err"]))
    columns["at_bound"][first] = 1 << LABELS.index("c_fe")
    text = Reader(metal_poor(evidence_of(tiny_run.config, columns))).text
    n = int((columns["fe_h"] < -2).sum())
    assert text.startswith(f"{n} VMP: [Fe/H] < -2 ")
    head = text[text.index("[C/Fe]") :]
    assert head.split()[1] == str(5000 + first)
    assert head.split()[8] == "–"  # its carbon


def test_no_metal_poor_star_and_no_metallicity(tiny_run):
    columns = columns_of(fe_h=np.full(N, -0.5))
    assert "No star is more probably" in metal_poor(evidence_of(tiny_run.config, columns))
    rows = Rows(columns, ("teff",))
    plain = gather(tiny_run.config.model_copy(update={"crossmatch": None}), N, [rows])
    assert metal_poor(plain) == ""
    assert not most_metal_poor(rows)[1].any()


# --- ages


@pytest.fixture
def dated(tiny_run, monkeypatch):
    """A run with ages; its stage's commits count the statuses."""
    table = AgesTable(isochrones="grid.h5", brightness="logg")
    config = tiny_run.config.model_copy(update={"ages": table})
    counts = {"OK": 200, "NOT_SUBGIANT": 80, "POOR_MATCH": 20}

    class Commits:
        def __init__(self, url):
            assert url == "there"

        def commits(self):
            one = type("Result", (), {"counts": counts})()
            return {0: one, 1: one}

    monkeypatch.setattr(folders, "ages_url", lambda _: "there")
    monkeypatch.setattr("scalespec.stages.findings.Ledger", Commits)
    return config


def test_ages_are_of_the_stars_that_have_one(dated):
    age = np.where(np.arange(N) < 220, 1 + np.arange(N) / 30, np.nan)
    status = np.where(np.arange(N) < 200, 0, AgeStatus.POOR_MATCH).astype(np.uint32)
    columns = columns_of(age=age, age_err=0.08 * age, age_status=status)
    found = evidence_of(dated, columns, pieces=3)
    assert found.counts["rows", "dated"] == len(found.dated) == 200
    html = ages(found)
    text = Reader(html).text
    assert "200 stars with an age 8 % median error of an age" in text
    assert f"{np.median(age[:200]):.1f} Gyr median age" in text
    assert "POOR_MATCH 40 " in text  # of both blocks
    assert len(Reader(html).pictures) == 1


def test_a_run_that_dated_no_star_says_why(dated):
    columns = columns_of(
        age=np.full(N, np.nan), age_err=np.full(N, np.nan), age_status=np.full(N, 1, np.uint32)
    )
    html = ages(evidence_of(dated, columns))
    assert "0 stars with an age" in Reader(html).text
    assert "NOT_SUBGIANT" in html
    assert not Reader(html).pictures


# --- reddening and anomalies


def test_reddening_is_drawn_where_it_is_known(tiny_run):
    ebv = np.where(np.arange(N) < 100, 0.25, np.nan)
    html = reddening(evidence_of(tiny_run.config, columns_of(ebv=ebv)))
    assert "100 stars, median 0.250 mag" in Reader(html).text
    nobody = reddening(evidence_of(tiny_run.config, columns_of(ebv=np.full(N, np.nan))))
    assert "No star has a color" in nobody
    assert reddening(evidence_of(tiny_run.config, columns_of())) == ""


def test_what_the_model_does_not_know_is_not_listed_as_unusual():
    columns = columns_of(anomaly=np.arange(N, dtype=float))
    columns["fit_status"][-5:] = FitStatus.OUT_OF_DOMAIN
    key, where = least_usual(Rows(columns, LABELS))
    assert np.flatnonzero(where)[-1] == N - 6
    assert key[-1] == -(N - 1)


def test_unusual_spectra_are_drawn_with_their_fits(tiny, tiny_run, undrawn, monkeypatch):
    table = DeriveTable(anomaly_sample=1000, anomaly_components=2)
    config = tiny_run.config.model_copy(update={"derive": table})
    tiny.run_stage(derive(config))
    tiny.run_stage(publish(config))
    evidence = read_evidence(config)
    html = unusual(evidence)
    read = Reader(html)
    assert len(read.pictures) == 4  # the distribution, and three spectra
    # row 6 was moved to the model's edge: its fit is no fit of its spectrum
    listed = read.text[read.text.index("fit 3602") :].split()
    assert listed[1] == str(2**55 + 6)
    assert "AT_BOUND" in read.text
    none = Rows({n: v[:0] for n, v in evidence.lists["unusual"].columns.items()}, LABELS[:3])
    assert "No spectrum has a fit" in unusual(replace(evidence, lists={"unusual": none}))
    for sections in ("OF_CATALOG", "OF_SPECTRA", "OF_RUN"):  # drawing all of them takes seconds
        names = getattr(report, sections)
        monkeypatch.setattr(report, sections, dict.fromkeys(names, lambda _: "<p>not drawn</p>"))
    page = paths.read_bytes(report.write_report(config)).decode()
    assert "<h2>Unusual spectra</h2>" in page
    assert "<h2>Variable velocities</h2>" in page
    assert "<h2>Reddening</h2>" not in page  # no color was asked for


def test_sections_are_wanted_by_their_tables(tiny_run):
    config = tiny_run.config
    absent = ("Ages", "Reddening", "Unusual spectra", "Variable velocities", "Calibration")
    assert not any(WANTS[name](config) for name in (*absent, "Learning", "Search"))
    assert WANTS["Against the truth"](config)
    assert not WANTS["Example spectra"](config.model_copy(update={"fit": None}))
