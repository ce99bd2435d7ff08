"""What every table of the run file is."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat


def check_ordered(first: str, low: float, last: str, high: float) -> None:
    """Refuse a range of wavelengths that ends where it begins, or before; names as in its table.

    Raises
    ------
    ValueError
        If it does.

    Examples
    --------
    >>> check_ordered("min_angstrom", 375, "max_angstrom", 680)
    >>> check_ordered("min_angstrom", 3750, "max_angstrom", 680)
    Traceback (most recent call last):
    ValueError: min_angstrom = 3750 must be below max_angstrom = 680; both are in Å, not in nm
    """
    if low >= high:
        raise ValueError(
            f"{first} = {low:g} must be below {last} = {high:g}; both are in Å, not in nm"
        )


def _rising(limits: tuple[float, float]) -> tuple[float, float]:
    low, high = limits
    if low >= high:
        raise ValueError(f"[{low:g}, {high:g}] wants its lower limit first, below the upper one")
    return limits


Range = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_rising)]
"""A lower limit and an upper one above it, both finite."""
WidthRange = Annotated[
    tuple[Annotated[FiniteFloat, Field(ge=0)], FiniteFloat], AfterValidator(_rising)
]
"""The same of what is nowhere negative."""


class Table(BaseModel):
    """A table of the run file: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
