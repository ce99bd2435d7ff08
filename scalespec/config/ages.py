"""``[ages]``: ages of subgiants from isochrones."""

from typing import Literal

from pydantic import Field, model_validator

from scalespec.config.table import Table


class AgesTable(Table):
    """``[ages]``: a posterior over a grid of isochrones for every subgiant.

    The prior is uniform in age and metallicity, with Salpeter's mass function.
    """

    isochrones: str
    """Grid: Dartmouth HDF5 (wants the package h5py), or MIST's or PARSEC's tables of text."""
    brightness: Literal["m_k", "logg"] = "m_k"
    """What tells luminosity: absolute magnitude in K_s, or log g where no distance is known."""
    magnitude: str = ""
    """K_s magnitude, as ``gaia.k`` for a column of ``[crossmatch.gaia]``; its error is
    ``gaia.k_err``, if there is such a column."""
    parallax: str = ""
    """Parallax [mas], as ``gaia.parallax``; its error ``gaia.parallax_err`` must be there."""
    reddening: str = ""
    """E(B-V) of each star, as ``gaia.ebv``; without it extinction is 0."""
    alpha: str = ""
    """Label of [alpha/Fe], as ``mg_fe``: isochrones are scaled solar, stars are put on them by
    their total metals (Salaris et al. 1993)."""
    calibrated: bool = True
    """Use calibrated labels where there are some."""
    subgiants: bool = True
    """Only stars between turn-off and giant branch: elsewhere an age is mostly the prior's."""
    parallax_snr_min: float = Field(default=5.0, gt=0)
    """Stars whose parallax is less certain have no absolute magnitude."""
    least_errors: dict[str, float] = Field(
        default_factory=lambda: {"teff": 25.0, "logg": 0.05, "fe_h": 0.04, "m_k": 0.04}
    )
    """Smaller errors are raised to these: isochrones are no better, and their grid no finer."""
    refine: tuple[int, int, int] = (6, 3, 2)
    """Steps into which those of the grid are cut: in metallicity, age and evolution."""

    @model_validator(mode="after")
    def _brightness_is_there(self) -> "AgesTable":
        if self.brightness == "m_k" and not (self.magnitude and self.parallax):
            raise ValueError("brightness = 'm_k' wants magnitude and parallax")
        for name in filter(None, (self.magnitude, self.parallax, self.reddening)):
            if name.count(".") != 1:
                raise ValueError(f"'{name}': say catalog and column, as gaia.parallax")
        if min(self.refine) < 1:
            raise ValueError(f"refine: {self.refine} must be 1 or more")
        if wrong := {n: v for n, v in self.least_errors.items() if not v > 0}:
            raise ValueError(f"least_errors: {wrong} must be above 0")
        return self
