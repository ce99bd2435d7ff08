"""A made-up allStar says what it says it knows, of every file, and giants alone where asked."""

import numpy as np
import pytest
from click.testing import CliRunner

from scalespec.cli import main
from scalespec.models.base import EmulatorSpec
from scalespec.stages.mock import MockSurvey
from scalespec.stages.mock_allstar import BAD_FRACTION, STAR_BAD, allstar
from scalespec.surveys.apogee import star_path

N = 6000
LABELS = ("teff", "logg", "fe_h", "mg_fe")


def truth(n: int = N) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    names = [f"files/stars/apo25m/F{i % 7}/apStar-dr17-2M{i:08d}+0000000.fits.gz" for i in range(n)]
    return {
        "file": np.array(names),
        "ra": rng.uniform(0, 360, n),
        "dec": rng.uniform(-90, 90, n),
        "snr": rng.uniform(20, 500, n),
        "source_id": np.arange(n) + 10**18,
        "teff": 4800 + 300 * rng.normal(size=n),
        "logg": 2.5 + 0.5 * rng.normal(size=n),
        "fe_h": -0.2 + 0.2 * rng.normal(size=n),
        "mg_fe": 0.1 + 0.1 * rng.normal(size=n),
    }


@pytest.fixture(scope="module")
def table():
    return allstar(truth(), LABELS, seed=4, block=2)


def test_labels_scatter_as_their_errors_say_but_for_outliers(table):
    good = table["ASPCAPFLAG"] == 0
    for label in LABELS:
        name = label.upper()
        pull = (table[name] - truth()[label])[good] / table[f"{name}_ERR"][good]
        known = 1.4826 * np.median(np.abs(pull))
        assert abs(known - 1) < 0.05  # 5,800 stars: 0.012 of chance, and the outliers
        assert 0.002 < np.mean(np.abs(pull) > 5) < 0.01


def test_a_star_whose_fit_failed_has_a_flag_and_no_label(table):
    bad = table["ASPCAPFLAG"] == STAR_BAD
    assert abs(bad.mean() - BAD_FRACTION) < 0.01  # 4 sigma of a binomial
    for label in LABELS:
        assert np.allclose(table[label.upper()][bad], -9999.99)
        assert (table[label.upper()][~bad] > -9000).all()


def test_rows_name_their_files_as_a_release_does(table):
    row = {name: values[0] for name, values in table.items()}
    assert star_path(row) == "apo25m/F0/apStar-dr17-2M00000000+0000000.fits.gz"
    assert row["APOGEE_ID"] == "2M00000000+0000000"
    assert len(set(table["APOGEE_ID"])) == N


def test_visits_of_one_file_are_one_row():
    twice = {name: np.repeat(values[:5], 2) for name, values in truth().items()}
    made = allstar(twice, LABELS, seed=4, block=2)
    assert len(made["FILE"]) == 5
    assert np.array_equal(made["SNR"], truth()["snr"][:5].astype(np.float32))


def test_the_same_block_is_made_the_same_and_another_otherwise(table):
    again = allstar(truth(), LABELS, seed=4, block=2)
    other = allstar(truth(), LABELS, seed=4, block=3)
    assert all(np.array_equal(table[name], again[name]) for name in table)
    assert not np.array_equal(table["TEFF"], other["TEFF"])


SPEC = EmulatorSpec("toy", ("teff", "logg"), [3800.0, 0.0], [7500.0, 5.0], [5000.0, 5001.0])


def test_limits_cut_what_a_model_knows_and_no_more():
    survey = MockSurvey("", 1, limits=(("logg", -1.0, 4.0),))
    cut = survey.within(SPEC)
    assert cut.minimum.tolist() == [3800.0, 0.0]
    assert cut.maximum.tolist() == [7500.0, 4.0]
    assert SPEC.maximum.tolist() == [7500.0, 5.0]


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (("fe_h", -1.0, 0.0), "limits name the label 'fe_h', the model has"),
        (("logg", 5.5, 6.0), "limits 5.5 to 6 of logg: the model has 0 to 5"),
        (("logg", 3.0, 2.0), "limits 3 to 2 of logg"),
    ],
)
def test_limits_that_cannot_be_are_refused(limit, message):
    with pytest.raises(ValueError, match=message):
        MockSurvey("", 1, limits=(limit,)).within(SPEC)


@pytest.mark.parametrize("text", ["logg", "logg=1", "logg=a:b"])
def test_the_verb_says_how_limits_are_written(tmp_path, text):
    done = CliRunner().invoke(main, ["mock", str(tmp_path / "out"), "--limits", text])
    assert done.exit_code == 2
    assert "wanted as logg=0:4" in done.output
