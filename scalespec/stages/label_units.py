"""What a label catalog's numbers are in: what the run file says, else its file, else ours.

A file may say radians where a catalog usually has degrees; what it says is converted, or refused.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.config import CrossmatchTable
from scalespec.errors import ConfigError

Array = npt.NDArray[Any]

log = logging.getLogger(__name__)

POSITION = ("ra", "dec", "pmra", "pmdec")
UNITS = {
    "ra": "deg",
    "dec": "deg",
    "pmra": "mas/yr",
    "pmdec": "mas/yr",
    "teff": "K",
    "logg": "dex(cm/s2)",
    "rv": "km/s",
    "vsini": "km/s",
    "vmic": "km/s",
    "parallax": "mas",
}
"""Units we keep columns in, by name; other labels are in dex."""
ABUNDANCE = re.compile(r"\w+_(h|fe|m)")
"""Names of labels that are logarithmic abundances, as ``mg_fe``."""
NOT_KNOWN = ("", "--", "null", "nan")
"""Words, in lower case, that stand in a column of numbers for one that is not known."""


def unit_of(name: str) -> str:
    """Return the unit that we keep a column in; "" of one whose name says none.

    Errors of logarithms are in dex whatever files say: as ``[cm/s2]``, what the logarithm is of.

    Examples
    --------
    >>> [unit_of(name) for name in ("teff", "teff_err", "logg_err", "mg_fe", "spectral_type")]
    ['K', 'K', '', 'dex', '']
    """
    label = name.removesuffix("_err")
    unit = UNITS.get(label, "dex" if ABUNDANCE.fullmatch(label) else "")
    return "" if unit.startswith("dex") and label != name else unit


def with_stated_units(
    name: str, table: CrossmatchTable, stated: Mapping[str, str], *, level: int = logging.DEBUG
) -> CrossmatchTable:
    """Return a catalog's table with the units that its file says, where it says others than ours.

    Parameters
    ----------
    name : str
        Of ``[crossmatch.NAME]``.
    table : CrossmatchTable
        What its ``units`` say goes before what the file says.
    stated : mapping of str to str
        Units by the file's names of columns, "" where it says none.
    level : int
        At which it is logged that a unit is not known, or converted.

    Raises
    ------
    ConfigError
        If a unit does not become ours; it names both, of all such columns.
    """
    position = {ours: getattr(table, ours) for ours in POSITION if getattr(table, ours)}
    units, wrong = dict(table.units), []
    for ours, theirs in (position | table.columns).items():
        unit, wanted = stated.get(theirs, ""), unit_of(ours)
        if ours in units or not unit or not wanted:
            continue
        found = _parsed(unit)
        if found is None:
            log.log(level, "crossmatch.%s: %s says that '%s' is in '%s', no unit that we know: "
                    "taken for %s; say what it is in as units.%s",
                    name, table.catalog, theirs, unit, wanted, ours)  # fmt: skip
        elif not _same(found, wanted):
            if _becomes(found, wanted, error=ours.endswith("_err")):
                units[ours] = str(found)
                log.log(min(level, logging.INFO), "crossmatch.%s: '%s' of %s is in '%s': it is "
                        "converted to '%s'", name, theirs, table.catalog, unit, wanted)  # fmt: skip
            else:
                wrong.append(
                    f"crossmatch.{name}: {table.catalog} says that '{theirs}' is in '{unit}', and "
                    f"{ours} is in '{wanted}': say what it is in as units.{ours}"
                )
    if wrong:
        raise ConfigError("\n  ".join(wrong))
    return table.model_copy(update={"units": units})


def _parsed(text: str) -> Any:
    """Return a unit as files spell it, as ``log(cm.s**-2)``, ``[cm/s2]`` and ``degrees``."""
    from astropy import units

    tries: list[tuple[str, str | None]] = [(re.sub(r"^log(?=\()", "dex", text), None)]
    tries += [(text, "cds"), (text.lower(), None), (text.lower().rstrip("s"), None)]
    tries += [(text.capitalize(), None)]
    for spelled, form in tries:
        try:
            return units.Unit(spelled, format=form)
        except (ValueError, TypeError):
            continue
    return None


def _same(theirs: Any, ours: str) -> bool:
    """Whether numbers in both units are alike; a dex says seldom of what it is the logarithm."""
    from astropy import units

    if theirs == units.Unit(ours):
        return True
    plain = theirs in (units.dex, units.dimensionless_unscaled) or str(theirs) == "---"
    if not ours.startswith("dex"):
        return bool(theirs == units.dimensionless_unscaled)
    of = getattr(theirs, "physical_unit", None)
    # [-] and [Sun]: an abundance. Any other logarithm is told from ours by what it is of.
    bare = of is not None and (str(of) in ("---", "Sun") or of == units.dimensionless_unscaled)
    return bool(plain or bare)


def _becomes(theirs: Any, ours: str, *, error: bool) -> bool:
    """Whether a unit becomes ours, and beyond doubt; an error of a logarithm becomes no other."""
    from astropy import units

    wanted = units.Unit(ours)
    if not theirs.is_equivalent(wanted):
        return False
    if hasattr(theirs, "physical_unit"):
        return not error
    # "cm/s2" of a gravity is more often log g, its brackets lost, than a gravity.
    return not hasattr(wanted, "physical_unit")


def in_our_unit(name: str, values: Array, table: CrossmatchTable) -> Array:
    """Convert a column by the table's ``units``, or read sexagesimal angles."""
    if name not in table.units:
        return values
    from astropy import units
    from astropy.coordinates import Angle

    ours = unit_of(name) or "dex"
    try:
        theirs = units.Unit(table.units[name])
        if values.dtype.kind == "U":
            known = ~not_known(values)
            angles = np.full(len(values), np.nan)
            angles[known] = Angle(values[known], theirs).deg
            return angles
        return np.asarray((values * theirs).to(units.Unit(ours)).value, np.float64)
    except (ValueError, TypeError, units.UnitsError) as error:
        raise ConfigError(
            f"{table.catalog}: units.{name} = '{table.units[name]}' does not become "
            f"'{ours}': {error}"
        ) from error


