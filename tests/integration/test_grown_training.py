"""More inputs for a run that learns from matched stars: what is done again, and what that takes."""

import logging
import shutil
from dataclasses import dataclass

import pytest

from scalespec.config import RunConfig, load_config
from scalespec.run import run
from scalespec.stages import folders
from scalespec.stages.gather import read_matches
from scalespec.status import verify_run
from scalespec.store import paths, streams
from scalespec.store.spectra import count_spectra

FIRST, LATER = 60, 20
RUN_FILE = """
[run]
name = "grown"
workspace = "work"
seed = 3
spectra_per_block = 16
[ingest]
files = "files"
[preprocess]
wavelength_min_angstrom = 5000.0
wavelength_max_angstrom = 5600.0
[crossmatch.apogee]
catalog = "{survey}/labels.parquet"
star_id = "apogee_id"
columns = {{ teff = "teff", logg = "logg", fe_h = "fe_h" }}
[train]
catalog = "apogee"
labels = ["teff", "logg", "fe_h"]
model = "cannon"
order = 1
{segments}
[infer]
[fit]
[publish]
"""


@dataclass
class Grown:
    """A run, what it was before more files came, and what it did then."""

    config: RunConfig
    before: dict[str, str]
    learned: int
    worked: dict[str, list[int]]
    said: str


def copy(line, folder, which):
    base = line.survey / "files"
    for path in sorted(base.rglob("*.fits*"))[which]:
        target = folder / "files" / path.relative_to(base)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)


def places(config):
    """Where the model and what is made with it lie, and whose training set it is."""
    return {
        "train.zarr": folders.training_url(config, "apogee"),
        "model": folders.model_url(config),
        "first": folders.first_url(config),
        "best": folders.best_url(config),
    }


def learned(config):
    return count_spectra(f"{folders.training_url(config, 'apogee')}/train.zarr")


@pytest.fixture
def grow(line, tmp_path, caplog):
    """A function that runs a run file, gives it more files, and runs it again."""

    def made(segments):
        (tmp_path / "run.toml").write_text(RUN_FILE.format(survey=line.survey, segments=segments))
        copy(line, tmp_path, slice(FIRST))
        config = load_config(tmp_path / "run.toml")
        assert run(config, engine="local").exit_code == 0
        before, n = places(config), learned(config)
        copy(line, tmp_path, slice(FIRST, FIRST + LATER))
        worked: dict[str, list[int]] = {}

        def listen(progress):
            if progress.report is not None:
                worked.setdefault(progress.stage, []).append(progress.report.block.index)

        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert run(config, engine="local", listener=listen).exit_code == 0
        assert verify_run(config)[0] == []
        return Grown(config, before, n, worked, caplog.text)

    return made


def test_more_matched_stars_train_and_fit_anew_and_the_log_says_so(grow):
    grown = grow("")
    assert not set(grown.before.values()) & set(places(grown.config).values())
    assert sorted(grown.worked["fit"]) == list(range(6))
    now = learned(grown.config)
    assert now > grown.learned
    wanted = f"the training set grew from {grown.learned} to {now} spectra: the model is trained "
    assert wanted + f"anew, and the {FIRST} spectra that were fitted are fitted anew" in grown.said


def test_a_training_set_of_the_first_segment_keeps_model_and_fits(grow, monkeypatch):
    grown = grow("segments = 1")
    assert places(grown.config) == grown.before
    assert learned(grown.config) == grown.learned
    for stage in ("ingest", "preprocess", "match apogee", "infer", "fit"):
        assert sorted(grown.worked[stage]) == [4, 5], stage  # 60 files left a quarter of block 3
    assert not [name for name in grown.worked if "train" in name]
    assert "training set grew" not in grown.said
    matches = read_matches(folders.matches_url(grown.config, "apogee"))
    assert matches["row"].max() >= 64  # the new ones are matched, and published, all the same
    _nobody_reads_the_matches_whole(grown.config, monkeypatch)


def _nobody_reads_the_matches_whole(config, monkeypatch):
    """A run with nothing left to do asks for the checksum of matches, and for no more of them."""
    read = {"whole": 0, "hashed": 0}
    read_bytes, sha256 = paths.read_bytes, streams.sha256

    def counted(url):
        read["whole"] += url.endswith("matches.parquet")
        return read_bytes(url)

    def hashed(url):
        read["hashed"] += url.endswith("matches.parquet")
        return sha256(url)

    monkeypatch.setattr(paths, "read_bytes", counted)
    monkeypatch.setattr(streams, "sha256", hashed)
    summary = run(config, engine="local")
    assert (summary.exit_code, summary.done) == (0, 0)
    assert read == {"whole": 0, "hashed": 0}
