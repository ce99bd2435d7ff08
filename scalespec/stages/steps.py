"""The chain of preprocessing: each step takes spectra and gives spectra, made once per worker.

Spectra are xarray Datasets by name: "" for one grid, the survey's arms until "regrid" joins them.
A step's maker is given spectra without rows, from which it knows grids and attributes, and builds
operators; what it returns is pure.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
import xarray as xr

from scalespec.config import PreprocessTable, StepName
from scalespec.kernels import mask as masks
from scalespec.kernels.resample import shift_pixels
from scalespec.kernels.rv import cross_correlate
from scalespec.kernels.wavelength import pixels_to_velocity, velocity_to_pixels
from scalespec.schema import MaskBit, SpectrumStatus
from scalespec.stages.features import features_step
from scalespec.stages.normalizers import Normalizer, normalizer
from scalespec.stages.regrid import (
    PIXELS,
    Spectra,
    Step,
    correlation_of,
    regrid_step,
    simulate_step,
)
from scalespec.stages.templates import load_templates

FloatArray = npt.NDArray[np.float32]
MaskArray = npt.NDArray[np.uint32]
Wavelength = npt.NDArray[np.float64]


def make_step(name: StepName, head: Spectra, table: PreprocessTable, seed: int) -> Step:
    """Build one step for spectra like `head`.

    Raises
    ------
    ValueError
        If the step has no meaning for these spectra; the message says what would help.
    """
    if name == "mask":
        return mask_step(head, table)
    if name == "regrid":
        return regrid_step(head, table)
    only = single(head, name)
    one: Callable[[xr.Dataset], xr.Dataset]
    if name == "velocity":
        one = velocity_step(only, table)
    elif name == "rest":
        one = rest_step(only)
    elif name == "cut":
        one = cut_step(only, table)
    elif name == "simulate":
        one = simulate_step(only, table, seed)
    elif name == "features":
        one = features_step(only, table)
    else:
        one = normalize_step(only, table)
    return partial(_alone, step=one, name=name)


def _alone(spectra: Spectra, step: Callable[[xr.Dataset], xr.Dataset], name: str) -> Spectra:
    return {"": step(single(spectra, name))}


def single(spectra: Spectra, name: str) -> xr.Dataset:
    """Return the only grid of `spectra`.

    Raises
    ------
    ValueError
        If they come in arms, or each has its own wavelengths.
    """
    arms = [arm for arm in spectra if arm]
    if arms or "wavelength" not in spectra[""].dims:
        what = f"arms {', '.join(arms)}" if arms else "a grid of its own for each spectrum"
        raise ValueError(
            f"preprocess step '{name}' wants one grid, the data have {what}: "
            "put step 'regrid' and a [preprocess.grid] table before it"
        )
    return spectra[""]


def at_rest(spectra: xr.Dataset) -> bool:
    """Whether the survey has taken the velocity out."""
    return str(spectra.attrs.get("frame", "")).startswith("rest")


def with_pixels(
    spectra: xr.Dataset, flux: FloatArray, ivar: FloatArray, mask: MaskArray
) -> xr.Dataset:
    """Return the spectra with other values on the same pixels."""
    dims = spectra["flux"].dims
    values = {
        "flux": (dims, flux.astype(np.float32, copy=False)),
        "ivar": (dims, ivar.astype(np.float32, copy=False)),
        "mask": (dims, mask.astype(np.uint32, copy=False)),
    }
    return spectra.assign(values)


def policy_bits(names: tuple[str, ...]) -> int:
    """Return mask bits by name; "or_NAME" is the bit "bad in any exposure".

    Raises
    ------
    ValueError
        If there is no bit of that name.

    Examples
    --------
    >>> policy_bits(("BAD_PIXEL", "or_BAD_PIXEL")) == 1 << 8 | 1 << 16
    True
    """
    bits = 0
    for name in names:
        plain = name.removeprefix("or_")
        if plain not in MaskBit.__members__:
            known = ", ".join(str(bit.name) for bit in MaskBit)
            raise ValueError(f"preprocess.bad_bits: '{name}' is none of {known}")
        bits |= int(MaskBit[plain]) << (8 if plain != name else 0)
    return bits


def mask_step(head: Spectra, table: PreprocessTable) -> Step:
    """Make "mask": pixels with a bad bit, or in the observer's windows, lose their weight."""
    bad = policy_bits(table.bad_bits)
    windows = {
        name: _window_bits(group["wavelength"].to_numpy(), table)
        for name, group in head.items()
        if "wavelength" in group.dims and not at_rest(group)
    }
    return partial(_masked, bad=bad, windows=windows, table=table)


