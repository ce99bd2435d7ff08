"""What a run file names is looked at before the first stage: all that verbs will read."""

import numpy as np
import pytest
from click.testing import CliRunner
from labelled import spectra_with_labels, store_spectra, truth

from scalespec.cli import main
from scalespec.config import load_config, parse_config
from scalespec.errors import ConfigError
from scalespec.run import run
from scalespec.stages.named_inputs import check_inputs
from scalespec.store.model import pack, save_model
from scalespec.store.tables import write_table

RUN_FILE = """
[run]
name = "r"
workspace = "work"
[ingest]
files = "*.fits"
[preprocess]
[preprocess.velocity]
templates = "model"
[crossmatch.mine]
catalog = "mine.fits"
key = { source_id = "GAIA" }
key_kind = "gaia_dr3"
columns = { teff = "TEFF", fe_h = "FE_H" }
where = "FLAG == 0"
[crossmatch.mine.training]
library = "lib.zarr"
fill = 2
[train]
library = "lib.zarr"
labels = ["teff", "fe_h"]
gradients = "grad.npz"
[infer]
models = ["model", "payne.npz"]
[fit]
[calibrate.pairs]
catalog = "pairs.parquet"
where = "source_id_1 > 0"
[calibrate.clusters]
catalog = "clusters.csv"
[ages]
isochrones = "iso.txt"
brightness = "logg"
[publish]
[report]
truth = "truth.parquet"
truth_where = "binary == 0"
isochrones = "iso.txt"
[compare]
labels = ["teff"]
source = "lib.zarr"
[compare.models.elm]
[compare.leakage]
labels = ["teff"]
broken = "lib.zarr"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run file and all that it names."""
    root = tmp_path_factory.mktemp("named")
    n = 3
    mine = {name: np.ones(n) for name in ("ra", "dec", "TEFF", "FE_H")}
    mine |= {"GAIA": np.arange(n), "FLAG": np.zeros(n, np.int32), "TXT": np.array(["a"] * n)}
    write_table(f"{root}/mine.fits", mine, units={"TEFF": "K", "ra": "deg", "FE_H": "dex"})
    pairs = {"source_id_1": np.arange(n), "source_id_2": np.arange(n)}
    write_table(f"{root}/pairs.parquet", pairs)
    (root / "clusters.csv").write_text("source_id,cluster\n1,M67\n")
    (root / "iso.txt").write_text("# logAge MH Mini\n1 2 3\n")
    write_table(f"{root}/truth.parquet", {"obsid": np.arange(n), "binary": np.zeros(n)})
    store_spectra(f"{root}/lib.zarr", spectra_with_labels())
    save_model(f"{root}/model", truth())
    names = ("x_min", "x_max", "labels", "wavelength_vac", "w_array_0", "b_array_0")
    (root / "payne.npz").write_bytes(pack(dict.fromkeys(names, np.zeros(2))))
    (root / "grad.npz").write_bytes(pack({"labels": np.zeros(2)}))
    (root / "text.txt").write_text("nothing of the kind\n")
    (root / "run.toml").write_text(RUN_FILE)
    return root


@pytest.fixture
def planted(folder):
    """A function that returns the run file with a mistake."""

    def plant(old, new):
        assert RUN_FILE.count(old) >= 1
        (folder / "wrong.toml").write_text(RUN_FILE.replace(old, new, 1))
        return folder / "wrong.toml"

    return plant


def test_what_is_there_is_no_problem(folder):
    check_inputs(load_config(folder / "run.toml"))


