"""Which labelled stars to learn from: flat over the labels, without wrong ones, corners filled."""

import numpy as np
import numpy.typing as npt

from scalespec.kernels.match import splitmix64

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_COMPONENTS = 10  # principal components of spectra: with their products, 66 terms a label
_RIDGE = 1e-3  # in units of the variance of a term: keeps terms apart that say the same


def first_known(values: npt.ArrayLike) -> tuple[FloatArray, IntArray]:
    """Take from each column the first value that is known.

    Parameters
    ----------
    values : (n_source, n) float
        NaN where unknown; sources by priority.

    Returns
    -------
    value : (n,) float64
        NaN where no source knows it.
    source : (n,) int64
        Which one did, -1 where none.

    Raises
    ------
    ValueError
        If there is no source.

    Examples
    --------
    >>> first_known([[1.0, np.nan, np.nan], [2.0, 3.0, np.nan]])
    (array([ 1.,  3., nan]), array([ 0,  1, -1]))
    """
    table = np.asarray(values, np.float64)
    if not len(table):
        raise ValueError(f"wanted at least one source of values, got {table.shape}")
    known = np.isfinite(table)
    source = np.where(known.any(axis=0), known.argmax(axis=0), -1)
    value = np.where(source >= 0, np.take_along_axis(table, source[np.newaxis], 0)[0], np.nan)
    return value, source


def label_cells(labels: npt.ArrayLike, sizes: npt.ArrayLike) -> IntArray:
    """Say which cell of label space each star is in.

    Parameters
    ----------
    labels : (n, k) float
        Labels, NaN where unknown.
    sizes : (k,) float
        Size of a cell in each.

    Returns
    -------
    (n, k) int64
        Number of the cell along each label; rows with an unknown one hold the least int64.

    Raises
    ------
    ValueError
        If a size is not positive.

    Examples
    --------
    >>> label_cells([[5300.0, 4.4], [4000.0, -0.1]], [250.0, 0.5])
    array([[21,  8],
           [16, -1]])
    """
    size = np.asarray(sizes, np.float64)
    if not np.all(size > 0):
        raise ValueError(f"cells want positive sizes, got {size}")
    scaled = np.floor(np.asarray(labels, np.float64) / size)
    cells = np.full(scaled.shape, np.iinfo(np.int64).min)
    known = np.isfinite(scaled).all(axis=1)
    cells[known] = scaled[known].astype(np.int64)
    return cells


def flatten(cells: npt.NDArray[np.int64], star: npt.ArrayLike, *, most: int) -> BoolArray:
    """Keep so many stars of each cell, chosen by a hash of the star, so in any order the same.

    Parameters
    ----------
    cells : (n, k) int64
        Of `label_cells`; rows without a cell are kept.
    star : (n,) int
        Identifier >= 0 of the star; rows of a star stay together as far as there is room.
    most : int
        Greatest number of rows of a cell.

    Returns
    -------
    (n,) bool
        Whether a row is kept.

    Raises
    ------
    ValueError
        If `most` is below 1.

    Examples
    --------
    >>> flatten(np.array([[1], [1], [1], [2]]), [7, 8, 9, 7], most=2).sum()
    np.int64(3)
    """
    if most < 1:
        raise ValueError(f"most must be 1 or more, got {most}")
    known = cells[:, 0] > np.iinfo(np.int64).min
    place = _places_in_cell(_numbered(cells), np.asarray(star))
    return (place < most) | ~known


def fill_corners(
    cells: npt.NDArray[np.int64],
    library_cells: npt.NDArray[np.int64],
    *,
    fewest: int,
    beside: int = 1,
) -> IntArray:
    """Choose library spectra that fill cells with few stars, and the edge of the stars' range.

    Parameters
    ----------
    cells : (n, k) int64
        Cells of the stars.
    library_cells : (m, k) int64
        Cells of the library's spectra.
    fewest : int
        Stars and spectra together that a cell shall have, as far as the library goes.
    beside : int
        Cells so far outside the stars' range of each label are filled, too: a model that learns
        from them does not end where the stars do.

    Returns
    -------
    (n_chosen,) int64
        Rows of the library, ascending.

    Examples
    --------
    >>> fill_corners(np.array([[1], [1], [2]]), np.array([[1], [2], [2], [9]]), fewest=2)
    array([1])
    """
    least = np.iinfo(np.int64).min
    stars = cells[cells[:, 0] > least]
    if not len(stars) or not len(library_cells):
        return np.zeros(0, np.int64)
    inside = (library_cells >= stars.min(axis=0) - beside).all(axis=1)
    inside &= (library_cells <= stars.max(axis=0) + beside).all(axis=1)
    both = _numbered(np.concatenate([stars, library_cells]))
    there = np.bincount(both[: len(stars)], minlength=both.max() + 1)
    cell = both[len(stars) :]
    place = np.full(len(cell), np.iinfo(np.int64).max)
    rows = np.flatnonzero(inside)
    place[rows] = _places_in_cell(cell[rows], rows)
    return np.flatnonzero(place < (fewest - there)[cell])


