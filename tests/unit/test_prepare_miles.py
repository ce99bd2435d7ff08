"""Labels of MILES: fixed columns, what is missing, types that run over."""

import pytest
from scripts import load

HEADER = "Name\n      s????\n - - -\n"
ROWS = (
    "BD+002058A             0272         sd:F            6024   4.50    -1.44   131     \n"
    "G156-031               0838   705   M7e             2748   5.09      --    33    L \n"
    "HD000001               0617         K0/K1III/I  V   4982   3.60     0.00   33      \n"
)


def prepare():
    return load("deploy/runs/prepare_miles.py")


def test_labels_are_read_by_columns():
    rows = prepare().labels(HEADER + ROWS)
    assert [row["designation"][-6:] for row in rows] == ["m0272V", "m0838V", "m0617V"]
    assert [row["teff"] for row in rows] == ["6024", "2748", "4982"]
    assert [row["fe_h"] for row in rows] == ["-1.44", "", "0.00"]
    assert rows[0]["type"] == "sd:F"


def test_every_real_star_has_its_number(shared):
    import gzip

    path = shared / "data/miles/paramsMILES_v9.1.txt.gz"
    rows = prepare().labels(gzip.decompress(path.read_bytes()).decode())
    assert len(rows) == 985
    assert len({row["designation"] for row in rows}) == 985
    for name, low, high in (("teff", 2700, 36_001), ("logg", -0.5, 5.6), ("fe_h", -3, 1.7)):
        values = [float(row[name]) for row in rows if row[name]]
        assert low < min(values) < max(values) < high


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("HD002796", "HD 2796", "HD2796", "hd_2796"), "HD 2796"),
        (("BD+371458", "BD+37 1458", "BD+37:1458", "BD+37_1458"), "BD+37 1458"),
        (("BD-032525", "BD-3_2525", "BD-03 2525"), "BD-03 2525"),
        (("BD+002058A", "BD+00 2058A"), "BD+00 2058A"),
        (("G156-031", "G 156-31"), "G 156-31"),
        (("[AAS2009] S 10-14",), "[AAS2009] S 10-14"),
    ],
)
def test_a_star_has_one_name_in_all_catalogs(names, expected):
    assert {prepare().common_name(name) for name in names} == {expected}


JINA = (
    "Name,Simbad_Identifier,C-H,Fe I,Ba II,Eu II\n"
    "HD2796,HD 2796,5.50,5.20,-0.50,\n"
    "HD 2796,,5.70,5.20,<-2.0,\n"
    "BD-3_2525,BD-03 2525,,5.60,0.30,-1.2\n"
    "CS 1,CS 1,7.0,,,\n"
)


def test_abundances_are_over_iron_and_the_suns():
    found = prepare().abundances(JINA)
    # (5.5 - 8.43) - (5.2 - 7.5) = -0.63, and 0.2 more by the other reference
    assert found["HD 2796"]["c_fe"] == pytest.approx(-0.53)
    assert found["HD 2796"]["ba_fe"] == pytest.approx(-0.5 - 2.18 + 2.3)  # no upper limit
    assert set(found["BD-03 2525"]) == {"ba_fe", "eu_fe"}
    assert "CS 1" not in found  # nothing is over an unknown iron


def test_carbon_of_real_stars_is_found_by_name(shared):
    import gzip

    base = shared / "data/labels/JINAbase-yelland25.csv.gz"
    known = prepare().abundances(gzip.decompress(base.read_bytes()).decode())
    path = shared / "data/miles/paramsMILES_v9.1.txt.gz"
    rows = prepare().labels(gzip.decompress(path.read_bytes()).decode())
    carbon = {
        r["name"]: known[r["name"]]["c_fe"] for r in rows if "c_fe" in known.get(r["name"], {})
    }
    assert len(carbon) >= 27
    assert -1 < carbon["HD 122563"] < 0  # a giant that has burned its carbon
