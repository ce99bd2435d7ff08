"""Surveys whose files hold several exposures and their sum: LAMOST's medium resolution, APOGEE.

Every exposure is observed for itself; the sum is made of them as a pipeline would, so that the two
agree. Velocities km/s.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.kernels.observation_instrument import Arm
from scalespec.kernels.observation_light import barycentric_velocity, star_light
from scalespec.kernels.observation_noise import Damage, Observed, median_snr
from scalespec.kernels.observation_surveys import INSTRUMENTS
from scalespec.kernels.resample import rebin
from scalespec.kernels.wavelength import pixel_edges
from scalespec.schema import C_KMS
from scalespec.stages.mock_layouts import MadeFiles, Night, best_snr, survey_mask, trusted_ivar
from scalespec.surveys import apogee_files, lamost_mrs_files
from scalespec.surveys.apogee_files import Visits
from scalespec.surveys.cards import made_id
from scalespec.surveys.lamost_files import designation
from scalespec.surveys.lamost_mrs_files import ERAS, Part

Array32 = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]

FAILED_FRACTION, FAILED_LIGHT = 0.03, 1e-4
"""MRS spectra whose exposures all failed, and the part of the light that was left."""
EXPOSURES = (2, 6)
"""Fewest and most exposures of an MRS file, the latter excluded."""
EXPOSURE_MINUTES = 23
"""From the beginning of one exposure to that of the next."""
EXPOSURE_PIXELS, WINDOWS = 4136, 16
"""Pixels of an exposure, and by how many the detectors of two spectrographs may differ."""
COADD_STEP = 1e-5
"""Of coadds, in log10 Å: their pixels lie at multiples of it."""
VISITS = (1, 4)
"""Fewest and most visits of an APOGEE star seen once in a block, the latter excluded."""
H_WAVELENGTH, H_ZERO = 16620.0, 1.133e-10
"""2MASS H: wavelength [Å], flux of magnitude 0 [erg/s/cm²/Å] (Cohen et al. 2003, AJ 126, 1090)."""
RV_ERROR = 0.05
"""Of a visit's velocity."""


def mrs_files(night: Night) -> MadeFiles:
    """Write LAMOST's medium-resolution spectra: a file each, with coadded arms and exposures."""
    facts, rng = night.facts, night.rng
    n = len(facts["obsid"])
    eras = _eras(night)
    count = rng.integers(*EXPOSURES, size=n)
    failed = rng.random(n) < FAILED_FRACTION
    looks = _exposures(night, np.where(failed, FAILED_LIGHT, 1.0))
    arms = INSTRUMENTS["lamost_mrs"].arms
    sums = {arm.name: _coadd(arm, [look[arm.name] for look in looks], count) for arm in arms}
    stated = best_snr(median_snr(made[-1], made[2]) for made in sums.values())
    content = []
    for i in range(n):
        parts = [_coadd_part(arm, sums[arm.name], facts, i) for arm in arms]
        for arm in arms:
            exposures = [look[arm.name] for look in looks[: count[i]]]
            parts += [_exposure_part(arm, one, facts, (i, k)) for k, one in enumerate(exposures)]
        row = night.row(i)
        data = lamost_mrs_files.write_mrs(row, parts, era=str(eras[i]))
        content.append((lamost_mrs_files.mrs_path(row), data))
    spectra = {
        "obsid": facts["obsid"],
        "file": np.array([name for name, _ in content]),
        "row": np.zeros(n, np.int64),
        "snr": stated / night.conditions.overstated,
        "z": np.full(n, -9999.0),
        "layout": eras,
        "exposures": count,
        "failed": failed,
    }
    return MadeFiles(content, spectra)


def _eras(night: Night) -> npt.NDArray[np.str_]:
    """Return each file's layout."""
    n = len(night.facts["obsid"])
    if night.layout is None:
        return np.where(night.rng.random(n) < 0.5, "loglam", "wavelength")
    if night.layout not in ERAS:
        raise ValueError(f"layout must be one of {sorted(ERAS)}, got {night.layout!r}")
    return np.full(n, night.layout)


