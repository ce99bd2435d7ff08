"""Fixtures every room uses."""

import fcntl
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray Train hears its workers every two seconds, and an epoch waits for that: tests' last far less.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pages
import pytest
from astropy.io import fits
from scripts import load

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real survey data beside the checkout; tests that want it skip without it."""
    if not (SHARED / "data").is_dir():
        pytest.skip("no ../shared/data beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def write_survey() -> Callable[..., list[Path]]:
    """A function that writes `n` made-up LAMOST files of the old image layout below a folder."""
    return _write_survey


@pytest.fixture
def undrawn() -> Iterator[None]:
    """Pages hold one pixel for every picture, for a test of what they say."""
    with pages.undrawn():
        yield


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What tests of whole runs share, from ``line.py`` beside this file; made once for all."""
    module = load(Path(__file__).with_name("line.py"))
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (base / "line.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = module.found if (base / "line").exists() else module.build
        return made(base / "line")


def _write_survey(folder: Path, n: int, *, seed: int = 0) -> list[Path]:
    wavelength = 10 ** (3.5682 + 1e-4 * np.arange(3909))
    made = []
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        flux = 1000 + 200 * np.sin(wavelength / 900) + rng.normal(0, 20, wavelength.size)
        ivar = np.where(rng.random(wavelength.size) < 0.02, 0, 1 / 400)
        rows = np.array([flux, ivar, wavelength, 0 * flux, 0 * flux], np.float32)
        cards = {"OBSID": 1000 + i, "RA": 10.0 + i, "DEC": -1.0 * i, "Z": 1e-4 * rng.normal()}
        cards |= {"MJD": 56000 + i, "CLASS": "STAR", "COEFF0": 3.5682, "COEFF1": 1e-4}
        path = folder / f"{i % 3}" / f"spec-56000-TEST_sp01-{i:03d}.fits"
        path.parent.mkdir(parents=True, exist_ok=True)
        fits.PrimaryHDU(rows, fits.Header(cards)).writeto(path)
        made.append(path)
    return made
