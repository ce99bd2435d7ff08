"""What every table of the run file is."""

from pydantic import BaseModel, ConfigDict


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


class Table(BaseModel):
    """A table of the run file: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