def _masked(
    spectra: Spectra, bad: int, windows: Mapping[str, MaskArray], table: PreprocessTable
) -> Spectra:
    window_bits = sum(int(MaskBit[name]) for name in table.windows)
    made = dict(spectra)
    for name, group in spectra.items():
        if "flux" not in group:  # the root of a survey with arms
            continue
        mask = group["mask"].to_numpy()
        if name in windows:
            mask = mask | windows[name]
        elif not at_rest(group):  # wavelengths of each row
            mask = mask | _window_bits(group["wavelength"].to_numpy(), table)
        ivar, mask = masks.apply_policy(group["ivar"].to_numpy(), mask, bad, int(MaskBit.POLICY))
        ivar, mask = masks.apply_policy(ivar, mask, window_bits, 0)  # their own bits say why
        made[name] = with_pixels(group, group["flux"].to_numpy(), ivar, mask)
    return made


def _window_bits(wavelength: Wavelength, table: PreprocessTable) -> MaskArray:
    bits = np.zeros(wavelength.shape, np.uint32)
    for name in table.windows:
        bits[masks.window_mask(wavelength, masks.LAMOST[name])] |= np.uint32(MaskBit[name])
    return bits


def velocity_step(head: xr.Dataset, table: PreprocessTable) -> Callable[[xr.Dataset], xr.Dataset]:
    """Make "velocity": cross-correlation of spectra whose velocity the survey does not give."""
    step, wanted = _log_step(head, "velocity"), table.velocity
    if wanted is None:
        raise ValueError("preprocess step 'velocity' wants a [preprocess.velocity] table")
    wavelength = head["wavelength"].to_numpy()
    normal = normalizer(wavelength, table.continuum)
    templates = load_templates(wanted.templates, wanted.n_templates, wavelength, normal)
    lag = int(np.ceil(velocity_to_pixels(wanted.max_kms, step)))
    return partial(
        _with_velocity,
        templates=templates,
        normal=normal,
        max_lag=min(max(lag, 1), len(wavelength) - 1),
        every=wanted.every,
    )


def _with_velocity(
    spectra: xr.Dataset, templates: FloatArray, normal: Normalizer, max_lag: int, every: bool
) -> xr.Dataset:
    rv, rv_err = spectra["rv"].to_numpy().copy(), spectra["rv_err"].to_numpy().copy()
    status = spectra["status"].to_numpy().copy()
    quality, template = np.zeros(len(rv), np.float32), np.full(len(rv), -1, np.int16)
    rows = np.flatnonzero(~np.isfinite(rv) | every)
    flux, ivar, _, _ = normal(spectra["flux"].to_numpy()[rows], spectra["ivar"].to_numpy()[rows])
    step = float(spectra.attrs["log10_wavelength_step"])
    found = cross_correlate(flux, ivar, templates, max_lag=max_lag, step_log10=step)
    sure = np.isfinite(found.rv_err)  # neither nothing matched nor the search ended on its edge
    excess = np.sqrt(correlation_of(spectra)[rows[sure], 1])  # pixels may share noise
    rv[rows[sure]], rv_err[rows[sure]] = found.rv[sure], found.rv_err[sure] * excess
    status[rows[sure]] &= ~np.uint32(SpectrumStatus.NO_REDSHIFT)
    # A single peak has no second: the ratio is then as good as any.
    quality[rows] = np.minimum(found.quality, 1e6)
    template[rows] = found.template
    return spectra.assign(
        rv=("spectrum", rv.astype(np.float32), spectra["rv"].attrs),
        rv_err=("spectrum", rv_err.astype(np.float32), spectra["rv_err"].attrs),
        status=("spectrum", status, spectra["status"].attrs),
        rv_quality=("spectrum", quality),
        rv_template=("spectrum", template),
    )


