"""``[derive]``: what repeats, colors and residuals tell of fitted stars."""

from typing import Literal

from pydantic import Field, model_validator

from scalespec.config.table import Table


class DeriveTable(Table):
    """``[derive]``: columns beside the labels: variable velocities, reddening, anomaly."""

    star_id: str = "source_id"
    """What tells that spectra are of one star: a column of the store or of its index of strings."""
    plate: str = ""
    """Column of the index that names the plate, whose zero point is taken off; empty: none is."""
    rv_floor_kms: float | None = Field(default=None, ge=0)
    """Added to velocity errors in quadrature; by default what makes most repeats agree."""
    color: str = ""
    """Observed color, as ``gaia.bp_rp`` for a column of ``[crossmatch.gaia]``: gives E(B-V)."""
    color_name: Literal["bp_rp", "j_k", "g_k"] = "bp_rp"
    """Which color that is: Gaia BP - RP, 2MASS J - K_s, G - K_s."""
    anomaly_sample: int = Field(default=0, ge=0)
    """Spectra whose residuals say what is usual; 0: no anomalies are looked for."""
    anomaly_components: int = Field(default=10, ge=1)
    """Principal components of residuals."""
    anomaly_list: int = Field(default=100, ge=1)
    """Stars on the list of anomalies."""

    @model_validator(mode="after")
    def _names_a_column(self) -> "DeriveTable":
        if self.color and self.color.count(".") != 1:
            raise ValueError(f"color: '{self.color}': say catalog and column, as gaia.bp_rp")
        return self
