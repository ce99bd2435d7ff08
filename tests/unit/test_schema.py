"""What a spectra Dataset has to have, and what is said where it has not."""

import numpy as np
import pytest
import xarray as xr

from scalespec.errors import SchemaError
from scalespec.schema import (
    PER_SPECTRUM,
    REQUIRED_ATTRS,
    UNREADABLE,
    MaskBit,
    SpectrumStatus,
    check_spectra,
    status_names,
)
from scalespec.stages.columns import SPECTRUM_STATUS

ATTRS = dict.fromkeys(REQUIRED_ATTRS, "x") | {"wavelength_medium": "vacuum"}


def _spectra(dim="wavelength", n=2, n_pixel=3):
    pixels = {"flux": np.float32, "ivar": np.float32, "mask": np.uint32}
    if dim == "pixel":
        pixels["wavelength"] = np.float64
    variables = {k: (("spectrum", dim), np.zeros((n, n_pixel), t)) for k, t in pixels.items()}
    for name, (dtype, _, _) in PER_SPECTRUM.items():
        variables[name] = ("spectrum", np.zeros(n, dtype))
    coords = {"wavelength": np.arange(4000.0, 4003.0)} if dim == "wavelength" else {}
    return xr.Dataset(variables, coords, ATTRS)


@pytest.mark.parametrize("dim", ["wavelength", "pixel"])
def test_one_grid_and_own_grids_are_both_in_the_schema(dim):
    spectra = _spectra(dim)
    assert check_spectra(spectra) is spectra


def test_root_of_a_survey_with_arms_has_no_pixels():
    root = _spectra().drop_vars(["flux", "ivar", "mask", "wavelength"])
    with pytest.raises(SchemaError, match="no variable 'flux'"):
        check_spectra(root)
    check_spectra(root.assign_attrs(arms=["b", "r"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.drop_vars("ivar"), "no variable 'ivar'"),
        (lambda s: s.assign(flux=s.flux.astype("f8")), "'flux' is float64.*wanted float32"),
        (lambda s: s.drop_vars("obsid"), "no per-spectrum variable 'obsid' of int64"),
        (lambda s: s.assign_attrs(wavelength_medium="air"), "'air', wanted 'vacuum'"),
    ],
)
def test_what_is_wrong_is_said(change, message):
    with pytest.raises(SchemaError, match=message):
        check_spectra(change(_spectra()))


@pytest.mark.parametrize("name", REQUIRED_ATTRS)
def test_medium_frame_unit_and_resolution_are_mandatory(name):
    spectra = _spectra()
    del spectra.attrs[name]
    with pytest.raises(SchemaError, match=rf"no attrs\['{name}'\]"):
        check_spectra(spectra)


def test_own_grids_want_their_wavelengths():
    with pytest.raises(SchemaError, match="no variable 'wavelength'"):
        check_spectra(_spectra("pixel").drop_vars("wavelength"))


def test_every_problem_is_in_one_message():
    spectra = _spectra().drop_vars(["flux", "ra"])
    with pytest.raises(SchemaError, match=r"'flux'.*'ra'"):
        check_spectra(spectra)


def test_bits_are_distinct_and_every_status_is_explained():
    for flags in (MaskBit, SpectrumStatus):
        assert len({flag.value for flag in flags}) == len(list(flags))
        assert all(flag.value.bit_count() == 1 for flag in flags)
    assert set(SPECTRUM_STATUS) == set(SpectrumStatus)


def test_a_row_that_is_only_warned_of_still_holds_a_spectrum():
    warned = (SpectrumStatus.RESAMPLED, SpectrumStatus.CHANGED, SpectrumStatus.NO_SIGNAL)
    assert not any(status & UNREADABLE for status in warned)


def test_counts_by_status_name():
    status = np.array([0, 0, 1, SpectrumStatus.CORRUPT | SpectrumStatus.NO_SIGNAL], np.uint32)
    counts = {"OK": 2, "MISSING": 1, "CORRUPT": 1, "NO_SIGNAL": 1}
    assert status_names(status, SpectrumStatus) == counts
