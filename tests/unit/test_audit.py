"""verify --deep: values that no checksum can call wrong."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import zarr
from click.testing import CliRunner
from fitted_run import write_fitted

from scalespec.audit import audit_run
from scalespec.cli import main
from scalespec.plan import plan_blocks
from scalespec.stages import folders
from scalespec.store.catalog import write_part
from scalespec.store.ledger import Ledger

N, PER_BLOCK = 12, 4


def fitted(root, tables=""):
    stars = {"teff": np.full(N, 5000.0), "logg": np.full(N, 4.0), "fe_h": np.zeros(N)}
    stars |= {f"{name}_err": np.ones(N) for name in list(stars)}
    return write_fitted(root, stars, rows=PER_BLOCK, tables=tables)


@pytest.fixture
def config(tmp_path):
    return fitted(tmp_path)


def array(url, name):
    return zarr.open_array(f"{url}/spectra.zarr/{name}", mode="r+")


def test_a_sound_run_has_no_problems_and_every_block_is_decoded(config):
    problems, checked = audit_run(config)
    assert problems == []
    assert checked == 4 * (N // PER_BLOCK)  # raw, spectra, first, best


@pytest.mark.parametrize(
    ("stage", "name", "value", "said"),
    [
        ("raw", "flux", np.nan, "1 pixels of flux are not finite"),
        ("raw", "ivar", -1.0, "1 pixels of ivar are negative or not finite"),
        ("raw", "ivar", np.inf, "1 pixels of ivar are negative or not finite"),
        ("raw", "ivar", 0.0, "1 pixels have no weight, and no mask bit says why"),
        ("spectra", "ivar", 0.0, "1 pixels have flux, but no weight"),
    ],
)
def test_a_value_that_means_nothing_is_found_where_it_is(config, stage, name, value, said):
    url = folders.raw_url(config) if stage == "raw" else folders.spectra_url(config)
    array(url, name)[5, 1] = value
    problems, _ = audit_run(config)
    verb = {"raw": "ingest", "spectra": "preprocess"}[stage]
    assert f"{verb}: block 1: {said}" in problems
    assert all("block 1" in line for line in problems)


def test_spectra_of_other_stars_than_were_read_are_found(config):
    array(folders.spectra_url(config), "obsid")[8] = 77
    problems, _ = audit_run(config)
    assert "preprocess: block 2: obsid is not that of the raw spectra" in problems
    assert "fit: block 2: its obsid is not that of the spectra" in problems


def test_a_table_of_other_rows_is_found(config, tmp_path):
    url = folders.best_url(config)
    block = plan_blocks(N, PER_BLOCK)[0]
    (tmp_path / "work").joinpath(*url.split("/work/")[1].split("/"), "commits/000000.json").unlink()
    table = pa.table({"row": np.arange(1, 5), "obsid": np.arange(4)})
    write_part(url, block, table, counts={})
    assert audit_run(config)[0] == ["fit: block 0: its rows are not 0:4"]


def test_what_cannot_be_decoded_is_a_problem_and_no_end(config):
    result = Ledger(folders.raw_url(config)).commits()[1]
    index = next(key for key in result.objects if key.startswith("index/"))
    pd.DataFrame({"file": ["one"]}).to_parquet(f"{folders.raw_url(config)}/{index}")
    shard = next(key for key in result.objects if "flux/c" in key)
    with open(f"{folders.raw_url(config)}/{shard}", "r+b") as file:  # noqa: PTH123
        file.truncate(20)
    problems, checked = audit_run(config)
    assert checked == 12
    assert any(line.startswith("ingest: block 1: ") for line in problems)


def test_the_verb_says_it(config, tmp_path, monkeypatch):
    monkeypatch.setattr("scalespec.cli.load_config", lambda _: config)
    monkeypatch.setattr("scalespec.status.verify_run", lambda _, mend: ([], 3))
    (tmp_path / "run.toml").touch()
    command = ["verify", str(tmp_path / "run.toml")]
    assert "3 objects checked, 0 problems" in CliRunner().invoke(main, command).output
    said = CliRunner().invoke(main, [*command, "--deep"])
    assert (said.exit_code, "12 blocks decoded, 0 problems" in said.output) == (0, True)
    array(folders.raw_url(config), "flux")[0, 0] = np.nan
    assert CliRunner().invoke(main, [*command, "--deep"]).exit_code == 1
