"""Processes die at chosen moments, on every engine, on disk and in a bucket: nothing changes."""

import contextlib
import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from buckets import upload
from drivers import Drivers

from scalespec.config import load_config
from scalespec.stages import folders
from scalespec.status import verify_run
from scalespec.store import paths

KIT = Path(__file__).resolve().parents[1] / "kits" / "chaos"
MOMENTS = {
    "while listing": ("before scan /files", "before list /files", ""),
    "before write": ("before put /raw/.*spectra.zarr.*/c/", None, ""),
    "after shard 1 of 3": ("after put /spectra/.*spectra.zarr.*/c/", None, "spectra"),
    "after part": ("after put /best/.*parts", None, "best"),
    "after commit": ("after put /best/.*commits", None, "best"),
    "while publishing": ("before close catalog.fits", None, "catalog"),
}
"""Where a process dies: on disk, in a bucket where that is said otherwise; and what is done before,
on disk."""
ENGINES = [
    "local",
    pytest.param("dask", marks=pytest.mark.dask),
    pytest.param("ray", marks=pytest.mark.ray),
]


@dataclass
class Victim:
    """A workspace whose run dies once at a chosen moment."""

    workspace: object
    folder: Path
    moment: str

    @property
    def env(self):
        log = str(self.folder / "kills.log")
        path = os.pathsep.join([str(KIT), *filter(None, [os.environ.get("PYTHONPATH")])])
        return os.environ | {"PYTHONPATH": path, "CHAOS_LOG": log, "CHAOS_AT": self.moment}

    @property
    def kills(self):
        log = self.folder / "kills.log"
        return log.read_text().splitlines() if log.exists() else []

    def finished(self, *args):
        """Type the same command until it ends well; return how often that was."""
        for number in range(1, 5):
            code, said = self.workspace.call("run", *args, env=self.env)
            if code == 0:
                return number
            assert code == -9, said
        raise AssertionError(said)


def same(line, config):
    """The catalog is that of the undisturbed run, and everything is as its records say."""
    found = paths.read_bytes(paths.join(folders.catalog_url(config), "catalog.parquet"))
    assert paths.sha256(found) == line.digest
    assert verify_run(config)[0] == []


def killed_once(line, tmp_path, engine, moment, before):
    victim = Victim(line.workspace(tmp_path, before), tmp_path, moment)
    times = victim.finished("--engine", engine)
    (kill,) = victim.kills
    assert times == (2 if kill.startswith("driver") else 1)
    return victim, kill


def test_a_driver_that_dies_twice_goes_on(line, tmp_path):
    """After a shard and, when it was started again, while publishing; see the kit for its start."""
    victim = Victim(line.workspace(tmp_path, "spectra"), tmp_path, "")
    deaths = [MOMENTS[name][0].split() for name in ("after shard 1 of 3", "while publishing")]
    most = [f"^driver {moment} {doing} .*{where}=1" for moment, doing, where in deaths]
    env = {k: v for k, v in victim.env.items() if k != "CHAOS_AT"}
    env |= {"CHAOS_RATE": "1", "CHAOS_MOST": "\n".join(most)}
    command = ("run", victim.workspace.run_file, "--engine", "local")
    with Drivers(env, "local", 240.0) as drivers:
        ends = [drivers.call(tmp_path / f"{number}.log", *command) for number in range(3)]
    assert [code for code, _ in ends] == [-9, -9, 0], ends
    assert [kill.split()[:3] for kill in victim.kills] == [
        ["driver", "after", "put"],
        ["driver", "before", "close"],
    ]
    same(line, victim.workspace.config)


@pytest.mark.slow
@pytest.mark.parametrize("name", MOMENTS)
@pytest.mark.parametrize("engine", ENGINES)
def test_on_disk(line, tmp_path, engine, name):
    moment, _, before = MOMENTS[name]
    victim, kill = killed_once(line, tmp_path, engine, moment, before)
    in_driver = engine == "local" or name in ("while listing", "while publishing")
    assert kill.startswith("driver" if in_driver else "worker")
    same(line, victim.workspace.config)


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.parametrize("name", MOMENTS)
@pytest.mark.parametrize("engine", ENGINES)
def test_in_a_bucket(line, tmp_path, bucket, engine, name):
    on_disk, in_bucket, _ = MOMENTS[name]
    workspace = line.workspace(tmp_path)
    workspace.run_file.write_text(upload(workspace.run_file, bucket))
    victim = Victim(workspace, tmp_path, in_bucket or on_disk)
    victim.finished("--engine", engine)
    assert len(victim.kills) == 1
    same(line, load_config(workspace.run_file))


