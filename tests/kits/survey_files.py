"""Small files of every survey, in the survey's own format, made with astropy alone.

Each function returns a file's bytes; what is in it, tests find out by astropy or by the numbers
given. Nothing here imports scalespec: the files must not agree with the readers by construction.
"""

import gzip
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits

BANDS = {"GU": (2550.0, 190), "GV": (4000.0, 176), "GI": (6200.0, 192)}
CSST_STEP = 1 / (400 * np.log(10))
DESI = {"B": (3600.0, 2751), "R": (5760.0, 2326), "Z": (7520.0, 2881)}
XP_WAVELENGTH = 336 + 2 * np.arange(343)  # nm


def to_bytes(*hdus) -> bytes:
    file = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(file)
    return file.getvalue()


def _noisy(rng, shape, level=100.0):
    """Flux, ivar float32 with some pixels of ivar 0."""
    flux = rng.normal(level, level / 50, shape).astype(np.float32)
    ivar = np.where(rng.random(shape) < 0.03, 0, rng.uniform(0.1, 0.4, shape))
    return flux, ivar.astype(np.float32)


def _table(columns, name="", vectors=False):
    """A table of a row per pixel, or of one row of vectors."""
    letters = {"f4": "E", "f8": "D", "i2": "I", "i4": "J", "i8": "K"}
    made = []
    for key, values in columns.items():
        letter = letters[values.dtype.str[1:]]
        form, array = (f"{len(values)}{letter}", values[None]) if vectors else (letter, values)
        made.append(fits.Column(key, form, array=array))
    return fits.BinTableHDU.from_columns(made, name=name)


LRS_CARDS = {
    "OBSID": 101001,
    "RA": 332.202274,
    "DEC": -2.056767,
    "DATE-OBS": "2011-10-24T12:30:00",
    "MJD": 55858,
    "LMJD": 55859,
    "PLANID": "F5902",
    "SPID": 1,
    "FIBERID": 13,
    "DESIG": "LAMOST J220848.54-020324.3",
    "DATA_V": "LAMOST DR7",
    "VACUUM": True,
    "HELIO": True,
}


def lrs(seed=0, **cards):
    """One LAMOST LRS image."""
    rng = np.random.default_rng(seed)
    wavelength = 10 ** (3.5682 + 1e-4 * np.arange(3909))
    rows = np.array([*_noisy(rng, 3909), wavelength, 0 * wavelength, 0 * wavelength], np.float32)
    header = {**LRS_CARDS, "Z": 1e-4, "CLASS": "STAR", "COEFF0": 3.5682, "COEFF1": 1e-4, **cards}
    return to_bytes(fits.PrimaryHDU(rows, fits.Header(header)))


def mrs(
    seed=0, *, era="loglam", starts=(369000, 379900), n=(4100, 3800), minutes=2, failed=(), **cards
):
    """One LAMOST MRS file: coadds from 1e-5 times `starts`, and exposures of 4136 pixels."""
    rng = np.random.default_rng(seed)
    header = fits.Header({**LRS_CARDS, "OBSID": 681001015 + seed, **cards})
    hdus = [fits.PrimaryHDU(header=header)]
    hdus[0].name = "Information"

    def arm(name, loglam, masks, signal=True):
        flux, ivar = _noisy(rng, len(loglam), 100.0 if signal else 0.0)
        if not signal:
            flux = rng.normal(0, 1, len(loglam)).astype(np.float32)
        columns = {"FLUX": flux, "IVAR": ivar}
        if era == "loglam":
            columns["LOGLAM"] = loglam.astype(np.float32)
        else:
            columns["WAVELENGTH"] = (10**loglam).astype(np.float32)
        for mask in masks:
            columns[mask] = (rng.random(len(loglam)) < 0.01).astype(np.int16)
        return _table(columns, name, vectors=era != "loglam")

    for letter, start, pixels in zip("BR", starts, n, strict=True):
        if pixels:
            hdus.append(
                arm(
                    f"COADD_{letter}",
                    (start + np.arange(pixels)) * 1e-5,
                    ("ANDMASK", "ORMASK"),
                    letter not in failed,
                )
            )
    for letter, first, last in (("B", 3.68965, 3.73035), ("R", 3.83544, 3.79882)):
        for i in range(minutes):
            grid = np.linspace(first, last, 4136) + 1e-6 * i
            one = arm(f"{letter}-{84107311 + 24 * i}", grid, ("PIXMASK",), letter not in failed)
            one.header["LMJM"] = str(84107311 + 24 * i)
            one.header["EXPTIME"] = 1200
            hdus.append(one)
    return to_bytes(*hdus)


