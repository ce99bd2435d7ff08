"""Labels of MILES: fixed columns, what is missing, types that run over."""

import importlib.util
from pathlib import Path

FILE = Path(__file__).resolve().parents[2] / "deploy/runs/prepare_miles.py"
HEADER = "Name\n      s????\n - - -\n"
ROWS = (
    "BD+002058A             0272         sd:F            6024   4.50    -1.44   131     \n"
    "G156-031               0838   705   M7e             2748   5.09      --    33    L \n"
    "HD000001               0617         K0/K1III/I  V   4982   3.60     0.00   33      \n"
)


def prepare():
    spec = importlib.util.spec_from_file_location("prepare_miles", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
