"""A setting that changes bytes changes the folder that they lie in: else it is silently ignored."""

from pathlib import Path

import pytest
from scripts import load

from scalespec.config import StoreTable, digest, parse_config
from scalespec.plan import plan_blocks
from scalespec.schema import FORMAT_VERSION
from scalespec.stages import folders
from scalespec.stages.identities import identity
from scalespec.stages.ingest import write_raw
from scalespec.stages.preprocess import preprocess, preprocess_stage
from scalespec.stages.segments import Segment, add_segment
from scalespec.store import paths
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import create_spectra

tiny = load(Path(__file__).parents[1] / "unit" / "tiny_run.py")

CHANGES = {
    "run.seed": 2,
    "store.codec": "none",
    "store.lossy_bits": 8,
    "store.endpoint": "https://s3.example.org",
    "store.region": "x",
    "store.profile": "p",
    "store.anonymous": True,
    "store.allow_http": True,
}
RUN_FILE = """
[run]
name = "t"
workspace = "{folder}/work"
spectra_per_block = 8
{tables}
steps = {steps}
[preprocess.simulate]
bands = ["GV"]
snr = 20
"""
TABLES = {
    "raw": '[ingest]\nfiles = "{source}/*.fits"\n[preprocess]',
    "source": '[preprocess]\nsource = "{source}"',
    "library": """
[ingest]
files = "{source}/*.fits"
[train]
library = "{source}"
labels = ["teff"]
[preprocess]""",
}
PLAIN, NOISY = '["cut"]', '["cut", "simulate"]'


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A spectra store that a run names, as a library of theory."""
    url = f"{tmp_path_factory.mktemp('source')}/spectra.zarr"
    return fill(url, tiny.N)


def fill(url, n):
    blocks = plan_blocks(n, tiny.ROWS)
    create_spectra(url, made_of(blocks[0])[0][""], n_spectrum=n, shard_rows=tiny.ROWS)
    for block in blocks:
        write_raw(block, made_of(block), paths.split(url)[0])
    return url


def made_of(block):
    return {"": tiny.spectra_block(block, tiny.true_labels())}, tiny.index_block(block)


def configured(folder, source, kind, steps, change):
    tables = TABLES[kind].format(folder=folder, source=source)
    config = parse_config(RUN_FILE.format(folder=folder, tables=tables, steps=steps))
    if not change:
        return config
    table, _, key = change.partition(".")
    updated = getattr(config, table).model_copy(update={key: CHANGES[change]})
    return config.model_copy(update={table: updated})


def plan(config):
    segment = Segment(0, tiny.N, tiny.ROWS, folders.entries_of(config), 1, tiny.N, "0", "a")
    add_segment(folders.plan_url(config), 0, segment)


def made(tmp_path, source, kind, steps, change=""):
    """The name of the folder that a run's spectra go to, and the bytes that it puts there."""
    folder = tmp_path / (change or "as it was")
    config = configured(folder, source, kind, steps, change)
    if kind == "library":
        url = folders.library_url(config)
        stages = [preprocess_stage(config, source, url)]
    else:
        if kind == "raw":
            plan(config)
            fill(f"{folders.raw_url(config)}/spectra.zarr", tiny.N)
        url = folders.spectra_url(config)
        stages = preprocess(config)
    tiny.run_stage(stages)
    commits = Ledger(url).commits()
    assert len(commits) == 3
    return url.rpartition("/")[2], {i: result.objects for i, result in commits.items()}


def test_every_setting_of_bytes_is_asked_for():
    assert set(CHANGES) == {"run.seed", *(f"store.{name}" for name in StoreTable.model_fields)}


@pytest.mark.parametrize("steps", [PLAIN, NOISY], ids=["plain", "noisy"])
@pytest.mark.parametrize("kind", ["raw", "source", "library"])
def test_the_folder_differs_or_the_bytes_do_not_depend_on_it(tmp_path, source, kind, steps):
    folder, content = made(tmp_path, source, kind, steps)
    moved = set()
    for change in CHANGES:
        other, theirs = made(tmp_path, source, kind, steps, change)
        assert other != folder or theirs == content, change
        moved |= {change} if theirs != content else set()
    wanted = {"store.codec", "store.lossy_bits"} | ({"run.seed"} if steps == NOISY else set())
    assert moved == wanted  # the test sees what it is about


@pytest.mark.parametrize("steps", [PLAIN, NOISY], ids=["plain", "noisy"])
def test_with_all_settings_as_usual_folders_are_named_as_they_always_were(tmp_path, source, steps):
    there, version = identity(paths.join(source, "zarr.json")), FORMAT_VERSION
    config = configured(tmp_path, source, "source", steps, "")
    old = digest(config.preprocess, there, 8, 1, version)
    assert folders.spectra_url(config).endswith(f"/spectra/{old}")
    config = configured(tmp_path, source, "library", steps, "")
    old = digest(config.preprocess, source, there, 8, ("blosc", None), version)
    assert folders.library_url(config).endswith(f"/library/{old}")
    config = configured(tmp_path, source, "raw", steps, "")
    plan(config)
    old = digest(config.preprocess, folders.raw_url(config).rpartition("/")[2], version)
    assert folders.spectra_url(config).endswith(f"/spectra/{old}")
