"""What the catalog's columns are: units, descriptions, and what each status bit means."""

from collections.abc import Iterable, Sequence

from scalespec.kernels.calibration import CalibrationStatus
from scalespec.optimize.result import FitStatus
from scalespec.schema import MaskBit, SpectrumStatus

FIT_STATUS = {
    FitStatus.MAX_STEPS: "out of steps while a lower chi2 was still in sight",
    FitStatus.STALLED: "no step lowers chi2 though its gradient promises one",
    FitStatus.AT_BOUND: "a label ended on the edge of the model's range (see at_bound)",
    FitStatus.RV_AT_LIMIT: "the velocity ended on the edge of its search range",
    FitStatus.NONFINITE: "not a finite number in the spectrum, or in the model at the start",
    FitStatus.NO_PIXELS: "fewer usable pixels than parameters",
    FitStatus.LOW_SNR: "signal-to-noise below the run's limit",
    FitStatus.POOR_FIT: "chi2 per degree of freedom above the run's limit",
    FitStatus.OUT_OF_DOMAIN: "not the kind of star that the model knows",
    FitStatus.BAD_SPECTRUM: "the spectrum itself is unusable (see spectrum_status)",
    FitStatus.NOT_SELECTED: "the run did not ask for this star",
    FitStatus.PRIOR_DOMINATED: "the range or prior says as much of a label as the spectrum does",
    FitStatus.MULTIPLE_OPTIMA: "other labels, far from these, fit nearly as well",
    FitStatus.FEW_PIXELS: "a small part of the model's pixels has weight",
    FitStatus.WIDTH_AT_LIMIT: "vsini or the LSF's width ended on the edge of its range",
}
"""What each bit of ``fit_status`` and ``first_status`` says; 0 is a good fit."""

SPECTRUM_STATUS = {
    SpectrumStatus.MISSING: "no such file",
    SpectrumStatus.TRUNCATED: "the file is shorter than its header says",
    SpectrumStatus.CORRUPT: "gzip stream or checksum broken",
    SpectrumStatus.NOT_FITS: "not a FITS file at all",
    SpectrumStatus.BAD_LAYOUT: "FITS, but not a layout of this survey",
    SpectrumStatus.BAD_GRID: "wavelengths that cannot be put on the survey's grid",
    SpectrumStatus.NO_PIXELS: "not one pixel with information",
    SpectrumStatus.RESAMPLED: "off the survey's grid, rebinned onto it",
    SpectrumStatus.NO_REDSHIFT: "the file gives no velocity",
    SpectrumStatus.NO_POSITION: "no usable position",
    SpectrumStatus.CHANGED: "the file was changed after it was planned",
    SpectrumStatus.PADDING: "no spectrum was planned here",
    SpectrumStatus.NO_SIGNAL: "hardly any light in an arm: its exposures failed",
    SpectrumStatus.COARSE: "resolves less, here or there, than the run wants",
    SpectrumStatus.INEXACT_ID: "its Gaia id is a floating-point number, digits lost: unknown",
}
"""What each bit of ``spectrum_status`` says; 0 is a good spectrum."""

MASK_BITS = {
    MaskBit.OUTSIDE: "the spectrum does not reach here",
    MaskBit.NOT_FINITE: "flux or ivar is not a finite number in the file",
    MaskBit.NO_IVAR: "the file gives no weight",
    MaskBit.RESAMPLED_GAP: "lost when a file off the grid was rebinned",
    MaskBit.BAD_PIXEL: "survey: bad pixel of the detector",
    MaskBit.BAD_TRACE: "survey: bad extraction profile",
    MaskBit.NO_SKY: "survey: no sky information",
    MaskBit.BRIGHT_SKY: "survey: sky too bright",
    MaskBit.OFF_CCD: "survey: trace off the detector",
    MaskBit.NO_DATA: "survey: no good data",
    MaskBit.COSMIC_RAY: "survey: cosmic ray",
    MaskBit.SUSPECT: "survey: warned of, kept",
    MaskBit.POLICY: "a survey bit that the run calls bad",
    MaskBit.SKY_LINE: "window of a sky line",
    MaskBit.ARM_JOIN: "window where arms meet",
    MaskBit.TELLURIC: "window of telluric lines",
    MaskBit.EDGE: "moved in from the edge with the star's velocity",
    MaskBit.NO_CONTINUUM: "no positive continuum",
    MaskBit.SPIKE: "far above the continuum: cosmic ray or sky residual",
    MaskBit.COARSE: "resolves less than the run wants",
}
"""What each bit of ``mask`` says; bits 16-23 are 8-15 of any one exposure and cost nothing."""


