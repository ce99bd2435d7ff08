"""What the files of each made-up survey hold: from observed arms to the writers in `surveys`.

Each survey has its own bits for what happened to a pixel. Velocities km/s.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.kernels.observation_instrument import Instrument, line_sigma
from scalespec.kernels.observation_noise import (
    Conditions,
    Damage,
    Observed,
    Sources,
    observe_arm,
)
from scalespec.kernels.observation_surveys import INSTRUMENTS
from scalespec.kernels.sky import healpix_nested
from scalespec.schema import C_KMS
from scalespec.surveys import csst_files, desi_files, lamost_files
from scalespec.surveys.cards import made_id
from scalespec.surveys.gaia_xp_files import write_xp
from scalespec.surveys.lamost import WAVELENGTH

Columns = dict[str, npt.NDArray[Any]]

SENTINEL_FRACTION = 0.02
"""Of the spectra, those whose pipeline gave no velocity, and those without an S/N in u."""
SNR_BANDS = ((3700, 4000), (4000, 5500), (5620, 6890), (6910, 8190), (8250, 9100))
"""Wavelengths [Å] of LAMOST's S/N in u, g, r, i, z."""
ROWS = 256
"""Spectra observed at a time: of more, the arrays would leave the caches and fill the memory."""
LONGEST_CUT = 3  # pixels that a LAMOST file may lack of the survey's grid
SUBCLASS_TEFF = (-30000.0, -9700.0, -7300.0, -5950.0, -5250.0, -3850.0, -3000.0)
"""Where O/B, A0, F0, G0, K0, M0 begin, and M6, in minus K."""


@dataclass(frozen=True)
class MadeFiles:
    """What a block of a made-up survey becomes.

    Attributes
    ----------
    files : list of (path, content)
        Relative to the survey's folder, in the order of their first rows.
    spectra : dict of str to (n,) array
        In the order of the stars: obsid; file; row: which spectrum of the file; snr: the true
        median S/N per pixel, of the best arm; z: the velocity over c that the file states, -9999
        where none; layout; what night and fibre were like.
    """

    files: list[tuple[str, bytes]]
    spectra: Columns


@dataclass(frozen=True)
class Night:
    """A block of spectra to observe, one row each.

    Attributes
    ----------
    facts : dict of str to (n,) array
    sources : Sources
    conditions : Conditions
    rng : Generator
        Of all chance in the block.
    block : int
    layout : str or None
        Asked for.
    """

    facts: Columns
    sources: Sources
    conditions: Conditions
    rng: np.random.Generator
    block: int
    layout: str | None = None

    def take(self, rows: npt.NDArray[np.intp]) -> "Night":
        """Return the night of these rows."""
        source = {
            name: getattr(self.sources, name)[rows]
            for name in ("normalized", "teff", "g", "ebv", "rv")
        }
        condition = {
            name: getattr(self.conditions, name)[rows]
            for name in ("slit", "throughput", "sky_velocity")
        }
        return replace(
            self,
            facts={name: column[rows] for name, column in self.facts.items()},
            sources=replace(self.sources, **source),
            conditions=replace(self.conditions, **condition),
        )

    def observe(self, instrument: Instrument) -> dict[str, Observed]:
        """Observe with all arms of an instrument; rows of broken pipelines get no weight."""
        made = {
            arm.name: observe_arm(instrument, arm, self.sources, self.conditions, self.rng)
            for arm in instrument.arms
        }
        for arm in made.values():
            arm.ivar[self.facts["no_ivar"]] = 0
        return made

    def row(self, i: int) -> dict[str, Any]:
        """Return the facts of one row as plain values."""
        return {name: column[i].item() for name, column in self.facts.items()}