def rest_step(head: xr.Dataset) -> Callable[[xr.Dataset], xr.Dataset]:
    """Make "rest": the star's velocity taken out, to the nearest pixel."""
    if at_rest(head):
        return _at_rest_already
    return partial(_shifted, step=_log_step(head, "rest"))


def _log_step(head: xr.Dataset, name: str) -> float:
    step = head.attrs.get("log10_wavelength_step")
    if step is None:
        raise ValueError(
            f"preprocess step '{name}' wants pixels even in log10(wavelength): put step 'regrid' "
            "with [preprocess.grid] step_log10 before it"
        )
    return float(step)


def _at_rest_already(spectra: xr.Dataset) -> xr.Dataset:
    rv = np.nan_to_num(spectra["rv"].to_numpy()).astype(np.float32)
    return spectra.assign(rv_shift=("spectrum", rv))


def _shifted(spectra: xr.Dataset, step: float) -> xr.Dataset:
    rv = spectra["rv"].to_numpy()
    pixels = np.rint(velocity_to_pixels(np.nan_to_num(rv), step)).astype(np.int64)
    made = with_pixels(
        spectra,
        shift_pixels(spectra["flux"].to_numpy(), pixels, 0.0),
        shift_pixels(spectra["ivar"].to_numpy(), pixels, 0.0),
        shift_pixels(spectra["mask"].to_numpy(), pixels, int(MaskBit.EDGE)),
    )
    shift = pixels_to_velocity(pixels, step).astype(np.float32)
    return made.assign(rv_shift=("spectrum", shift)).assign_attrs(
        frame="rest, to the nearest pixel"
    )


def cut_step(head: xr.Dataset, table: PreprocessTable) -> Callable[[xr.Dataset], xr.Dataset]:
    """Make "cut": only the pixels within the table's limits."""
    wavelength = head["wavelength"].to_numpy()
    start, stop = np.searchsorted(
        wavelength, [table.wavelength_min_angstrom, table.wavelength_max_angstrom * (1 + 1e-12)]
    )
    if stop <= start:
        raise ValueError(
            f"no pixel between {table.wavelength_min_angstrom} and "
            f"{table.wavelength_max_angstrom} Å: the data cover "
            f"{wavelength[0]:.1f}-{wavelength[-1]:.1f} Å"
        )
    return partial(_cut, part=slice(int(start), int(stop)))


def _cut(spectra: xr.Dataset, part: slice) -> xr.Dataset:
    made = spectra.isel(wavelength=part)
    if "log10_wavelength_start" not in made.attrs:
        return made
    start = float(np.log10(made["wavelength"].to_numpy()[0]))
    return made.assign_attrs(log10_wavelength_start=start)


def normalize_step(head: xr.Dataset, table: PreprocessTable) -> Callable[[xr.Dataset], xr.Dataset]:
    """Make "normalize": the continuum divided out, and again without what sticks out of it."""
    normal = normalizer(head["wavelength"].to_numpy(), table.continuum)
    return partial(_normalized, normal=normal, table=table)


def _normalized(spectra: xr.Dataset, normal: Normalizer, table: PreprocessTable) -> xr.Dataset:
    flux, ivar, mask = (spectra[name].to_numpy() for name in PIXELS)
    first = normal(flux, ivar)
    if table.continuum.method not in ("range", "none"):
        spikes = masks.spikes(
            first[0], first[1], threshold_sigma=table.spike_sigma, floor=table.spike_height
        )
        mask = np.where(spikes, mask | np.uint32(MaskBit.SPIKE), mask)
        again = np.flatnonzero(spikes.any(axis=1))
        cleaned = np.where(spikes[again], np.float32(0), ivar[again])
        for whole, part in zip(first, normal(flux[again], cleaned), strict=True):
            whole[again] = part
    made_flux, made_ivar, continuum, bad = first
    mask = np.where(bad, mask | np.uint32(MaskBit.NO_CONTINUUM), mask)
    made = with_pixels(spectra, made_flux, made_ivar, mask)
    middle = np.median(continuum, axis=1) if continuum.size else np.zeros(len(continuum))
    level = ("spectrum", middle.astype(np.float32))
    return made.assign(continuum_median=level).assign_attrs(flux_unit="continuum")