def mask_bit(bit: int) -> tuple[str, str]:
    """Return name and meaning of a mask bit by its number.

    Examples
    --------
    >>> mask_bit(26)
    ('ARM_JOIN', 'window where arms meet')
    >>> mask_bit(16)
    ('or_BAD_PIXEL', 'survey: bad pixel of the detector, in some exposure; kept')
    """
    if 16 <= bit < 24:
        name, text = mask_bit(bit - 8)
        return f"or_{name}", f"{text}, in some exposure; kept"
    if 1 << bit not in MASK_BITS:
        return f"bit {bit}", "not known to us"
    flag = MaskBit(1 << bit)
    return str(flag.name), MASK_BITS[flag]


CALIBRATION_STATUS = {
    CalibrationStatus.BEYOND_TREND: "temperature beyond the trends: that of their end was taken",
    CalibrationStatus.NO_TREND: "a label has no correction for stars of this luminosity class",
}
"""What each bit of ``calibration_status`` says; 0 is good."""

AGE_STATUS = {
    "1 NOT_SUBGIANT": "not between turn-off and giant branch: none was asked for",
    "2 UNKNOWN_LABEL": "a label, magnitude or parallax is unknown or not to be trusted",
    "4 NO_MODEL": "no model star is near",
    "8 POOR_MATCH": "the nearest model star is far: the age means little",
}
"""What each bit of ``age_status`` says."""

BINARY_STATUS = {
    "1 NOT_ASKED": "no fit of two stars was asked for",
    "2 NO_FIT": "the fit of one star or of two failed",
    "4 TWO_STARS": "two stars: they lower chi2 by more than chance does",
    "8 DOUBTFUL": "two stars, but their fit has a flag: q means little",
}
"""What each bit of ``binary_status`` says; 0: one star is enough."""

