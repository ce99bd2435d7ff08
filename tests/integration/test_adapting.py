"""Theory adapted to a run's own matched stars, by a run file, and spectra fitted with it."""

import json

import pyarrow.parquet as pq
import torch

from scalespec.stages import folders
from scalespec.store.model import load_model, save_model

ADAPT = """
[train]
catalog = "apogee"
labels = ["teff", "logg"]
adapt = "{theory}"
[train.prior]
fe_h = [-0.3, 0.5]
"""


def test_a_run_adapts_theory_to_its_own_matched_stars_and_fits_with_it(line, tmp_path):
    theory = load_model(str(line.survey / "model"))
    with torch.no_grad():  # lines that are too weak, and a region that lacks some
        theory.output.weight *= 0.8
        theory.output.bias[100:200] += 0.03
    save_model(str(tmp_path / "theory"), theory)
    made = line.workspace(tmp_path / "adapted", before="first")
    made.change('[infer]\nmodels = ["' + str(line.survey / "model") + '"]', "[infer]")
    made.run_file.write_text(made.run_file.read_text() + ADAPT.format(theory=tmp_path / "theory"))
    code, said = made.typed("run", "--engine", "local")
    assert code == 0, said
    model = load_model(str(made.model()))
    assert model.spec.extra["prior"] == {"fe_h": [-0.3, 0.5]}
    metadata = json.loads((made.model() / "model.json").read_text())["metadata"]
    before, after = (metadata["history"][k]["validation_rms"] for k in (0, -1))
    assert after < 0.5 * before
    assert metadata["adapted"] == "theory"
    assert any(
        "of fe_h no catalog said anything" in one for one in metadata["card"]["known_faults"]
    )

    raw = line.workspace(tmp_path / "raw", before="first")
    raw.change(str(line.survey / "model"), str(tmp_path / "theory"))
    code, said = raw.typed("run", "--engine", "local")
    assert code == 0, said
    wrong = {}
    for name, run in (("adapted", made), ("raw", raw)):
        table = pq.read_table(f"{folders.catalog_url(run.config)}/catalog.parquet").to_pandas()
        good = table[table["snr"] > 20]
        wrong[name] = {
            label: (good[label] - good[f"apogee_{label}"]).abs().median()
            for label in ("teff", "logg", "fe_h")
        }
    for label, value in wrong["adapted"].items():
        assert value < 0.9 * wrong["raw"][label], wrong
    assert wrong["adapted"]["teff"] < 0.6 * wrong["raw"]["teff"]

    # The same run again finds all done; another theory is another model.
    code, said = made.typed("run", "--engine", "local")
    assert code == 0, said
    first = made.model()
    save_model(str(tmp_path / "theory"), load_model(str(line.survey / "model")))
    assert made.model() != first