def wrong_labels(
    spectra: npt.ArrayLike,
    labels: npt.ArrayLike,
    fold: npt.ArrayLike,
    *,
    sigma: float,
    rounds: int = 3,
) -> BoolArray:
    """Find stars whose labels their spectra deny: outliers of a cross-validated regression.

    Labels are fitted as quadratic functions of the leading principal components of the spectra of
    the other folds; a star is out if any label differs by more than `sigma` robust standard
    deviations (1.4826 times the median absolute deviation over all stars). Those found are left out
    of the fits of the next round.

    Parameters
    ----------
    spectra : (n, p) float
        Features of the spectra, finite.
    labels : (n, k) float
        NaN where unknown: then that label says nothing of the star.
    fold : (n,) int
        Part of each row: all rows of a star in one.
    sigma : float
        Greatest deviation.
    rounds : int
        Fits.

    Returns
    -------
    (n,) bool
        Whether a star is out.

    Raises
    ------
    ValueError
        If sigma is not positive, features are not finite, or there are fewer than two folds.

    Examples
    --------
    Thirty spectra of one line whose depth is the label; one label is of another star:

    >>> depth = np.linspace(0.1, 0.7, 30)
    >>> spectra = 1 - depth[:, np.newaxis] * np.array([0.2, 1.0, 0.2])
    >>> labels = depth[:, np.newaxis] + 0.001 * np.cos(5 * np.arange(30.0))[:, np.newaxis]
    >>> labels[7] = 0.6
    >>> np.flatnonzero(wrong_labels(spectra, labels, np.arange(30) % 5, sigma=5.0))
    array([7])
    """
    x, y, part = np.asarray(spectra, np.float64), np.asarray(labels, np.float64), np.asarray(fold)
    if not sigma > 0:
        raise ValueError(f"sigma must be above 0, got {sigma}")
    if not np.isfinite(x).all():
        raise ValueError(f"{np.sum(~np.isfinite(x).all(axis=1))} rows have features that are NaN")
    if len(np.unique(part)) < 2:
        raise ValueError(f"cross-validation wants two folds or more, got {np.unique(part)}")
    terms = _quadratic(_components(x))
    out: BoolArray = np.zeros(len(x), np.bool_)
    for _ in range(rounds):
        residual = cross_validated_residuals(terms, y, part, use=~out)
        centered = residual - _medians(residual[~out])
        scatter = 1.4826 * _medians(np.abs(centered[~out]))
        found: BoolArray = np.any(np.abs(centered) > sigma * np.maximum(scatter, 1e-300), axis=1)
        if (found == out).all():
            break
        out = found
    return out


def _medians(columns: FloatArray) -> FloatArray:
    """Return the median of what is known in each column; NaN where nothing is."""
    known = (x[np.isfinite(x)] for x in columns.T)
    return np.array([np.median(x) if x.size else np.nan for x in known])


def cross_validated_residuals(
    terms: FloatArray, labels: FloatArray, fold: npt.NDArray[np.integer], *, use: BoolArray
) -> FloatArray:
    """Compute labels minus what a ridge regression on the other folds makes of each star's terms.

    Parameters
    ----------
    terms : (n, q) float64
        What labels are linear in; a constant is added.
    labels : (n, k) float64
        NaN where unknown.
    fold : (n,) int
    use : (n,) bool
        Rows that are learned from.

    Returns
    -------
    (n, k) float64
        NaN where the label is unknown.

    Examples
    --------
    >>> terms = np.arange(6.0)[:, np.newaxis]
    >>> labels, odd = 2 * terms + 1, np.arange(6) == 3
    >>> labels[odd] += 5
    >>> found = cross_validated_residuals(terms, labels, np.arange(6) % 2, use=~odd)
    >>> np.abs(found[:, 0]).round(1)
    array([0., 0., 0., 5., 0., 0.])
    """
    scaled = (terms - terms.mean(axis=0)) / np.maximum(terms.std(axis=0), 1e-300)
    residual = np.full(labels.shape, np.nan)
    for k in range(labels.shape[1]):
        known = np.isfinite(labels[:, k])
        for part in np.unique(fold):
            learned, asked = known & use & (fold != part), known & (fold == part)
            if not learned.any():
                continue
            a, mean = scaled[learned], labels[learned, k].mean()
            gram = a.T @ a + _RIDGE * len(a) * np.eye(a.shape[1])
            center = a.mean(axis=0)
            gram -= len(a) * np.outer(center, center)
            weight = np.linalg.solve(gram, a.T @ (labels[learned, k] - mean))
            residual[asked, k] = labels[asked, k] - mean - (scaled[asked] - center) @ weight
    return residual


def _numbered(cells: npt.NDArray[np.int64]) -> IntArray:
    """(n,) a number per cell, 0, 1, ..., in the order of cells."""
    numbers: IntArray = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
    return numbers


def _places_in_cell(cell: IntArray, star: npt.NDArray[np.integer]) -> IntArray:
    """(n,) place of each row among those of its cell, stars shuffled by their hash."""
    order = np.lexsort((np.arange(len(cell)), splitmix64(star.astype(np.uint64)), cell))
    start = np.flatnonzero(np.diff(cell[order], prepend=-1))
    count = np.diff(start, append=len(cell))
    place = np.empty(len(cell), np.int64)
    place[order] = np.arange(len(cell)) - np.repeat(start, count)
    return place


def _components(x: FloatArray) -> FloatArray:
    """(n, q) leading principal components, each of unit variance; the largest loading positive."""
    centered = x - x.mean(axis=0)
    value, vector = np.linalg.eigh(centered.T @ centered / max(len(x), 1))
    kept = np.flatnonzero(value > 1e-12 * max(value[-1], 1e-300))[::-1][:_COMPONENTS]
    vector = vector[:, kept]
    vector *= np.sign(vector[np.abs(vector).argmax(axis=0), np.arange(len(kept))])
    scores: FloatArray = centered @ vector / np.sqrt(value[kept])
    return scores


def _quadratic(scores: FloatArray) -> FloatArray:
    i, j = np.triu_indices(scores.shape[1])
    return np.concatenate([scores, scores[:, i] * scores[:, j]], axis=1)