COLUMNS = {
    # name: (unit, description)
    "row": ("", "row in the run's spectra store"),
    "obsid": ("", "the survey's number of this observed spectrum"),
    "source_id": ("", "Gaia source; -1: not known"),
    "ra": ("deg", "right ascension, ICRS"),
    "dec": ("deg", "declination, ICRS"),
    "mjd": ("d", "modified Julian date of the observation"),
    "snr": ("", "median signal-to-noise per pixel"),
    "snr_g": ("", "signal-to-noise in g as the survey gives it"),
    "spectrum_status": ("", "bits: what is wrong with the spectrum; 0 is good"),
    "survey_rv": ("km/s", "barycentric radial velocity by the survey"),
    "survey_rv_err": ("km/s", "1 sigma of survey_rv"),
    "rv_shift": ("km/s", "velocity taken out by whole pixels before the fit"),
    "continuum_median": ("", "median continuum, in the survey's unit of flux"),
    "label_cov": ("", "covariance of the labels: upper triangle, row by row"),
    "label_corr": ("", "correlation of the labels over 32767: upper triangle without diagonal"),
    "binary_gain": ("", "chi2 of the fit of one star less that of two, as of white noise"),
    "binary_q": ("", "mass ratio M2 / M1 of the fit of two stars; see binary_status"),
    "binary_status": ("", "bits: whether it is two stars; 0: one is enough"),
    "calibration_status": ("", "bits: why calibrated labels may be no better; 0 is good"),
    "n_visit": ("", "spectra of this star with a good fit, this one among them"),
    "rv_scatter": ("km/s", "standard deviation of the star's velocities"),
    "rv_p_value": ("", "chance that a star of constant velocity scatters as much"),
    "ebv": ("mag", "E(B-V) by color and temperature"),
    "out_of_domain": ("", "how far from the spectra that the regressor has learned from"),
    "anomaly": ("", "robust sigmas by which the residual of the fit is unusual"),
    "age": ("Gyr", "median of the age's posterior, by isochrones"),
    "age_err": ("Gyr", "standard deviation of the age's posterior"),
    "age_p16": ("Gyr", "16th percentile of the age's posterior"),
    "age_p84": ("Gyr", "84th percentile of the age's posterior"),
    "m_k": ("mag", "absolute magnitude in K_s, extinction taken off"),
    "age_status": ("", "bits: why there is no age, or a doubtful one; 0 is good"),
    "rv": ("km/s", "barycentric radial velocity, fitted"),
    "rv_err": ("km/s", "1 sigma of rv"),
    "rv_residual": ("km/s", "fitted velocity relative to rv_shift"),
    "chi2": ("", "chi2 of the best fit, the emulator's scatter in the weights"),
    "dof": ("", "degrees of freedom: pixels used less parameters that could move"),
    "n_used": ("", "pixels with weight in the fit"),
    "n_steps": ("", "optimizer steps"),
    "at_bound": ("", "bit i: label i ended on the edge of the model's range"),
    "prior_dominated": ("", "bit i: range or prior say as much of label i as the spectrum"),
    "fit_distance": ("", "sigmas of chi2 that the model's range costs"),
    "training_distance": ("", "from the labels learned from; 1: as far as the farthest of them"),
    "vsini": ("km/s", "projected rotational velocity"),
    "vsini_err": ("km/s", "1 sigma of vsini"),
    "lsf": ("km/s", "Gaussian sigma by which the spectrum is blurrier than the model"),
    "lsf_err": ("km/s", "1 sigma of lsf"),
    "fit_status": ("", "bits: why labels are missing or doubtful; 0 is good"),
    "model": ("", "number of the model fitted, in the run's list; -1: none"),
    "first_model": ("", "number of the model of the first estimate; -1: none"),
    "first_rv": ("km/s", "first barycentric velocity, by cross-correlation"),
    "first_rv_err": ("km/s", "1 sigma of first_rv"),
    "rv_start": ("km/s", "first velocity relative to rv_shift"),
    "first_chi2": ("", "chi2 at the first estimate"),
    "rv_quality": ("", "height of the cross-correlation's peak over its noise"),
    "first_status": ("", "bits of fit_status, as they stood before the fit"),
    "file": ("", "file the spectrum was read from"),
    "designation": ("", "the survey's name of the source"),
    "class_": ("", "the survey's class"),
    "subclass": ("", "the survey's subclass"),
    "release": ("", "data release"),
    "reason": ("", "why there is no spectrum, in words"),
    "separation_arcsec": ("arcsec", "distance on the sky, at the epoch of observation"),
    "split": ("", "0 train, 1 validation, 2 test; -1: not matched"),
}
ERRORS = {
    "_err": "1 sigma of {}",
    "_aleatoric": "1 sigma of {} by noise, as the regressor has learned it",
    "_epistemic": "1 sigma of {} by what the regressor has not learned",
}
"""What the end of an error's name says."""
LABELS = {
    "teff": ("K", "effective temperature"),
    "logg": ("dex", "log10 of surface gravity in cm/s2"),
    "m_h": ("dex", "overall metallicity [M/H]"),
    "vmic": ("km/s", "microturbulence"),
    "vsini": ("km/s", "projected rotation"),
}
"""Units and descriptions of labels by name; abundances are described by the form of their name."""

