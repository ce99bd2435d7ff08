"""What puts a star on isochrones where they or we lack something: gravity, alpha elements.

Temperatures in K, abundances in dex; `isochrone` has the grid itself.
"""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def subgiant_by_gravity(
    teff: FloatArray, logg: FloatArray, fe_h: FloatArray
) -> npt.NDArray[np.bool_]:
    """Say as `is_subgiant` which stars are subgiants, by log g where no distance is known.

    Parameters
    ----------
    teff, logg, fe_h : (n,) float64 [K, dex, dex]

    Examples
    --------
    >>> subgiant_by_gravity(np.array([5400.0, 5772.0]), np.array([3.8, 4.44]), np.zeros(2))
    array([ True, False])
    """
    cool = 5100.0 - 120.0 * fe_h
    hot = 6300.0 - 250.0 * np.minimum(fe_h, 0.0)
    return np.asarray((teff > cool) & (teff < hot) & (logg > 3.4) & (logg < 4.15))


def total_metals(fe_h: FloatArray, alpha_fe: FloatArray) -> FloatArray:
    """Return the [M/H] of scaled-solar isochrones like those of an alpha-enhanced star.

    References
    ----------
    Salaris, Chieffi & Straniero 1993, ApJ 414, 580, eq. 3.

    Examples
    --------
    >>> total_metals(np.array([-1.0, -1.0]), np.array([0.0, 0.3])).round(2)
    array([-1.  , -0.79])
    """
    return np.asarray(fe_h + np.log10(0.638 * 10**alpha_fe + 0.362))
