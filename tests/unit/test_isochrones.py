"""Readers of isochrones: real files, made-up ones, broken ones."""

from pathlib import Path

import numpy as np
import pytest

from scalespec.errors import StoreError
from scalespec.store.isochrones import read_isochrones, read_lines, read_main_sequence
from scalespec.store.tables import write_table


@pytest.fixture(scope="module")
def dartmouth(request):
    shared = request.getfixturevalue("shared")
    return str(shared / "data" / "isochrones" / "dartmouth_dsep.h5")


def test_the_dartmouth_grid_holds_the_sun(dartmouth):
    cube = read_isochrones(dartmouth)
    assert cube.mass.shape[:2] == (8, 29)
    i, j = np.argmin(np.abs(cube.fe_h)), np.argmin(np.abs(cube.age - 4.57))
    k = np.nanargmin(np.abs(cube.mass[i, j] - 1.0))
    # the next point of the grid is 0.01 solar masses away, and its age 0.07 Gyr off
    assert cube.columns["teff"][i, j, k] == pytest.approx(5772, abs=90)
    assert cube.columns["logg"][i, j, k] == pytest.approx(4.438, abs=0.03)
    assert cube.columns["m_k"][i, j, k] == pytest.approx(3.27, abs=0.12)  # Willmer 2018


def test_the_points_of_each_isochrone_are_where_the_file_has_them(dartmouth):
    import h5py

    cube = read_isochrones(dartmouth)
    with h5py.File(dartmouth) as file:
        lengths, values = file["lengths"][:], file["values"][:]
    for i, j in ((0, 0), (3, 11), (7, 28)):
        index = 29 * i + j
        start = lengths[:index].sum()
        rows = values[start : start + lengths[index]]
        known = np.isfinite(cube.mass[i, j])
        np.testing.assert_allclose(cube.mass[i, j][known], rows[:, 2], rtol=1e-6)
        np.testing.assert_allclose(cube.columns["logg"][i, j][known], rows[:, 5], rtol=1e-6)


def test_mist_lines_are_drawn_by_metallicity(shared):
    lines = read_lines(str(shared / "data" / "isochrones" / "MIST_iso_7Gyr.csv"))
    assert [line.fe_h for line in lines] == [-0.5, 0.0, 0.5]
    assert all(np.isnan(line.age) for line in lines)
    dwarfs = [line.teff[(line.logg > 3.8) & (line.logg < 4.4)] for line in lines]
    turn_off = [teff[teff < 8000].max() for teff in dwarfs]  # no star on its way to a white dwarf
    assert turn_off[0] > turn_off[1] > turn_off[2] > 5300
    one = read_lines(str(shared / "data" / "isochrones" / "MIST_iso_7Gyr.csv"), fe_h=[0.1])
    assert [line.fe_h for line in one] == [0.0]


def test_dartmouth_lines_are_those_of_the_nearest_age(dartmouth):
    line = read_lines(dartmouth, age=7.2, fe_h=[0.0])[0]
    assert line.age == pytest.approx(7.0, abs=0.01)
    assert np.nanmin(line.logg) < 0.5
    assert np.nanmax(line.teff[line.logg < 4.5]) == pytest.approx(5970, abs=60)


MIST = """# MIST version number  = 1.2
#  Yinit        Zinit   [Fe/H]   [a/Fe]  v/vcrit
# 0.2703  1.42857E-02   {fe_h}     0.00     0.40
# number of isochrones =   2
# EEP  log10_isochrone_age_yr initial_mass log_Teff log_g 2MASS_Ks
{rows}"""


def mist(fe_h=-0.25):
    ages = (9.5, 9.6)
    rows = [
        f"{eep} {age} {0.8 + 0.01 * eep} {3.75 - 0.01 * eep} {4.5 - 0.2 * eep} {3.3 - 0.3 * eep}"
        for age in ages
        for eep in range(1, 6 if age == 9.5 else 5)
    ]
    return MIST.format(fe_h=fe_h, rows="\n".join(rows))