NOTES = {
    "fit_status": {f"{bit.value} {bit.name}": text for bit, text in FIT_STATUS.items()},
    "spectrum_status": {f"{bit.value} {bit.name}": text for bit, text in SPECTRUM_STATUS.items()},
    "calibration_status": {f"{b.value} {b.name}": text for b, text in CALIBRATION_STATUS.items()},
    "age_status": AGE_STATUS,
    "binary_status": BINARY_STATUS,
}
"""Meanings of coded columns, as manifest and FITS header keep them."""


def describe(name: str, catalogs: Sequence[str] = ()) -> tuple[str, str]:
    """Return unit and description of a catalog column.

    Examples
    --------
    >>> describe("mg_fe_err")
    ('dex', '1 sigma of mg_fe')
    >>> describe("apogee_teff", ["apogee"])
    ('K', 'effective temperature, by apogee')
    """
    for catalog in catalogs:
        if name.startswith(f"{catalog}_"):
            unit, text = describe(name.removeprefix(f"{catalog}_"))
            return unit, f"{text}, by {catalog}"
    if name in COLUMNS:
        return COLUMNS[name]
    if name.endswith("_cal"):
        unit, text = describe(name.removesuffix("_cal"))
        return unit, f"{text}, calibrated"
    for end, text in ERRORS.items():
        if name.endswith(end):
            label = name.removesuffix(end)
            return describe(label)[0], text.format(label)
    if name.startswith("first_"):
        unit, text = describe(name.removeprefix("first_"))
        return unit, f"first estimate: {text}"
    return label_facts(name)


def label_facts(name: str) -> tuple[str, str]:
    """Return unit and description of a label; an unknown one has no unit and describes itself.

    Examples
    --------
    >>> label_facts("mg_fe")
    ('dex', 'abundance ratio [Mg/Fe]')
    """
    if name in LABELS:
        return LABELS[name]
    element, _, base = name.partition("_")
    if base in ("fe", "h", "m") and element.isalpha() and len(element) <= len("alpha"):
        return "dex", f"abundance ratio [{element.capitalize()}/{base.capitalize()}]"
    return "", name


def label_names(names: Iterable[str]) -> list[str]:
    """Return the labels among the column names of a fit: each has its error beside it.

    Examples
    --------
    >>> label_names(["row", "teff", "teff_err", "rv", "rv_err", "survey_rv", "survey_rv_err"])
    ['teff']
    """
    there = list(names)
    velocities = ("rv", "survey_rv", "first_rv")
    return [name for name in there if f"{name}_err" in there and name not in velocities]


def measured_labels(names: Iterable[str]) -> list[str]:
    """Return the labels that a run measured, among the columns of its catalog.

    A fit has a first estimate beside its label, a regressor the kinds of its error.

    Examples
    --------
    >>> fit = ["teff", "teff_err", "first_teff", "vsini", "vsini_err"]
    >>> measured_labels([*fit, "gaia_teff", "gaia_teff_err"])
    ['teff']
    >>> measured_labels(["teff", "teff_err", "teff_aleatoric", "teff_epistemic"])
    ['teff']
    """
    there = list(names)
    beside = [*(n.removeprefix("first_") for n in there if n.startswith("first_"))]
    beside += [n.removesuffix("_aleatoric") for n in there if n.endswith("_aleatoric")]
    return [name for name in label_names(there) if name in beside]


def label_title(name: str) -> str:
    """Return a label's name as it is printed.

    Examples
    --------
    >>> label_title("teff"), label_title("mg_fe"), label_title("age")
    ('Teff', '[Mg/Fe]', 'age')
    """
    plain = {"teff": "Teff", "logg": "log g", "m_h": "[M/H]", "vmic": "vmic", "rv": "RV"}
    _, bracket, inner = label_facts(name)[1].partition("[")
    return plain.get(name) or (bracket + inner if bracket else name)