def not_known(texts: Array) -> npt.NDArray[np.bool_]:
    """Return which texts stand for no number.

    Examples
    --------
    >>> not_known(np.array(["5777", " --", "NaN", "5777K"])).tolist()
    [False, True, True, False]
    """
    return np.isin(np.strings.lower(np.strings.strip(texts)), NOT_KNOWN)


def first_wrong(texts: Array) -> tuple[int, str]:
    """Return how many texts are neither a number nor stand for none, and the first that is not.

    Examples
    --------
    >>> first_wrong(np.array(["5777", "--", "hot", "?"]))
    (2, 'hot')
    """
    wrong = [text for text in texts[~not_known(texts)].tolist() if not _is_number(text)]
    return len(wrong), wrong[0] if wrong else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def as_numbers(
    ours: str, theirs: str, values: Array, keep: npt.NDArray[np.bool_], catalog: str
) -> Array:
    """Return a column that must hold numbers, NaN where its text says that one is not known.

    Parameters
    ----------
    ours, theirs : str
        Its names.
    values : (n,) array
    keep : (n,) bool
        Rows that are taken: what others say does not matter.
    catalog : str

    Raises
    ------
    ConfigError
        If its text says anything else.
    """
    if values.dtype.kind != "U":
        return values
    values = np.where(keep, values, "")
    n, text = first_wrong(values)
    if n:
        hint = f"; units.{ours} = 'hourangle' or 'deg' reads sexagesimal angles"
        raise ConfigError(
            f"{catalog}: column '{theirs}' ({ours}) wants numbers: {n} of {len(values)} rows have "
            f"none, as {text!r}; {' or '.join(map(repr, NOT_KNOWN[1:]))} would say that it is not "
            f"known{hint if ours in ('ra', 'dec') else ''}"
        )
    known = ~not_known(values)
    numbers = np.full(len(values), np.nan)
    numbers[known] = values[known].astype(np.float64)
    return numbers
