"""``[train.network]``: networks from flux to labels, and how they learn."""

from typing import Any, Literal

from pydantic import Field, model_validator

from scalespec.config.table import Table

NetworkName = Literal["residual", "mlp", "starnet", "folded", "bayesian"]
"""Values of ``train.model`` that make a regressor."""
BaselineName = Literal[
    "ridge", "knn", "gradient_boosting", "svr", "random_forest", "gaussian_process", "elm"
]
"""Values of ``train.model`` that make a classical regressor, fitted in one go on one worker; the
``elm`` from sums over all blocks of spectra."""


class NetworkTable(Table):
    """``[train.network]``: for ``train.model`` ``residual``, ``mlp``, ``starnet``, ``folded``..."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Of the network's class, as ``{ width = 512, blocks = 3 }`` of ``residual``."""
    members: int = Field(default=1, ge=1)
    """Networks of a deep ensemble: their spread is the epistemic uncertainty."""
    use_ivar: bool = True
    """Whether it sees each pixel's weight beside its flux."""
    inputs: tuple[str, ...] = ()
    """Label columns that are inputs beside the spectrum: magnitudes, parallax."""
    epochs: int = Field(default=100, ge=1)
    """Most passes over all spectra."""
    batch_size: int = Field(default=256, ge=1)
    """Spectra per step and worker."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Of AdamW, at its height."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Of AdamW."""
    patience: int = Field(default=15, ge=0)
    """Epochs without a better validation error before training ends; 0: never."""
    checkpoint_every: int = Field(default=5, ge=1)
    """Epochs between checkpoints."""
    loss: Literal["gaussian", "mae"] = "gaussian"
    """Of labels: Gaussian with its own variance, or the mean absolute error."""
    augment: bool = True
    """Whether spectra are degraded to other S/N, anew in every epoch."""
    snr_range: tuple[float, float] = (5.0, 200.0)
    """Range of these S/N."""
    jitter: float = Field(default=0.0, ge=0)
    """Noise added anew in every epoch, in units of each pixel's own."""

    @model_validator(mode="after")
    def _snr_is_a_range(self) -> "NetworkTable":
        if not 0 < self.snr_range[0] < self.snr_range[1]:
            raise ValueError(f"snr_range must rise from above 0, got {self.snr_range}")
        return self