def apstar(seed=0, *, n_visits=3, dtype=np.float64, single_row=False, **cards):
    """One apStar: combined twice, then the visits; NaN where no chip looks."""
    rng = np.random.default_rng(seed)
    rows = 1 if single_row else 2 + n_visits if n_visits > 1 else 2
    flux = rng.normal(500, 10, (rows, 8575)).astype(dtype)
    error = rng.uniform(4, 9, (rows, 8575)).astype(dtype)
    flux[:2, :200], error[:2, :200] = np.nan, np.nan
    error[:, 4000] = 1e10
    error[:, 4001] = 0
    mask = np.zeros((rows, 8575), np.int64)
    mask[:, 500:510] = 2 ** np.arange(10)
    mask[:, 510], mask[:, 511], mask[:, 512] = 2**12, 2**13, 2**14
    header = {"OBJID": "2M17335483-2753043", "FIELD": "000+02", "RA": 263.478474, "DEC": -27.884539}
    header |= {"NVISITS": n_visits, "VHELIO": 15.68, "VERR": 0.028}
    for i in range(1, n_visits + 1):
        header |= {f"SFILE{i}": f"apVisit-dr17-5815-{56396 + i}-{200 + i}.fits"}
        header |= {f"JD{i}": 2456396.992 + i, f"VHELIO{i}": 15.0 + i, f"VERR{i}": 0.03}
    images = [fits.ImageHDU(x if rows > 1 else x[0]) for x in (flux, error, mask)]
    for image in images:
        image.header.update({"CRVAL1": 4.179, "CDELT1": 6e-6, "CTYPE1": "LOG-LINEAR"})
    return to_bytes(fits.PrimaryHDU(header=fits.Header({**header, **cards})), *images)


def aspcap(seed=0, **cards):
    """One aspcapStar: pseudo-normalized flux, its error, and the best model."""
    rng = np.random.default_rng(seed)
    error = rng.uniform(0.004, 0.009, 8575).astype(np.float32)
    error[:100] = 1e10
    images = [
        fits.ImageHDU(x.astype(np.float32))
        for x in (rng.normal(1, 0.01, 8575), error, np.ones(8575))
    ]
    for image in images:
        image.header.update({"CRVAL1": 4.179, "CDELT1": 6e-6})
    header = {"OBJID": "2M17335483-2753043", "FIELD": "000+02", "RA": 263.4, "DEC": -27.8}
    return to_bytes(fits.PrimaryHDU(header=fits.Header({**header, **cards})), *images)


