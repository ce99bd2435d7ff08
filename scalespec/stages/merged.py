"""Several label catalogs put together: by priority, or by agreement with a reference."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from scalespec import figures
from scalespec.config import RunConfig
from scalespec.errors import ConfigError
from scalespec.figures.agreement import agreement
from scalespec.kernels.match import split_by_star
from scalespec.kernels.selection import first_known
from scalespec.stages import folders, matched
from scalespec.stages.columns import label_facts, label_title
from scalespec.stages.gather import label_columns, read_matches
from scalespec.store import paths

FloatArray = npt.NDArray[np.float64]

FEWEST_IN_COMMON = 10
"""Stars that a source and the reference must share before their agreement counts."""


def merge_catalogs(config: RunConfig, name: str) -> None:
    """Write the labels of several matched catalogs as one table of matches.

    Beside ``matches.parquet`` (labels, their errors, and ``<label>_from``, the source of each)
    stand ``agreement.parquet`` and a picture per label, where the table names a reference. The
    folder is named by all of these: what stands in it already is left alone.

    Raises
    ------
    ConfigError
        If the sources have no label.
    """
    table = (config.crossmatch or {})[name]
    url = folders.matches_url(config, name)
    if matched.stands(url, "sources"):
        return
    matched.begin(url)
    names = [*table.sources, *([table.reference] if table.reference else [])]
    catalogs = {n: read_matches(folders.matches_url(config, n)).set_index("row") for n in names}
    sources = {n: catalogs[n] for n in table.sources}
    labels = list(dict.fromkeys(label for one in sources.values() for label in label_columns(one)))
    if not labels:
        raise ConfigError(f"crossmatch.{name}: {list(sources)} have no label: give them columns")
    order = {label: list(table.sources) for label in labels}
    if table.reference:
        reference = catalogs[table.reference]
        found = agreement_table(sources, reference, labels)
        if table.choose == "agreement":
            order = {label: best_order(found, label, table.sources) for label in labels}
        found["order"] = [
            order[label].index(source)
            for label, source in zip(found["label"], found["source"], strict=True)
        ]
        _write_parquet(paths.join(url, "agreement.parquet"), found)
        for label in set(labels) & set(label_columns(reference)):
            drawn = agreement(
                {n: _compared(sources[n], reference, label)[:2] for n in order[label]},
                name=label_title(label),
                unit=label_facts(label)[0],
                reference=table.reference,
            )
            paths.write_bytes(paths.join(url, f"agreement-{label}.png"), figures.to_png(drawn))
    merged = merge_labels(sources, order)
    merged["split"] = split_by_star(
        merged["star"].to_numpy(), fractions=table.training.fractions, seed=config.run.seed
    )
    _write_parquet(paths.join(url, matched.TABLE), merged)
    matched.finish(url, "sources")


def agreement_table(
    sources: dict[str, pd.DataFrame], reference: pd.DataFrame, labels: Sequence[str]
) -> pd.DataFrame:
    """Compare each source of each label with the reference, on the spectra that both know.

    Returns
    -------
    pd.DataFrame
        label, source, n (spectra in common), bias (median of source minus reference), scatter
        (1.4826 median absolute deviation), pull_scatter (the same of residuals over their errors;
        NaN where there are none).
    """
    rows = []
    for label in labels:
        for name, matches in sources.items():
            _, residual, error = _compared(matches, reference, label)
            found = figures.spread(residual)
            pulls = figures.spread((residual / error)[np.isfinite(error) & (error > 0)])
            rows.append((label, name, len(residual), found.bias, found.scatter, pulls.scatter))
    columns = ["label", "source", "n", "bias", "scatter", "pull_scatter"]
    return pd.DataFrame(rows, columns=columns)


def _compared(
    matches: pd.DataFrame, reference: pd.DataFrame, label: str
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the reference, source minus reference, and the error of that, where both are known."""
    if label not in matches or label not in reference:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    rows = matches.index.intersection(reference.index)
    true = _column(reference.loc[rows], label)
    difference = _column(matches.loc[rows], label) - true
    error, theirs = (_column(one.loc[rows], f"{label}_err") for one in (matches, reference))
    known = np.isfinite(difference)
    # A reference that states no error counts as having none.
    return true[known], difference[known], np.hypot(error, np.nan_to_num(theirs))[known]