def stated_velocity(
    night: Night, snr: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return z and its error as a pipeline would find them, -9999 where it did not."""
    n = len(snr)
    error = 5e-6 + 3e-4 / np.maximum(snr, 1.0)
    z = night.facts["rv"] / C_KMS + error * night.rng.normal(size=n)
    lost = night.rng.random(n) < SENTINEL_FRACTION
    return np.where(lost, -9999.0, z), np.where(lost, -9999.0, error)


def survey_mask(damage: npt.NDArray[np.uint8], bits: Mapping[Damage, int]) -> npt.NDArray[np.int32]:
    """Return damage in a survey's own bits."""
    mask = np.zeros(damage.shape, np.int32)
    for kind, value in bits.items():
        mask[damage & np.uint8(kind.value) > 0] |= np.int32(value)
    return mask


def best_snr(arms: Iterable[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Return the S/N of each spectrum's best arm, as readers state it for all arms."""
    return np.asarray(np.max(list(arms), axis=0))


def trusted_ivar(observed: Observed) -> npt.NDArray[np.float32]:
    """Return ivar without the pixels where the pipeline saw a cosmic ray."""
    hit = observed.damage & np.uint8(Damage.COSMIC.value) > 0
    return np.where(hit, np.float32(0), observed.ivar)


def subclass(teff: float) -> str:
    """Return a spectral type.

    Examples
    --------
    >>> [subclass(teff) for teff in (20000.0, 9000.0, 5772.0, 4000.0, 3500.0)]
    ['B4', 'A2', 'G2', 'K8', 'M2']
    """
    number = int(np.interp(-teff, SUBCLASS_TEFF, (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 56.0)))
    return f"{'BAFGKM'[number // 10]}{number % 10}"


def lrs_files(night: Night) -> MadeFiles:
    """Write LAMOST's low-resolution spectra, one file each."""
    n = len(night.facts["obsid"])
    if night.layout is None:
        layouts = np.where(night.rng.random(n) < 0.5, "image", "coadd")
    else:
        layouts = np.full(n, night.layout)
    content: list[tuple[str, bytes]] = [("", b"")] * n
    spectra: Columns = {"row": np.zeros(n, np.int64), "layout": layouts}
    spectra |= {"obsid": np.zeros(n, np.int64), **{x: np.zeros(n) for x in ("snr", "z", "z_err")}}
    for layout in sorted(set(layouts.tolist())):
        if f"lamost_lrs/{layout}" not in INSTRUMENTS:
            raise ValueError(f"layout must be 'pilot', 'image' or 'coadd', got {layout!r}")
        every = np.flatnonzero(layouts == layout)
        for rows in np.split(every, range(ROWS, len(every), ROWS)):
            files, columns = _lrs_spectra(night.take(rows), layout)
            for name, column in columns.items():
                spectra[name][rows] = column
            for row, file in zip(rows.tolist(), files, strict=True):
                content[row] = file
    spectra["file"] = np.array([name for name, _ in content])
    return MadeFiles(content, spectra)


def _lrs_spectra(night: Night, layout: str) -> tuple[list[tuple[str, bytes]], Columns]:
    """Return the files of some spectra of one layout, and what the truth is to know of them."""
    observed = night.observe(INSTRUMENTS[f"lamost_lrs/{layout}"])["coadd"]
    cards = _lrs_cards(night, observed)
    masks = _lrs_masks(observed)
    columns = {name: cards[name] for name in ("snr", "z", "z_err")}
    columns["obsid"] = night.facts["obsid"]
    files = []
    for i in range(len(observed.flux)):
        facts = night.row(i) | {name: column[i].item() for name, column in cards.items()}
        pixels = _lrs_rows(observed, masks, facts, i)
        data = lamost_files.write_lrs(facts, pixels, layout=layout)
        files.append((lamost_files.file_path(facts), data))
    if layout == "pilot":
        columns["obsid"] = np.array([_pilot_id(night.row(i)) for i in range(len(files))])
    return files, columns


def _pilot_id(facts: Mapping[str, Any]) -> int:
    """Return the id that our reader makes for a file without OBSID."""
    day = lamost_files.local_day(facts["mjd"])
    return made_id(day, facts["planid"], facts["spid"], facts["fiberid"])


def _lrs_cards(night: Night, observed: Observed) -> Columns:
    """Return what the pipeline says of each spectrum in the header."""
    n, rng = len(observed.flux), night.rng
    z, z_err = stated_velocity(night, observed.snr)
    pulls = observed.truth * np.sqrt(observed.ivar)
    lost = rng.random(n) < SENTINEL_FRACTION
    cards: Columns = {"snr": observed.snr, "z": z, "z_err": z_err}
    for band, (low, high) in zip("ugriz", SNR_BANDS, strict=True):
        pixels = (low < WAVELENGTH) & (high > WAVELENGTH)
        snr = np.median(pulls[:, pixels], axis=1).astype(np.float64)
        cards[f"snr_{band}"] = np.where((snr > 0) & ~(lost & (band == "u")), snr, -9999.0)
    cut = rng.integers(LONGEST_CUT + 1, size=n)
    cards["first_pixel"] = rng.integers(cut + 1)
    cards["n_pixel"] = len(WAVELENGTH) - cut
    cards["subclass"] = np.array([subclass(t) for t in night.facts["teff"].tolist()])
    return cards


_LRS_BITS = {
    Damage.DEAD: lamost_files.BAD_PIXEL,
    Damage.SKY: lamost_files.SKY_TOO_BRIGHT,
    Damage.NO_DATA: lamost_files.NO_DATA,
}


def _lrs_masks(observed: Observed) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return ANDMASK and ORMASK: a cosmic ray falls on one exposure of several."""
    always = survey_mask(observed.damage, _LRS_BITS)
    return always, always | survey_mask(observed.damage, {Damage.COSMIC: lamost_files.BAD_PIXEL})


def _lrs_rows(
    observed: Observed,
    masks: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]],
    facts: Mapping[str, Any],
    i: int,
) -> npt.NDArray[np.float32]:
    """Return a spectrum as its file holds it: flux, ivar, wavelength, masks, normalized flux."""
    here = slice(facts["first_pixel"], facts["first_pixel"] + facts["n_pixel"])
    rows = np.empty((6, facts["n_pixel"]), np.float32)
    flux = observed.flux[i, here]
    rows[0], rows[1], rows[2] = flux, observed.ivar[i, here], WAVELENGTH[here]
    rows[3], rows[4] = (mask[i, here] for mask in masks)
    np.divide(flux, observed.continuum[i, here], out=rows[5])
    return rows


def desi_coadds(night: Night) -> MadeFiles:
    """Write DESI's coadds, a file per healpix cell with all of its targets in the block."""
    facts, instrument = night.facts, INSTRUMENTS["desi"]
    observed = night.observe(instrument)
    snr = best_snr(arm.snr for arm in observed.values())
    z, z_err = stated_velocity(night, snr)
    cells = healpix_nested(facts["ra"], facts["dec"], 6)
    survey = f"mock{night.block:06d}"
    columns = facts | {"targetid": facts["obsid"], "z": z, "z_err": z_err}
    columns |= {"fiber": facts["spid"] % 2 * 250 + facts["fiberid"] - 1, "tileid": facts["plate"]}
    columns["night"] = np.array([_night_of(mjd) for mjd in facts["mjd"].tolist()])
    names, row = np.empty(len(cells), object), np.zeros(len(cells), np.int64)
    files = []
    for cell in dict.fromkeys(cells.tolist()):  # in the order of their first rows
        rows = np.flatnonzero(cells == cell)
        names[rows] = (
            f"healpix/{survey}/bright/{cell // 100}/{cell}/coadd-{survey}-bright-{cell}.fits"
        )
        row[rows] = np.arange(len(rows))
        here = {name: column[rows] for name, column in columns.items()}
        arms = {
            arm.name: _desi_arm(night, arm.name, observed[arm.name], rows)
            for arm in instrument.arms
        }
        data = desi_files.write_coadd(here, arms, healpix=cell, survey=survey)
        files.append((str(names[rows[0]]), data))
    spectra = {
        "obsid": facts["obsid"],
        "file": names.astype(np.str_),
        "row": row,
        "snr": snr,
        "z": z,
    }
    return MadeFiles(files, spectra)


def _night_of(mjd: float) -> int:
    """Return the date that a night began on, as a number."""
    return int(f"{lamost_files.observed_at(mjd - 0.8):%Y%m%d}")


_DESI_BITS = {
    Damage.DEAD: desi_files.SOME_BAD,
    Damage.COSMIC: desi_files.COSMIC_RAY,
    Damage.SKY: desi_files.BRIGHT_SKY,
    Damage.NO_DATA: desi_files.NO_DATA,
}


def _desi_arm(
    night: Night, name: str, observed: Observed, rows: npt.NDArray[np.intp]
) -> dict[str, npt.NDArray[Any]]:
    instrument = INSTRUMENTS["desi"]
    (arm,) = (arm for arm in instrument.arms if arm.name == name)
    droop = instrument.fibre_droop * night.conditions.slit[rows] ** 2
    mask = survey_mask(observed.damage[rows], _DESI_BITS)
    return {
        "wavelength": arm.wavelength,
        "flux": observed.flux[rows],
        "ivar": trusted_ivar(observed)[rows],
        "mask": mask,
        "sigma": (line_sigma(arm) / arm.step / (1 - droop[:, None])).astype(np.float32),
    }


def xp_table(night: Night) -> MadeFiles:
    """Write Gaia's XP spectra of a block, one table."""
    facts = night.facts
    observed = night.observe(INSTRUMENTS["gaia_xp"])["xp"]
    name = f"xp_sampled_mean_{night.block:06d}.fits"
    stars = facts | {"name": np.array([f"MOCK{s:012d}" for s in facts["star"].tolist()], "S30")}
    data = write_xp(stars, observed.flux, observed.ivar)
    n = len(observed.flux)
    spectra = {
        "obsid": facts["source_id"],
        "file": np.full(n, name),
        "row": np.arange(n),
        "snr": observed.snr,
        "z": np.full(n, -9999.0),
    }
    return MadeFiles([(name, data)], spectra)


_CSST_BITS = {
    Damage.DEAD: csst_files.BAD_PIXEL,
    Damage.COSMIC: csst_files.COSMIC_RAY,
    Damage.CONTAMINATED: csst_files.CONTAMINATED,
    Damage.NO_DATA: csst_files.NO_DATA,
}


def csst_table(night: Night) -> MadeFiles:
    """Write CSST's spectra of a block, one field."""
    facts, instrument = night.facts, INSTRUMENTS["csst"]
    observed = night.observe(instrument)
    snr = best_snr(arm.snr for arm in observed.values())
    z, z_err = stated_velocity(night, snr)
    bands = {
        name: (arm.flux, trusted_ivar(arm), survey_mask(arm.damage, _CSST_BITS))
        for name, arm in observed.items()
    }
    grids = {arm.name: arm.wavelength for arm in instrument.arms}
    name = f"csst_field_{night.block:06d}.fits"
    data = csst_files.write_csst(facts | {"z": z, "z_err": z_err}, bands, grids)
    n = len(snr)
    spectra = {
        "obsid": facts["obsid"],
        "file": np.full(n, name),
        "row": np.arange(n),
        "snr": snr,
        "z": z,
    }
    return MadeFiles([(name, data)], spectra)