def apvisit(seed=0, **cards):
    """One apVisit: red, green and blue chip, wavelengths running downwards, topocentric."""
    rng = np.random.default_rng(seed)
    wavelength = np.array(
        [np.linspace(a, b, 4096) for a, b in ((16955, 16472), (16435, 15857), (15810, 15142))]
    )
    flux = rng.normal(250, 5, (3, 4096)).astype(np.float32)
    error = rng.uniform(4, 9, (3, 4096)).astype(np.float32)
    error[:, :3] = 6.4e10
    mask = np.zeros((3, 4096), np.int16)
    mask[:, :3] = 129
    lsf = np.zeros((3, 26))
    lsf[:, :9] = 2, 2048, 5, 1, 1, 1, 1, 1, 0
    lsf[:, 9] = 3.1, 2.4, 2.2
    header = {"OBJID": "2M01183798+8403419", "PLATE": "5095", "MJD5": 55844, "FIBERID": 128}
    header |= {"RA": 19.658251, "DEC": 84.061646, "JD-MID": 2455844.76737, "BC": 11.2977627448}
    header |= {"VHELIO": -33.1228, "VRADERR": 0.18}
    hdus = [fits.PrimaryHDU(header=fits.Header({**header, **cards}))]
    hdus += [fits.ImageHDU(x) for x in (flux, error, mask, wavelength)]
    hdus += [fits.ImageHDU(np.zeros((3, 8), np.float32)) for _ in range(4)]
    hdus += [fits.ImageHDU(np.zeros((3, 14))), fits.ImageHDU(lsf)]
    return to_bytes(*hdus)


def desi(seed=0, *, n=4, arms="BRZ", compressed=False, sigma=1.2):
    """One DESI coadd of `n` targets, the second a star of Gaia DR2, the last on no target."""
    rng = np.random.default_rng(seed)
    ids = 39627640000000000 + 1000 * seed + np.arange(n)
    ids[-1] = -5
    columns = [
        fits.Column("TARGETID", "K", array=ids),
        fits.Column("TARGET_RA", "D", array=150.0 + 0.1 * np.arange(n)),
        fits.Column("TARGET_DEC", "D", array=2.0 + 0.1 * np.arange(n)),
        fits.Column("OBJTYPE", "3A", array=["TGT"] * n),
        fits.Column("REF_ID", "K", array=3600000000000000000 + np.arange(n)),
        fits.Column("REF_CAT", "2A", array=["G3" if i != 1 else "G2" for i in range(n)]),
    ]
    exposures = [
        fits.Column("TARGETID", "K", array=np.repeat(ids, 2)),
        fits.Column("MJD", "D", array=59000.0 + np.arange(2 * n)),
    ]
    hdus = [fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns, name="FIBERMAP")]
    hdus.append(fits.BinTableHDU.from_columns(exposures, name="EXP_FIBERMAP"))
    offset = np.arange(11) - 5
    kernel = np.exp(-(offset**2) / 2 / sigma**2)
    for arm in arms:
        start, pixels = DESI[arm]
        flux, ivar = _noisy(rng, (n, pixels))
        mask = np.zeros((n, pixels), np.int32)
        mask[0, :13] = 2 ** np.arange(13)
        resolution = np.broadcast_to((kernel / kernel.sum())[None, :, None], (n, 11, pixels))
        hdus.append(fits.ImageHDU(start + 0.8 * np.arange(pixels), name=f"{arm}_WAVELENGTH"))
        hdus.append(fits.ImageHDU(flux, name=f"{arm}_FLUX"))
        hdus.append(fits.ImageHDU(ivar, name=f"{arm}_IVAR"))
        image = fits.CompImageHDU if compressed else fits.ImageHDU
        hdus.append(image(mask, name=f"{arm}_MASK"))
        hdus.append(fits.ImageHDU(resolution.astype(np.float32), name=f"{arm}_RESOLUTION"))
    return to_bytes(*hdus)