def _exposures(night: Night, light: FloatArray) -> list[dict[str, Observed]]:
    """Return as many exposures of all stars as any file may hold, clouds passing by."""
    looks = []
    for _ in range(EXPOSURES[1] - 1):
        clouds = light * 10 ** night.rng.normal(0.0, 0.08, len(light))
        seen = replace(night.conditions, throughput=night.conditions.throughput * clouds)
        looks.append(replace(night, conditions=seen).observe(INSTRUMENTS["lamost_mrs"]))
    return looks


def _window(arm: Arm, spid: int) -> slice:
    """Return the pixels that a spectrograph's detector has."""
    first = 4 * (spid % WINDOWS) % (arm.n_pixel - EXPOSURE_PIXELS + 1)
    return slice(first, first + EXPOSURE_PIXELS)


_MRS_BITS = {
    Damage.DEAD: lamost_mrs_files.BAD_PIXEL,
    Damage.COSMIC: lamost_mrs_files.BAD_PIXEL,
    Damage.NO_DATA: lamost_mrs_files.BAD_PIXEL,
}


def _exposure_part(
    arm: Arm, one: Observed, facts: Mapping[str, npt.NDArray[Any]], place: tuple[int, int]
) -> Part:
    """Return exposure k of star i as its table holds it: the red arm runs to the blue."""
    i, k = place
    here = _window(arm, int(facts["spid"][i]))
    way = slice(None, None, -1 if arm.name == "R" else 1)
    mask = survey_mask(one.damage[i, here], _MRS_BITS).astype(np.int16)[way]
    minute = int((facts["mjd"][i] + 8 / 24) * 1440) + EXPOSURE_MINUTES * k
    return Part(
        arm.name,
        minute,
        arm.wavelength[here][way],
        one.flux[i, here][way],
        one.ivar[i, here][way],
        mask,
        mask,
    )


Sum = tuple[FloatArray, Array32, Array32, npt.NDArray[np.int16], npt.NDArray[np.int16], Array32]


def _coadd(arm: Arm, looks: list[Observed], count: npt.NDArray[np.int64]) -> Sum:
    """Add the first `count` exposures of each star, on the grid of coadds.

    Returns
    -------
    wavelength, flux, ivar, andmask, ormask, truth
        (n_out,), then (n, n_out).
    """
    used = [np.where((count > k)[:, None], trusted_ivar(one), 0) for k, one in enumerate(looks)]
    flux, ivar = _weighted(looks, used)
    edges = pixel_edges(arm.wavelength)
    first, last = (np.log10(arm.wavelength[[0, -1]]) / COADD_STEP + (1, -1)).round().astype(int)
    grid = 10 ** (COADD_STEP * np.arange(first, last + 1))
    summed, weight = rebin(flux, ivar, edges, pixel_edges(grid))
    nearest = np.searchsorted(edges, grid) - 1
    truth = looks[0].truth[:, nearest]
    masks = [
        np.where((count > k)[:, None], survey_mask(one.damage, _MRS_BITS), fill)
        for fill in (1, 0)
        for k, one in enumerate(looks)
    ]
    andmask = np.bitwise_and.reduce(masks[: len(looks)])[:, nearest].astype(np.int16)
    ormask = np.bitwise_or.reduce(masks[len(looks) :])[:, nearest].astype(np.int16)
    return grid, summed.astype(np.float32), weight.astype(np.float32), andmask, ormask, truth


def _weighted(
    looks: list[Observed], weights: list[Array32], flat: bool = False
) -> tuple[Array32, Array32]:
    """Return the mean of exposures brought to the first one's calibration, and its ivar.

    With `flat`, each exposure has one weight for all of its pixels.
    """
    total, norm, variance = (np.zeros_like(looks[0].flux) for _ in range(3))
    for one, ivar in zip(looks, weights, strict=True):
        scale = looks[0].continuum / one.continuum
        honest = ivar / scale**2
        used = np.where(honest > 0, np.median(honest, axis=1, keepdims=True), 0) if flat else honest
        total += used * one.flux * scale
        norm += used
        variance += np.divide(used**2, honest, out=np.zeros_like(used), where=honest > 0)
    flux = np.divide(total, norm, out=np.zeros_like(total), where=norm > 0)
    ivar = np.divide(norm**2, variance, out=np.zeros_like(norm), where=variance > 0)
    return flux, ivar