def test_mist_tables_say_their_metallicity_in_the_head(tmp_path):
    (tmp_path / "mist.iso.cmd").write_text(mist())
    cube = read_isochrones(str(tmp_path / "mist.iso.cmd"))
    assert cube.fe_h.tolist() == [-0.25]
    np.testing.assert_allclose(cube.age, 10 ** np.array([0.5, 0.6]))
    np.testing.assert_allclose(cube.mass[0, 0], [0.81, 0.82, 0.83, 0.84, 0.85])
    assert np.isnan(cube.mass[0, 1, 4])  # an isochrone that ends earlier
    assert cube.columns["m_k"][0, 0, 1] == pytest.approx(2.7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "0 rows below it"),
        ("# a b\n1 2 3\n", "2 names in its last comment"),
        ("# logAge MH logTe\n9.0 0.0 3.7\n", r"no columns \['mass'\]"),
        ("# logAge MH Mini logTe logg\n9.0 0.0 1.0 3.7 4.4\n", "neither a K nor a bolometric"),
        (
            "# logAge MH Mini logTe logg Ksmag\n9.0 0.0 1.0 3.7 4.4 3\n9.1 0.5 1.0 3.7 4.4 3\n",
            "no grid",
        ),
        ("# logAge MH\n9.0 zero\n", "could not convert"),
    ],
)
def test_what_is_no_grid_is_refused_and_says_why(tmp_path, text, said):
    (tmp_path / "grid.dat").write_text(text)
    with pytest.raises(StoreError, match=said):
        read_isochrones(str(tmp_path / "grid.dat"))


def test_a_broken_hdf5_file_is_refused(tmp_path, dartmouth):
    (tmp_path / "cut.h5").write_bytes(Path(dartmouth).read_bytes()[:100_000])
    with pytest.raises(StoreError, match=r"cut\.h5"):
        read_isochrones(str(tmp_path / "cut.h5"))


ROWS = [
    (0.5, 3800, 4.8),
    (0.9, 5300, 4.5),
    (1.1, 6000, 4.3),
    (
        1.15,
        5000,
        3.5,
    ),  # a giant, from here on, that grows hotter in more steps than there are above
    (1.151, 5001, 2.4),
    (1.152, 5002, 2.3),
    (1.153, 5003, 2.2),
    (1.154, 5004, 2.1),
]


def as_csv(rows, head="mass,teff,logg"):
    return "\n".join([head, *(",".join(map(str, row)) for row in rows)])


@pytest.mark.parametrize("name", ["stars.csv", "stars.fits", "stars.parquet"])
def test_the_main_sequence_is_the_longest_run_in_mass(tmp_path, name):
    path = tmp_path / name
    if name == "stars.csv":
        path.write_text(as_csv([*ROWS, ("", 7000, 4.0)]))
    else:
        columns = dict(zip(("mass", "teff", "logg"), np.array(ROWS).T, strict=True))
        write_table(str(path), columns)
    found = read_main_sequence(str(path))
    assert {n: v.tolist() for n, v in found.items()} == {
        "mass": [0.5, 0.9, 1.1], "teff": [3800, 5300, 6000], "logg": [4.8, 4.5, 4.3]
    }  # fmt: skip


def test_a_main_sequence_goes_on_after_a_dip(tmp_path):
    """Dartmouth's of 1 Gyr falls by 0.9 K at 0.59 solar masses."""
    rows = [(0.5, 3800, 4.8), (0.589, 3953.7, 4.7), (0.5896, 3952.8, 4.7), (0.6, 4046, 4.6)]
    (tmp_path / "dip.csv").write_text(as_csv([*rows, (0.9, 5300, 4.5), (0.91, 5200, 4.4)]))
    found = read_main_sequence(str(tmp_path / "dip.csv"))
    assert found["mass"].tolist() == [0.5, 0.589, 0.6, 0.9]


ONE = "# logAge MH Mini logTe logg Ksmag\n{}"


def test_the_main_sequence_of_an_isochrone_as_ages_reads_it(tmp_path):
    rows = [(9.5, 0, 0.5, 3.6, 4.8, 6), (9.5, 0, 0.9, 3.7, 4.5, 5), (9.5, 0, 1.1, 3.78, 4.3, 4)]
    rows.append((9.5, 0, 1.12, 3.7, 3.6, 2))
    (tmp_path / "one.dat").write_text(ONE.format("\n".join(" ".join(map(str, r)) for r in rows)))
    found = read_main_sequence(str(tmp_path / "one.dat"))
    assert found["mass"][[0, -1]] == pytest.approx([0.5, 1.1], abs=0.02)  # even steps along it
    assert found["teff"][-1] == pytest.approx(10**3.78, rel=0.02)
    assert np.all(np.diff(found["teff"]) > 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (as_csv(ROWS, "mass,temp,logg"), "no column 'teff'"),
        (as_csv(ROWS[::-1]), "wanted in order of mass"),
        (as_csv([(m, np.log10(t), g) for m, t, g in ROWS]), "wanted in K, no logarithm"),
        (as_csv(ROWS[:1]), "nowhere increase together"),
        (as_csv([("a", 1, 2)]), r"stars\.csv"),
        (mist(), "1 metallicities and 2 ages: wanted is one isochrone"),
    ],
)
def test_what_has_no_main_sequence_is_refused_and_says_why(tmp_path, text, said):
    (tmp_path / "stars.csv").write_text(text)
    with pytest.raises(StoreError, match=said):
        read_main_sequence(str(tmp_path / "stars.csv"))
