"""``[posterior]``: all that the spectra of chosen stars say of their labels."""

from pydantic import Field, field_validator

from scalespec.config.table import Table


class PosteriorTable(Table):
    """``[posterior]``: Markov chains for some of the fitted stars.

    A fit says a best value and a covariance; draws from the posterior say whether that is all.
    """

    stars: tuple[str | int, ...]
    """Which: obsids, or designations as ``"2M08510017+1154321"``."""
    draws: int = Field(default=500, ge=50)
    """Draws kept of each chain; a third as many before them are for warm-up."""
    chains: int = Field(default=4, ge=2)
    """Chains per star."""

    @field_validator("stars")
    @classmethod
    def _some(cls, value: tuple[str | int, ...]) -> tuple[str | int, ...]:
        if not value:
            raise ValueError("name a star at least: an obsid, or a designation")
        return value