TRAINING = {"rounds": [0, 5, 5], "epochs": 0}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_a_training_that_dies_after_a_checkpoint_makes_the_same_model(line, tmp_path, engine):
    trained = []
    for moment in ("never put x", "after put checkpoints"):
        folder = tmp_path / moment.split()[0]
        workspace = line.training(folder, workers=1, **TRAINING)
        victim = Victim(workspace, folder, moment)
        for _ in range(3):
            code, said = workspace.call("train", "--engine", engine, env=victim.env)
            if code == 0:
                break
        assert code == 0, said
        assert len(victim.kills) == (moment != "never put x")
        trained.append((workspace.model() / "weights.npz").read_bytes())
    assert trained[0] == trained[1]


# Two drivers, few blocks, and blocks with nothing in them


def both_done(line, workspace, *args):
    """Start two runs of one workspace at once; both end well, with the one catalog."""
    with workspace.start("run", *args) as one, workspace.start("run", *args) as two:
        codes = one.ended(), two.ended()
        assert codes == (0, 0), one.said + two.said
    assert workspace.digest() == line.digest
    assert workspace.problems() == []


def test_two_drivers_at_once_on_one_workspace_make_one_catalog(line, tmp_path):
    both_done(line, line.workspace(tmp_path, "best"), "--engine", "local")


@pytest.mark.slow
@pytest.mark.dask
@pytest.mark.parametrize("number", range(2))
def test_two_drivers_from_the_beginning_make_one_catalog(line, tmp_path, number):
    both_done(line, line.workspace(tmp_path), "--engine", "dask" if number else "local")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_fewer_blocks_than_workers(line, tmp_path, engine):
    workspace = line.workspace(tmp_path)
    workspace.change("spectra_per_block = 8", "spectra_per_block = 200")
    code, said = workspace.call("run", "--engine", engine)
    assert code == 0, said
    assert len(folders.planned_blocks(workspace.config)) == 1
    # Continua of other blocks round otherwise, in the seventh digit; a fit ends within 0.1 sigma of
    # the best labels, two within 0.2 of each other.
    found, wanted = labels(workspace), labels(line.undisturbed)
    assert found.obsid.tolist() == wanted.obsid.tolist()
    assert (found.fit_status == wanted.fit_status).all()
    for name in ("teff", "logg", "fe_h"):
        moved = np.abs(found[name] - wanted[name]) / wanted[f"{name}_err"]
        assert np.nanmax(moved) < 0.2
        assert np.nanmedian(moved) < 0.005  # most end where rounding alone puts them
    assert workspace.problems() == []


def labels(workspace):
    names = [n for label in ("teff", "logg", "fe_h") for n in (label, f"{label}_err")]
    columns = ["obsid", *names, "fit_status"]
    return pq.read_table(io.BytesIO(workspace.catalog()), columns=columns).to_pandas()


def same_labels(workspace, line, rows=slice(None)):
    """Rows whose labels are not, to a hundredth of a kelvin, those of the undisturbed run."""
    found, wanted = labels(workspace).iloc[rows], labels(line.undisturbed).iloc[rows]
    assert found.obsid.tolist() == wanted.obsid.tolist()
    close = np.isclose(found.teff, wanted.teff, atol=0.01, equal_nan=True)
    return found.index[~close].tolist()


@pytest.mark.slow
def test_a_block_without_a_single_good_pixel_is_rows_that_say_so(line, tmp_path):
    workspace = line.workspace(tmp_path)
    files = tmp_path / "files"
    shutil.copytree(Path(workspace.config.ingest.files), files)
    for path in sorted(files.rglob("*.fits*"))[8:16]:  # the whole second block
        with contextlib.suppress(OSError), fits.open(path) as hdus:  # some are broken as it is
            for hdu in hdus:
                if hdu.is_image and hdu.data is not None:
                    hdu.data[1] = 0
                elif not hdu.is_image:
                    hdu.data["IVAR"][:] = 0
            hdus.writeto(path, overwrite=True)
    workspace.change(str(line.survey / "files"), str(files))
    code, said = workspace.call("run", "--engine", "local")
    assert code == 0, said
    masked = labels(workspace).iloc[8:16]
    assert masked.teff.isna().all()
    assert (masked.fit_status != 0).all()
    assert same_labels(workspace, line, slice(16, None)) == []
    assert workspace.problems() == []


@pytest.mark.slow
def test_blocks_of_which_nothing_is_asked_pass_through(line, tmp_path):
    workspace = line.workspace(tmp_path, "first")
    workspace.change("[infer]\n", "[infer]\nsnr_min = 1e9\n")
    code, said = workspace.call("run", "--engine", "local")
    assert code == 0, said
    assert labels(workspace).teff.isna().all()
    assert workspace.problems() == []