FAULTS = [
    ("preprocess", 'templates = "model"', 'templates = "modle"', r"velocity\.templates: .*modle"),
    ("crossmatch", "mine.fits", "mein.fits", r"crossmatch\.mine\.catalog: .*mein\.fits: not found"),
    ("crossmatch", '"TEFF"', '"TEF"', r"columns\.teff: no column 'TEF'.* mean TEFF"),
    ("crossmatch", '"GAIA"', '"GAIA_ID"', r"key\.source_id: no column 'GAIA_ID'"),
    ("crossmatch", "FLAG == 0", "FLG == 0", r"where: no column 'FLG'"),
    ("crossmatch", "FLAG == 0", "FLAG = 0", r"where 'FLAG = 0'"),
    (
        "crossmatch",
        'teff = "TEFF", fe_h',
        'rv = "TEFF", fe_h',
        r"'TEFF' is in 'K', and rv is in 'k",
    ),
    ("crossmatch", '"lib.zarr"\nfill', '"bil.zarr"\nfill', r"training\.library: .*bil\.zarr"),
    ("train", '"lib.zarr"\nlabels', '"bil.zarr"\nlabels', r"train\.library: .*bil\.zarr"),
    ("train", '"teff", "fe_h"]', '"teff", "mg_fe"]', r"train\.library: .*no labels \['mg_fe'\]"),
    ("train", "grad.npz", "text.txt", r"train\.gradients: .*text\.txt"),
    ("train", "grad.npz", "drag.npz", r"train\.gradients: .*drag\.npz: not found"),
    ("infer", '"payne.npz"', '"pain.npz"', r"infer\.models: .*pain\.npz: not found"),
    ("infer", '["model"', '["iso.txt"', r"infer\.models: .*iso\.txt: no model"),
    ("infer", '"payne.npz"', '"grad.npz"', r"infer\.models: .*no emulator: no x_min"),
    (
        "train",
        'library = "lib.zarr"\nlabels = ["teff", "fe_h"]\ngradients = "grad.npz"',
        'catalog = "mine"\nlabels = ["teff"]\nadapt = "model"\nprior = { vmic = [1, 1] }',
        r"train\.adapt: .*no label \['vmic'\]; it has \['teff'",
    ),
    ("fit", "[fit]", "[fit]\nfixed = { vmic = 1 }", r"fit: .*no label \['vmic'\]; it has"),
    ("calibrate", "pairs.parquet", "pears.parquet", r"calibrate\.pairs\.catalog: .*not found"),
    ("calibrate", "source_id_1 >", "source_1 >", r"where: no column 'source_1'"),
    ("calibrate", "clusters.csv", "iso.txt", r"calibrate\.clusters\.catalog: .*name: no column"),
    ("ages", 'iso.txt"\nbright', 'iso.dat"\nbright', r"ages\.isochrones: .*iso\.dat: not found"),
    ("ages", 'iso.txt"\nbright', 'grad.npz"\nbright', r"ages\.isochrones: .*no isochrones"),
    ("report", "truth.parquet", "pairs.parquet", r"report\.truth: .*no column 'obsid'"),
    ("report", "binary ==", "single ==", r"report\.truth: .*where: no column 'single'"),
    ("report", 'iso.txt"\n[compare]', 'osi.txt"\n[compare]', r"report\.isochrones: .*not found"),
    ("compare", '["teff"]\nsource', '["tef"]\nsource', r"compare\.source: .*no labels \['tef'\]"),
    ("compare", 'broken = "lib', 'broken = "bil', r"compare\.leakage\.broken: .*bil\.zarr"),
]


@pytest.mark.parametrize(("verb", "old", "new", "said"), FAULTS)
def test_a_fault_is_found_before_any_stage_that_reads_it_and_only_then(
    planted, verb, old, new, said
):
    config = load_config(planted(old, new))
    with pytest.raises(ConfigError, match=said):
        check_inputs(config)
    with pytest.raises(ConfigError, match=said):
        check_inputs(config, (verb,))
    others = [one for one in config.stages() if one != verb]
    check_inputs(config, others)


def test_all_problems_are_said_at_once_and_once(folder):
    text = RUN_FILE.replace("FE_H", "FEH").replace("grad.npz", "g.npz").replace("truth.p", "t.p")
    (folder / "wrong.toml").write_text(text)
    with pytest.raises(ConfigError, match="r: 3 wrong") as caught:
        check_inputs(load_config(folder / "wrong.toml"))
    assert len(str(caught.value).splitlines()) == 4


@pytest.mark.parametrize("verb", ["plan", "run", "crossmatch"])
def test_verbs_end_with_code_2_and_make_no_folder(planted, folder, verb):
    found = CliRunner().invoke(main, [verb, str(planted('"TEFF"', '"TEF"'))])
    assert found.exit_code == 2
    assert "no column 'TEF'" in found.output.replace("\n", " ")
    assert not (folder / "work").exists()


def test_what_a_run_makes_in_its_workspace_need_not_be_there(planted):
    check_inputs(load_config(planted('"payne.npz"', '"work/model"')))
    with pytest.raises(ConfigError, match=r"workshop/model"):
        check_inputs(load_config(planted('"payne.npz"', '"workshop/model"')))


def test_a_run_of_one_verb_asks_for_no_others_inputs(tmp_path, write_survey):
    write_survey(tmp_path / "raw", 3)
    text = f"""
    [run]
    name = "r"
    workspace = "{tmp_path}/work"
    [ingest]
    files = "{tmp_path}/raw/**/*.fits"
    [preprocess]
    [infer]
    models = ["{tmp_path}/later"]
    """
    assert run(parse_config(text), verbs=("ingest",), engine="local").exit_code == 0
    with pytest.raises(ConfigError, match="later"):
        run(parse_config(text), engine="local")
