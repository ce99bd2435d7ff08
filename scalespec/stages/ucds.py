"""UCDs of the catalog's columns: the words that VO tools know quantities by.

UCD1+ controlled vocabulary 1.5, IVOA Recommendation 2023 (https://www.ivoa.net/documents/UCD1+/).
"""

from collections.abc import Sequence

UCDS = {
    "row": "meta.record",
    "obsid": "meta.id;obs",
    "source_id": "meta.id;meta.main",
    "ra": "pos.eq.ra;meta.main",
    "dec": "pos.eq.dec;meta.main",
    "mjd": "time.epoch",
    "snr": "stat.snr",
    "snr_g": "stat.snr",
    "spectrum_status": "meta.code.status",
    "survey_rv": "spect.dopplerVeloc",
    "rv": "spect.dopplerVeloc",
    "rv_shift": "spect.dopplerVeloc",
    "rv_residual": "spect.dopplerVeloc",
    "rv_start": "spect.dopplerVeloc",
    "continuum_median": "phot.flux.density",
    "label_cov": "stat.covariance",
    "label_corr": "stat.correlation",
    "chi2": "stat.fit.chi2",
    "dof": "stat.fit.dof",
    "n_used": "meta.number",
    "n_steps": "meta.number",
    "at_bound": "meta.code",
    "prior_dominated": "meta.code",
    "fit_distance": "stat.fit",
    "training_distance": "stat.fit",
    "vsini": "phys.veloc.rotat",
    "lsf": "spect.line.width",
    "fit_status": "meta.code.status",
    "calibration_status": "meta.code.status",
    "model": "meta.id",
    "status": "meta.code.status",
    "rv_quality": "stat.fit.goodness",
    "file": "meta.id;meta.file",
    "designation": "meta.id",
    "class_": "src.class",
    "subclass": "src.spType",
    "release": "meta.version",
    "reason": "meta.note",
    "separation_arcsec": "pos.angDistance",
    "split": "meta.code",
    "teff": "phys.temperature.effective",
    "logg": "phys.gravity",
    "fe_h": "phys.abund.Fe",
    "m_h": "phys.abund.Z",
    "vmic": "phys.veloc.microTurb",
    "age": "time.age",
    "age_status": "meta.code.status",
    "binary_gain": "stat.fit.chi2",
    "binary_q": "phys.mass;arith.ratio",
    "binary_status": "meta.code.status",
    "m_k": "phys.magAbs;em.IR.K",
    "ebv": "phot.color.excess",
    "parallax": "pos.parallax.trig",
    "pmra": "pos.pm;pos.eq.ra",
    "pmdec": "pos.pm;pos.eq.dec",
    "anomaly": "stat.value",
    "rv_p_value": "stat.probability",
    "n_visit": "meta.number",
    "rv_scatter": "stat.stdev;spect.dopplerVeloc",
}
ENDS = {
    "_err": "stat.error;{}",
    "_aleatoric": "stat.error;{}",
    "_epistemic": "stat.error;{}",
    "_p16": "stat.value;{}",
    "_p84": "stat.value;{}",
    "_cal": "{}",
}
"""What a name's end makes of the UCD of what stands before it."""


def ucd(name: str, catalogs: Sequence[str] = ()) -> str:
    """Return the UCD of a catalog column; '' where no word fits.

    Examples
    --------
    >>> ucd("teff_err"), ucd("apogee_mg_fe", ["apogee"]), ucd("first_logg"), ucd("zeal")
    ('stat.error;phys.temperature.effective', 'phys.abund', 'phys.gravity', '')
    """
    for start in (*(f"{catalog}_" for catalog in catalogs), "first_"):
        if name.startswith(start):
            return _secondary(ucd(name.removeprefix(start)))
    if name in UCDS:
        return UCDS[name]
    for end, form in ENDS.items():
        base = ucd(name.removesuffix(end)) if name.endswith(end) else ""
        if base:
            return form.format(_secondary(base))
    element, _, base = name.partition("_")
    if base in ("fe", "h", "m") and element.isalpha() and len(element) <= len("alpha"):
        return "phys.abund"
    return ""


def _secondary(text: str) -> str:
    """Return a UCD without the word that says it is the main one of its kind."""
    return text.replace(";meta.main", "")
