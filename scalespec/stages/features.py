"""Step "features": what stands for a spectrum: equivalent widths, and an image of its pixels."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
import xarray as xr

from scalespec.config import PreprocessTable
from scalespec.kernels.features import equivalent_widths, window
from scalespec.kernels.fold import fold
from scalespec.kernels.wavelength import pixel_edges

Windows = Mapping[str, tuple[float, float]]


def features_step(head: xr.Dataset, table: PreprocessTable) -> Callable[[xr.Dataset], xr.Dataset]:
    """Make "features".

    Raises
    ------
    ValueError
        If a window has no name or no pixel, or pixels do not fill an image's lines.
    """
    edges = pixel_edges(head["wavelength"].to_numpy())
    windows = {name: window(name) for name in table.line_windows}
    for name, (low, high) in windows.items():
        if high <= edges[0] or low >= edges[-1]:
            raise ValueError(
                f"line window {name}, {low:.1f}-{high:.1f} Å, lies beyond the spectra, "
                f"{edges[0]:.1f}-{edges[-1]:.1f} Å"
            )
    n, width = head.sizes["wavelength"], table.fold_width
    if width and n % width:
        raise ValueError(
            f"{n} pixels do not fill lines of {width}: a limit of "
            f"{head['wavelength'].to_numpy()[n - n % width - 1]:.2f} Å leaves {n - n % width}"
            if n > width
            else f"{n} pixels do not fill one line of {width}"
        )
    return partial(_with_features, edges=edges, windows=windows, width=width)


def _with_features(
    spectra: xr.Dataset, edges: npt.NDArray[np.floating], windows: Windows, width: int
) -> xr.Dataset:
    flux, ivar = spectra["flux"].to_numpy(), spectra["ivar"].to_numpy()
    made: dict[str, tuple[tuple[str, ...], npt.NDArray[np.float32], dict[str, str]]] = {}
    if windows:
        values, errors = equivalent_widths(flux, ivar, edges, windows)
        for i, name in enumerate(windows):
            known = np.isfinite(errors[:, i]) & (errors[:, i] > 0)
            weight = np.where(known, 1 / np.where(known, errors[:, i], 1) ** 2, 0)
            value = np.where(known, values[:, i], 0)
            made[f"ew_{name}"] = (("spectrum",), value.astype(np.float32), {"units": "Angstrom"})
            unit = {"units": "Angstrom^-2"}
            made[f"ew_{name}_ivar"] = (("spectrum",), weight.astype(np.float32), unit)
    if width:
        # What is not known is continuum: 0 would be the deepest line of all.
        image = fold(np.where(ivar > 0, flux, np.float32(1)), width=width)
        made["image"] = (("spectrum", "line", "column"), image.astype(np.float32), {})
    return spectra.assign(made)
