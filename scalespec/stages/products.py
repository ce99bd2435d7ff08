"""Subsets of the catalog by declared conditions, and the cut that is recommended for each label."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scalespec.config import ProductTable, PublishTable
from scalespec.errors import ConfigError
from scalespec.kernels.where import columns_in, where
from scalespec.optimize.result import FitStatus
from scalespec.stages.columns import NOTES, measured_labels
from scalespec.stages.samples import BY_LABEL
from scalespec.store import formats, paths, streams
from scalespec.store.catalog import iterate_parts, read_schema

FOLDER = "products"
"""Below the catalog's."""
WIDTHS = ("vsini", "lsf")


def recommended_cuts(names: Sequence[str]) -> dict[str, str]:
    """Return for each label the condition on columns that we would choose stars by.

    Parameters
    ----------
    names : sequence of str
        Columns of the catalog.

    Examples
    --------
    >>> names = ["teff", "teff_err", "first_teff", "fit_status", "at_bound"]
    >>> recommended_cuts(names)
    {'teff': 'not isnan(teff) and (fit_status & 30715) == 0 and (at_bound & 1) == 0'}
    """
    bits = int(np.uint32(sum(FitStatus)) & ~BY_LABEL)
    labels = [one for one in measured_labels(names) if one not in WIDTHS]
    cuts = {}
    for number, label in enumerate(labels):
        terms = [f"not isnan({label})", f"(fit_status & {bits}) == 0"]
        by_bit = [name for name in ("at_bound", "prior_dominated") if name in names]
        terms += [f"({name} & {1 << number}) == 0" for name in by_bit]
        cuts[label] = " and ".join(terms)
        if f"{label}_cal" in names:
            beyond = " and (calibration_status & 1) == 0" if "calibration_status" in names else ""
            cuts[f"{label}_cal"] = cuts[label] + beyond
    return cuts


def condition_of(product: ProductTable, cuts: Mapping[str, str]) -> str:
    """Return a product's condition with the recommended cuts of the labels it trusts.

    Raises
    ------
    ConfigError
        If there is no such label.
    """
    if unknown := sorted(set(product.trusted) - set(cuts)):
        raise ConfigError(f"publish.products: trusted: no labels {unknown}, only {sorted(cuts)}")
    return " and ".join([f"({product.where})", *(f"({cuts[one]})" for one in product.trusted)])


def write_products(
    url: str, table: PublishTable, columns: Sequence[str] | None
) -> tuple[dict[str, str], dict[str, Any]]:
    """Write every product of the catalog whose parts lie at `url`.

    Parameters
    ----------
    url : str
    table : PublishTable
    columns : sequence of str, optional
        Of the catalog; all of the parts' if not given.

    Returns
    -------
    objects : dict of str to str
        SHA-256 by name below `url`.
    records : dict
        By product: rows, condition, description.

    Raises
    ------
    ConfigError
        If a condition cannot be read, or names a column that is not there.
    """
    schema = read_schema(url)
    cuts = recommended_cuts(schema.names)
    kept = {
        name: list(one.columns or columns or schema.names) for name, one in table.products.items()
    }
    asked = {name: condition_of(one, cuts) for name, one in table.products.items()}
    for name in table.products:
        _check(name, [*kept[name], *_columns(name, asked[name])], schema.names)
    objects, rows = _write(url, schema, kept, asked)
    records: dict[str, Any] = {}
    for name, one in table.products.items():
        records[name] = {"rows": rows[name], "where": asked[name], "description": one.description}
        if "fits" in table.formats:
            key = f"{FOLDER}/{name}.fits"
            parts = partial(_again, url=paths.join(url, FOLDER, f"{name}.parquet"))
            chosen = pa.schema([schema.field(column) for column in kept[name]])
            objects[key] = formats.write_fits(paths.join(url, key), chosen, parts, NOTES)
    return objects, records


def _columns(name: str, condition: str) -> tuple[str, ...]:
    try:
        return columns_in(condition)
    except ValueError as error:
        raise ConfigError(f"publish.products.{name}: {error}") from error


def _check(name: str, wanted: Sequence[str], there: Sequence[str]) -> None:
    if unknown := sorted(set(wanted) - set(there)):
        raise ConfigError(f"publish.products.{name}: no columns {unknown}, only {sorted(there)}")


def _write(
    url: str, schema: pa.Schema, kept: Mapping[str, Sequence[str]], asked: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, int]]:
    """Write all products' Parquet files in one pass over the parts."""
    wanted = {column for columns in kept.values() for column in columns}
    wanted |= {column for name in asked for column in _columns(name, asked[name])}
    names = [name for name in schema.names if name in wanted]
    rows, sinks = dict.fromkeys(kept, 0), {}
    with ExitStack() as stack:
        writers = {}
        for name, columns in kept.items():
            sinks[name] = stack.enter_context(
                streams.written(paths.join(url, FOLDER, f"{name}.parquet"))
            )
            chosen = pa.schema([schema.field(column) for column in columns])
            writer = pq.ParquetWriter(sinks[name], chosen, compression="zstd")
            writers[name] = stack.enter_context(writer)
        for part in iterate_parts(url, names) if kept else ():
            for name, columns in kept.items():
                found = part.filter(pa.array(_chosen(part, name, asked[name]))).select(columns)
                if found.num_rows:
                    writers[name].write_table(found)
                rows[name] += found.num_rows
    return {f"{FOLDER}/{name}.parquet": sink.sha256 for name, sink in sinks.items()}, rows


def _chosen(part: pa.Table, name: str, condition: str) -> Any:
    columns = {one: part[one].to_numpy() for one in _columns(name, condition)}
    try:
        return where(condition, columns)
    except ValueError as error:
        raise ConfigError(f"publish.products.{name}: {error}") from error


def _again(columns: Sequence[str] | None, url: str) -> Iterator[pa.Table]:
    with streams.opened(url) as source, pq.ParquetFile(source) as file:
        names = None if columns is None else list(columns)
        for batch in file.iter_batches(formats.ROW_GROUP_ROWS, columns=names):
            yield pa.Table.from_batches([batch])
