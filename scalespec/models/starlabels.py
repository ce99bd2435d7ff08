"""What a synthesis may be asked for: labels, their ranges, and what they mean for abundances."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from scalespec.models.gas import SYMBOLS

FloatArray = npt.NDArray[np.float64]

LIMITS = {
    "teff": (3800.0, 30000.0),
    "logg": (0.0, 5.0),
    "fe_h": (-4.0, 0.5),
    "vmic": (0.5, 5.0),
    "vsini": (0.0, 400.0),
    "vmac": (0.0, 100.0),
    "he_h": (-1.0, 1.0),
    "c_fe": (-1.5, 3.0),
    "n_fe": (-1.5, 2.5),
    **{f"{symbol}_fe": (-1.0, 1.5) for symbol in ("o", "mg", "si", "s", "ca", "ti")},
    **{f"{symbol}_fe": (-1.5, 2.5) for symbol in ("sr", "y", "zr", "ba")},
    **{f"{symbol}_fe": (-1.5, 2.5) for symbol in ("la", "ce", "pr", "nd", "sm", "eu")},
}
"""Range of each label; any other ``[X/Fe]`` may lie in ±1.

Metal-poor stars have up to a thousand times the carbon and three hundred times the neutron-capture
elements of their iron (Frebel & Norris 2015, ARA&A 53, 631).
"""


def check_labels(labels: tuple[str, ...]) -> None:
    """Refuse labels that are unknown, and sets without what every star needs.

    Raises
    ------
    ValueError
        Naming them.
    """
    known = {*LIMITS, *(f"{symbol.lower()}_fe" for symbol in SYMBOLS[2:])}
    if unknown := sorted(set(labels) - known):
        raise ValueError(
            f"labels {unknown} are unknown to line synthesis; it knows {sorted(known)}"
        )
    if missing := [name for name in ("teff", "logg", "fe_h") if name not in labels]:
        raise ValueError(f"line synthesis wants labels {missing}, got {list(labels)}")


def label_box(
    labels: tuple[str, ...], limits: Mapping[str, tuple[float, float]] | None
) -> FloatArray:
    """Return the range of every label, (n_label, 2).

    Parameters
    ----------
    labels : tuple of n_label str
    limits : mapping of str to (float, float), optional
        Where a range is to be narrower than `LIMITS`.

    Raises
    ------
    ValueError
        If a range is empty, wider than may be, or of no label.

    Examples
    --------
    >>> label_box(("teff", "mg_fe"), {"teff": (4000.0, 7000.0)})
    array([[ 4.0e+03,  7.0e+03],
           [-1.0e+00,  1.5e+00]])
    """
    wanted = dict(limits or {})
    if strange := sorted(set(wanted) - set(labels)):
        raise ValueError(f"limits name labels that are not there: {strange}")
    box = []
    for name in labels:
        low, high = LIMITS.get(name, (-1.0, 1.0))
        first, last = wanted.get(name, (low, high))
        if not low <= first < last <= high:
            raise ValueError(f"{name} may range within {low} to {high}, got {first} to {last}")
        box.append((first, last))
    return np.array(box)


def abundance_matrix(labels: tuple[str, ...]) -> FloatArray:
    """Return (n_label, n_element): how much each label adds to each log abundance.

    Examples
    --------
    >>> abundance_matrix(("fe_h", "he_h", "c_fe"))[:, [0, 1, 3, 6]]
    array([[0., 0., 1., 1.],
           [0., 1., 0., 0.],
           [0., 0., 1., 0.]])
    """
    matrix = np.zeros((len(labels), len(SYMBOLS)))
    matrix[labels.index("fe_h"), 2:] = 1.0
    for row, name in enumerate(labels):
        symbol = name.removesuffix("_fe").removesuffix("_h").capitalize()
        if (name.endswith("_fe") or name == "he_h") and symbol in SYMBOLS:
            matrix[row, SYMBOLS.index(symbol)] = 1.0
    return matrix