def sdss(seed=0, *, start=35800, n=3850, about="SPECOBJ", **cards):
    """One spec- file whose pixels begin at 1e-4 times `start`."""
    rng = np.random.default_rng(seed)
    flux, ivar = _noisy(rng, n, 30.0)
    and_mask = np.zeros(n, np.int32)
    and_mask[:29] = 2 ** np.arange(29)
    columns = {
        "flux": flux,
        "loglam": ((start + np.arange(n)) * 1e-4).astype(np.float32),
        "ivar": ivar,
        "and_mask": and_mask,
        "or_mask": and_mask[::-1].copy(),
        "wdisp": np.full(n, 1.1, np.float32),
    }
    header = {
        "PLATEID": 266,
        "MJD": 51630,
        "FIBERID": 5 + seed,
        "RUN2D": "26",
        "TAI": 51629.5 * 86400,
    }
    header |= {"PLUG_RA": 146.7, "PLUG_DEC": -1.04}
    facts = fits.BinTableHDU.from_columns(
        [
            fits.Column("PLUG_RA", "D", array=[146.714]),
            fits.Column("PLUG_DEC", "D", array=[-1.0413]),
            fits.Column("CLASS", "6A", array=["STAR"]),
            fits.Column("SUBCLASS", "21A", array=["F5 (30743)"]),
            fits.Column("Z", "E", array=[2e-4]),
            fits.Column("Z_ERR", "E", array=[1e-5]),
        ],
        name=about,
    )
    header = fits.Header({**header, **cards})
    return to_bytes(fits.PrimaryHDU(header=header), _table(columns, "COADD"), facts)


def xp_arrays(seed=0, n=5):
    """Fluxes [W/m2/nm] and errors of `n` sources, and their ids."""
    rng = np.random.default_rng(seed)
    flux = 1e-16 * rng.uniform(0.5, 2, (n, 343))
    return flux, flux / 100, 3425774600000000000 + 1000 * seed + np.arange(n)


def xp(seed=0, n=5, *, normalized=False):
    """A FITS table of sampled mean spectra, as the archive has them or divided by their medians."""
    flux, error, ids = xp_arrays(seed, n)
    middle = np.median(flux, axis=1)
    if normalized:
        flux, error = flux / middle[:, None], error / middle[:, None]
    columns = [
        fits.Column("source_id", "K", array=ids),
        fits.Column("ra", "D", array=10.0 + np.arange(n)),
        fits.Column("dec", "D", array=-5.0 + np.arange(n)),
        fits.Column("flux", "343E", array=flux, dim="(343)"),
        fits.Column("flux_error", "343E", array=error, dim="(343)"),
    ]
    if normalized:
        columns.append(fits.Column("medflux", "E", array=middle))
    return to_bytes(fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns))


def xp_csv(seed=0, n=5):
    """The archive's gzipped ECSV of the same sources."""
    flux, error, ids = xp_arrays(seed, n)
    lines = ["# %ECSV 1.0", "# ---", "source_id,solution_id,ra,dec,flux,flux_error"]
    for i in range(n):
        vectors = ('"[' + ",".join(f"{v:.17e}" for v in row[i]) + ']"' for row in (flux, error))
        lines.append(f"{ids[i]},1,{10.0 + i},{-5.0 + i}," + ",".join(vectors))
    return gzip.compress("\n".join(lines).encode(), 1)


def csst(seed=0, n=3, *, bands=("GU", "GV", "GI")):
    """A file of the layout that surveys/csst.py documents."""
    rng = np.random.default_rng(seed)
    columns = [
        fits.Column("OBSID", "K", array=7000 + 100 * seed + np.arange(n)),
        fits.Column(
            "SOURCE_ID", "K", array=np.where(np.arange(n) == 1, -1, 123456789 + np.arange(n))
        ),
        fits.Column("RA", "D", array=200.0 + np.arange(n)),
        fits.Column("DEC", "D", array=30.0 + np.arange(n)),
        fits.Column("MJD", "D", array=61000.5 + np.arange(n)),
        fits.Column("Z", "E", array=np.where(np.arange(n) == 0, -9999, 1e-4)),
        fits.Column("Z_ERR", "E", array=np.full(n, 1e-4)),
    ]
    tables = []
    for band in bands:
        first, pixels = BANDS[band]
        wavelength = 10 ** (np.log10(first) + CSST_STEP * np.arange(pixels))
        flux, ivar = _noisy(rng, (n, pixels))
        mask = np.zeros((n, pixels), np.int32)
        mask[:, :4] = 1, 2, 4, 8
        columns += [
            fits.Column(f"{band}_FLUX", f"{pixels}E", array=flux),
            fits.Column(f"{band}_IVAR", f"{pixels}E", array=ivar),
            fits.Column(f"{band}_MASK", f"{pixels}J", array=mask),
        ]
        column = fits.Column("WAVELENGTH", "D", array=wavelength)
        tables.append(fits.BinTableHDU.from_columns([column], name=f"{band}_WAVELENGTH"))
    spectra = fits.BinTableHDU.from_columns(columns, name="SPECTRA")
    return to_bytes(fits.PrimaryHDU(header=fits.Header({"TELESCOP": "CSST"})), spectra, *tables)