def _coadd_part(arm: Arm, made: Sum, facts: Mapping[str, npt.NDArray[Any]], i: int) -> Part:
    """Return star i's coadd over what its detector has."""
    wavelength, flux, ivar, andmask, ormask, _ = made
    covered = arm.wavelength[_window(arm, int(facts["spid"][i]))]
    first, stop = np.searchsorted(wavelength, covered[[0, -1]])
    here = slice(int(first), int(stop))
    return Part(
        arm.name,
        0,
        wavelength[here],
        flux[i, here],
        ivar[i, here],
        andmask[i, here],
        ormask[i, here],
    )


def apstar_files(night: Night) -> MadeFiles:
    """Write APOGEE's apStar files: a star each; its rows in the block are its visits.

    A star that the block has once gets up to three visits of one velocity, and its row of the truth
    is the combined spectrum; else the rows of the truth are visits, the first one beside the
    combined spectrum.
    """
    n = len(night.facts["obsid"])
    rows = _rows_of_stars(night)
    again = np.concatenate([np.arange(len(r)) if r[0] == r[-1] else 0 * r for r in rows])
    visits = _at_rest(night.take(np.concatenate(rows)), again)
    observed = visits.observe(INSTRUMENTS["apogee"])["h"]
    spectra: dict[str, npt.NDArray[Any]] = {
        **{name: np.zeros(n, np.int64) for name in ("obsid", "row")},
        "file": np.empty(n, object),
        "snr": np.zeros(n),
        "z": night.facts["rv"] / C_KMS,
    }
    content: dict[int, tuple[str, bytes]] = {}
    stops = np.cumsum([len(mine) for mine in rows]).tolist()
    for mine, stop in zip(rows, stops, strict=True):
        here = slice(stop - len(mine), stop)
        nights = [_visit(visits, observed, k) for k in range(here.start, here.stop)]
        planes, stated = _apstar_rows(observed, here)
        star = _star(visits, here, nights, stated / night.conditions.overstated)
        path = apogee_files.star_path(star)
        content[int(mine[0])] = path, apogee_files.write_apstar(star, planes, nights)
        own = list(dict.fromkeys(mine.tolist()))
        spectra["file"][own] = path
        spectra["row"][own] = np.arange(len(own)) + 2 if len(own) > 1 else 0
        spectra["snr"][own] = [star["snr"], *(x["snr"] for x in nights[1 : len(own)])]
        spectra["obsid"][own] = [
            made_id("apStar", star["field"], star["apogee_id"]),
            *(
                made_id("apVisit", x["plate"], int(x["mjd"]), x["fiber"])
                for x in nights[1 : len(own)]
            ),
        ]
    spectra["file"] = spectra["file"].astype(np.str_)
    return MadeFiles([content[first] for first in sorted(content)], spectra)


def _rows_of_stars(night: Night) -> list[npt.NDArray[np.intp]]:
    """Return the rows of each star's visits; a row that is alone is repeated."""
    _, owner = np.unique(night.facts["star"], return_inverse=True)
    order = np.argsort(owner, kind="stable")
    rows = np.split(order, np.flatnonzero(np.diff(owner[order])) + 1)
    return [np.repeat(r, night.rng.integers(*VISITS)) if len(r) == 1 else r for r in rows]


def _at_rest(night: Night, again: npt.NDArray[np.int64]) -> Night:
    """Return visits as seen in the star's own frame, later ones some weeks later."""
    facts, rng = dict(night.facts), night.rng
    n = len(again)
    facts["mjd"] = facts["mjd"] + again * (29.0 + np.floor(10 * rng.random(n)))
    facts["helio_rv"] = barycentric_velocity(facts["ra"], facts["dec"], facts["mjd"])
    error = RV_ERROR * rng.normal(size=n)
    facts["vhelio"] = facts["rv"] + error
    sources = replace(night.sources, rv=-error)  # at rest but for the error of its velocity
    sky = facts["helio_rv"] - facts["vhelio"]
    return replace(
        night, facts=facts, sources=sources, conditions=replace(night.conditions, sky_velocity=sky)
    )