def best_order(agreement: pd.DataFrame, label: str, sources: Sequence[str]) -> list[str]:
    """Order the sources of a label by their agreement: the square root of bias² + scatter².

    Sources with too few spectra in common with the reference come last, as they are listed.
    """
    here = agreement[agreement["label"] == label].set_index("source")
    error = np.hypot(here["bias"], here["scatter"])
    error[here["n"] < FEWEST_IN_COMMON] = np.inf
    return sorted(sources, key=lambda name: (float(error[name]), list(sources).index(name)))


def merge_labels(sources: dict[str, pd.DataFrame], order: dict[str, list[str]]) -> pd.DataFrame:
    """Take each label of each spectrum from the first source, in that label's order, that knows it.

    Parameters
    ----------
    sources : dict of str to pd.DataFrame
        Matches of each catalog, indexed by row.
    order : dict of str to list of str
        The sources of each label, the best first.

    Returns
    -------
    pd.DataFrame
        A table of matches: row, obsid, separation_arcsec and kin (of the first source that has the
        spectrum), ``star`` (spectra that any source holds for one star share it), and per label
        its value, ``<label>_err`` and ``<label>_from``.
    """
    rows = np.unique(np.concatenate([one.index.to_numpy() for one in sources.values()]))
    own = ["obsid", "separation_arcsec", "rank", "n_candidates", "by_id"]
    first = pd.concat([one[own] for one in sources.values()])
    made = first[~first.index.duplicated()].loc[rows].rename_axis("row").reset_index()
    made["star"] = common_stars({n: one["star"] for n, one in sources.items()}, rows)
    for label, names in order.items():
        tables = [sources[n].reindex(rows) for n in names]
        values = np.array([_column(one, label) for one in tables])
        errors = np.array([_column(one, f"{label}_err") for one in tables])
        value, which = first_known(values)
        made[label] = value
        made[f"{label}_err"] = np.where(
            which < 0, np.nan, np.take_along_axis(errors, np.maximum(which, 0)[np.newaxis], 0)[0]
        )
        made[f"{label}_from"] = np.array([*names, ""])[which]
    return made


def _column(table: pd.DataFrame, name: str) -> npt.NDArray[np.float64]:
    if name not in table:
        return np.full(len(table), np.nan)
    return table[name].to_numpy(np.float64)


def common_stars(stars: dict[str, pd.Series], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Give spectra one star where any catalog says that they show the same one.

    Catalogs name stars each in its way, so a spectrum that two of them know ties two names.

    Returns
    -------
    (n,) int64
        The least name of each group of tied ones.
    """
    place = [np.searchsorted(rows, one.index.to_numpy()) for one in stars.values()]
    names = [np.unique(one.to_numpy(), return_inverse=True)[1] for one in stars.values()]
    offsets = np.cumsum([len(rows), *(n.max(initial=-1) + 1 for n in names)])
    i = np.concatenate(place)
    j = np.concatenate([n + offset for n, offset in zip(names, offsets[:-1], strict=True)])
    graph = coo_array((np.ones(len(i)), (i, j)), shape=(offsets[-1], offsets[-1]))
    group = connected_components(graph, directed=False)[1]
    least = np.full(group.max(initial=-1) + 1, np.iinfo(np.int64).max)
    np.minimum.at(least, group[i], np.concatenate([one.to_numpy() for one in stars.values()]))
    common: npt.NDArray[np.int64] = least[group[: len(rows)]]
    return common


def _write_parquet(url: str, table: pd.DataFrame) -> None:
    paths.write_bytes(url, table.to_parquet(index=False, row_group_size=1 << 16))