DESCRIPTION = {
    "name": "library",
    "medium": "air",
    "frame": "rest",
    "flux_unit": "relative",
    "wavelength": {"start": 4000.0, "step": 0.5, "n": 600},
    "resolution": {"fwhm_angstrom": 2.5},
    "flux": "flux",
    "error": "error",
    "columns": {"obsid": "id", "designation": "star"},
}


def table_arrays(seed=0, n=4):
    rng = np.random.default_rng(seed)
    flux = rng.normal(1, 0.01, (n, 600))
    return {
        "flux": flux,
        "error": np.full((n, 600), 0.01),
        "id": 10 * seed + np.arange(1, n + 1),
        "star": np.array([f"HD {i}" for i in range(n)]),
    }


def table_npz(seed=0, n=4):
    file = io.BytesIO()
    np.savez_compressed(file, **table_arrays(seed, n))
    return file.getvalue()


def table_parquet(seed=0, n=4):
    arrays = table_arrays(seed, n)
    file = io.BytesIO()
    columns = {k: pa.array(v.tolist() if v.ndim == 2 else v) for k, v in arrays.items()}
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def table_fits(seed=0, n=4):
    arrays = table_arrays(seed, n)
    columns = [
        fits.Column("flux", "600D", array=arrays["flux"]),
        fits.Column("error", "600D", array=arrays["error"]),
        fits.Column("id", "K", array=arrays["id"]),
        fits.Column("star", "8A", array=arrays["star"]),
    ]
    return to_bytes(fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns))


SURVEY_FILES = {
    "lamost_lrs": (lrs, "spec-55859-F5902_sp01-{:03d}.fits"),
    "lamost_mrs": (mrs, "med-58408-TD_sp01-{:03d}.fits"),
    "lamost_mrs_exposures": (mrs, "med-58408-TD_sp01-{:03d}.fits"),
    "apogee": (apstar, "apStar-dr17-2M{:03d}.fits"),
    "apogee_aspcap": (aspcap, "aspcapStar-dr17-2M{:03d}.fits"),
    "apogee_visits": (apstar, "apStar-dr17-2M{:03d}.fits"),
    "apogee_chips": (apvisit, "apVisit-r13-5095-55844-{:03d}.fits"),
    "desi": (desi, "coadd-main-dark-{:03d}.fits"),
    "sdss": (sdss, "spec-0266-51630-{:04d}.fits"),
    "gaia_xp": (xp, "xp-{:03d}.fits"),
    "csst": (csst, "csst-{:03d}.fits"),
    "table": (table_fits, "library-{:03d}.fits"),
}
"""A maker of files and their names, by survey."""


def description_of(survey):
    """What `open_survey` wants beside a name."""
    return DESCRIPTION if survey == "table" else None


def write_files(folder, survey, n, *, seed=0):
    """Write `n` files of a survey, and its description if it has one; return their names."""
    make, name = SURVEY_FILES[survey]
    names = []
    for i in range(n):
        (folder / name.format(i)).write_bytes(make(seed + i))
        names.append(name.format(i))
    if survey == "table":
        (folder.parent / "library.json").write_text(json.dumps(DESCRIPTION))
    return names