def _visit(night: Night, observed: Observed, k: int) -> dict[str, Any]:
    """Return what the header says of visit k."""
    facts = {name: night.facts[name][k].item() for name in ("plate", "mjd", "vhelio", "helio_rv")}
    fiber = int(night.facts["spid"][k]) % 2 * 150 + int(night.facts["fiberid"][k]) % 150 + 1
    return facts | {
        "plate": 5000 + facts["plate"],
        "fiber": fiber,
        "bc": facts["helio_rv"],
        "verr": RV_ERROR,
        "snr": float(observed.snr[k]),
    }


def _star(night: Night, visits: slice, nights: list[dict[str, Any]], snr: float) -> dict[str, Any]:
    """Return what the header says of a star over all of its visits."""
    first = slice(visits.start, visits.start + 1)
    light = (getattr(night.sources, name)[first] for name in ("teff", "g", "ebv"))
    h = 1e-17 * float(star_light(np.array([H_WAVELENGTH]), *light)[0, 0])
    star = night.row(visits.start)
    return star | {
        "apogee_id": _apogee_id(star["ra"], star["dec"]),
        "field": f"MOCK{star['plate']}-{night.block}",
        "snr": snr,
        "h": round(float(-2.5 * np.log10(h / H_ZERO)), 3),
        "vhelio": float(np.mean([x["vhelio"] for x in nights])),
        "verr": RV_ERROR / np.sqrt(len(nights)),
    }


_APOGEE_BITS = {
    Damage.DEAD: apogee_files.BADPIX | apogee_files.BADFLAT,
    Damage.COSMIC: apogee_files.CRPIX,
    Damage.SKY: apogee_files.SIG_SKYLINE,
    Damage.TELLURIC: apogee_files.SIG_TELLURIC,
}


def _apstar_rows(observed: Observed, rows: slice) -> tuple[Visits, float]:
    """Return one star's images, rows as in its file, and the combined spectrum's S/N."""
    n = rows.stop - rows.start
    looks = [_only(observed, k) for k in range(rows.start, rows.stop)]
    trusted = [trusted_ivar(one) for one in looks]
    on_chip = INSTRUMENTS["apogee"].arms[0].on_chip()
    pixel = _weighted(looks, trusted)
    mask = survey_mask(observed.damage[rows], _APOGEE_BITS).astype(np.int64) * on_chip
    combined = np.bitwise_or.reduce(mask, axis=0) & ~np.int64(apogee_files.CRPIX)
    means = [pixel, _weighted(looks, trusted, flat=True)] if n > 1 else [pixel]
    flux = np.concatenate([f for f, _ in means] + [observed.flux[rows]] * (n > 1))
    ivar = np.concatenate([w for _, w in means] + [observed.ivar[rows]] * (n > 1))
    error = np.divide(
        1, np.sqrt(ivar), out=np.full_like(ivar, apogee_files.UNKNOWN), where=ivar > 0
    )
    flux[:, ~on_chip] = error[:, ~on_chip] = 0
    flux[: len(means), ~on_chip] = error[: len(means), ~on_chip] = np.nan
    bits = np.concatenate([combined[None], 0 * combined[None], mask] if n > 1 else [mask])
    sky, air = observed.sky[rows] * on_chip, observed.transmission[rows] * on_chip
    empty = 0 * sky[:1]
    behind = [np.concatenate([x[:1], empty, x] if n > 1 else [x]) for x in (sky, air)]
    images = [flux, error, bits, behind[0], 0.1 * behind[0], behind[1], 0.005 * behind[1]]
    if n == 1:  # the row of a second combination is there, and empty
        images = [np.concatenate([x, 0 * np.nan_to_num(x)]) for x in images]
    planes = Visits(*images)
    return planes, float(median_snr(looks[0].truth, pixel[1])[0])


def _only(observed: Observed, k: int) -> Observed:
    """Return one row of a block, as a block."""
    return Observed(*(getattr(observed, name)[k : k + 1] for name in Observed.__dataclass_fields__))


def _apogee_id(ra: float, dec: float) -> str:
    """Return the 2MASS name of a place.

    Examples
    --------
    >>> _apogee_id(297.210723, 50.091099)
    '2M19485057+5005279'
    """
    name = designation(ra, dec).removeprefix("LAMOST J").replace(".", "")
    return f"2M{name}"
