"""A run that is finished, and more inputs: only the new blocks are worked on, all are published."""

import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from scalespec.config import load_config
from scalespec.run import run
from scalespec.schema import SpectrumStatus
from scalespec.stages import folders
from scalespec.status import stage_states, verify_run
from scalespec.store import paths
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import open_spectra

FIRST, LATER = 20, 10
STAGES = ("raw_url", "spectra_url", "first_url", "best_url")


@pytest.fixture(scope="module")
def config(line, tmp_path_factory):
    """The shared line's run file over a folder that holds the first files only."""
    folder = tmp_path_factory.mktemp("growing")
    text = line.undisturbed.run_file.read_text()
    text = text.replace(f'files = "{line.survey}/files"', 'files = "files"')
    (folder / "run.toml").write_text(text)
    _copy(line, folder, slice(FIRST))
    return load_config(folder / "run.toml")


def _copy(line, folder: Path, which: slice) -> None:
    base = line.survey / "files"
    for path in sorted(base.rglob("*.fits*"))[which]:
        target = folder / "files" / path.relative_to(base)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)


SAID_ANEW = ("zarr.json", "spectra.zarr.json", "timing.json", "planned.json")
"""How large a store is, how long it took and which blocks it has."""


@pytest.fixture(scope="module")
def grown(config, line):
    """The same run before and after ten more files: (objects before, what the second run did)."""
    assert run(config, engine="local").exit_code == 0
    assert _rows(config).tolist() == list(range(FIRST))
    before = {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for name in STAGES
        for path in Path(getattr(folders, name)(config)).rglob("*")
        if path.is_file() and path.name not in SAID_ANEW
    }
    _copy(line, Path(config.run.workspace).parent, slice(FIRST, FIRST + LATER))
    worked: dict[str, list[int]] = {}

    def listen(progress):
        if progress.report is not None:
            worked.setdefault(progress.stage, []).append(progress.report.block.index)

    assert run(config, engine="local", listener=listen).exit_code == 0
    return before, worked


def _rows(config):
    data = paths.read_bytes(paths.join(folders.catalog_url(config), "catalog.parquet"))
    return pq.read_table(io.BytesIO(data), columns=["row"])["row"].to_numpy()


def test_only_the_new_blocks_are_worked_on(grown):
    _, worked = grown
    for stage in ("ingest", "preprocess", "infer", "fit"):
        assert sorted(worked[stage]) == [3, 4], stage  # 20 files filled blocks 0, 1 and half of 2


def test_nothing_that_was_done_is_rewritten(grown):
    before, _ = grown
    for path, (time, content) in before.items():
        assert (path.stat().st_mtime_ns, path.read_bytes()) == (time, content), path


def test_the_catalog_has_all_rows_and_the_hole_between_the_segments_none(config, grown):
    assert _rows(config).tolist() == [*range(FIRST), *range(24, 24 + LATER)]


def test_every_spectrum_is_what_a_run_over_all_files_makes_of_it(config, grown, line):
    names = ["obsid", "file", "fit_status", "spectrum_status", "teff", "teff_err", "rv", "rv_err"]

    def table(config):
        data = paths.read_bytes(paths.join(folders.catalog_url(config), "catalog.parquet"))
        return pq.read_table(io.BytesIO(data), columns=names).to_pandas().set_index("obsid")

    ours, whole = table(config), table(line.undisturbed.config)
    assert len(ours) == FIRST + LATER
    whole = whole.loc[ours.index]
    for name in names[1:4]:
        np.testing.assert_array_equal(ours[name], whole[name], err_msg=name)
    # Other stars in a batch: rounding. A fit ends where a step promises less than 0.01 of chi2,
    # which is a tenth of sigma.
    for name in ("teff", "rv"):
        apart = (ours[name] - whole[name]).abs() / whole[f"{name}_err"]
        assert np.nanmax(apart) < 0.1, name


def test_the_grown_run_verifies_and_counts_what_was_planned(config, grown):
    assert verify_run(config)[0] == []
    states = {state["stage"]: state for state in stage_states(config)}
    for stage in ("ingest", "preprocess", "infer", "fit", "publish"):
        assert (states[stage]["blocks"], states[stage]["done"]) == (5, 5), stage
        assert states[stage]["rows"] == FIRST + LATER
    assert set(Ledger(folders.raw_url(config)).commits()) == set(range(5))


def test_rows_that_nothing_was_planned_for_say_so(config, grown):
    spectra = open_spectra(f"{folders.spectra_url(config)}/spectra.zarr")
    status = spectra["status"].to_numpy()
    assert len(status) == 24 + LATER
    hole = slice(FIRST, 24)
    assert (status[hole] == SpectrumStatus.PADDING).all()
    assert not (np.delete(status, np.r_[hole]) & SpectrumStatus.PADDING).any()
    assert not spectra["ivar"][hole].any()
    assert (spectra["obsid"][hole] == -1).all()
