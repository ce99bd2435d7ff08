"""The catalog's columns as a page: types, units, UCDs, what null is, flags, cuts, what made it."""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from scalespec.config import RunConfig
from scalespec.stages.columns import NOTES
from scalespec.stages.page import Cell, folded, heading, page, paragraph, table
from scalespec.store import paths
from scalespec.store.fits_table import fact

NAME = "data_model.html"
NULLS = {
    "float": "null in Parquet, HATS and VOTable; NaN in FITS",
    "integer": "never null; -1 where there is nothing to say (TNULL in FITS)",
    "flags": "never null; 0 says that nothing is wrong",
    "string": "never null; empty where there is nothing to say",
    "list": "null as a whole where there is no fit; NaN, or -32768 for integers, in FITS",
}
"""How each kind of column says that a value is missing."""
FILES = {
    "catalog.parquet": "Parquet: pandas, Polars, DuckDB, PyArrow, Astropy",
    "catalog.fits": "FITS binary table: Astropy, TOPCAT, fitsio",
    "catalog.vot": "VOTable 1.4, BINARY2: TOPCAT, Astropy, pyvo",
    "hats": "HATS, cut by HEALPix: LSDB; rows without a position are left out",
}
RECOMMENDED = (
    "The cut that we would use for one label: it was fitted, spectrum and fit carry no flag but "
    "such as are of other labels, and it neither ended on the edge of the model's range nor is as "
    "much the prior's word as the spectrum's. Each is a condition of this package's run files and, "
    "with isnan, of DuckDB."
)


def kind_of(field: pa.Field) -> str:
    """Return which of `NULLS` holds for a column.

    Examples
    --------
    >>> kind_of(pa.field("at_bound", pa.uint64())), kind_of(pa.field("teff", pa.float32()))
    ('flags', 'float')
    """
    if pa.types.is_fixed_size_list(field.type):
        return "list"
    if pa.types.is_floating(field.type):
        return "float"
    if pa.types.is_unsigned_integer(field.type):
        return "flags"
    return "integer" if pa.types.is_integer(field.type) else "string"


def write_data_model(
    config: RunConfig, url: str, schema: pa.Schema, facts: Mapping[str, Any]
) -> dict[str, str]:
    """Write the page beside the catalog; return its SHA-256 by name.

    Parameters
    ----------
    config : RunConfig
    url : str
        The catalog's folder.
    schema : pa.Schema
        Of the catalog.
    facts : mapping
        ``rows``, ``files``, ``cuts`` by label, ``products``, ``provenance``.
    """
    sections = [
        ("Files", _files(facts)),
        ("Columns", _columns(schema)),
        ("Missing values", table(["kind", "how it is said"], list(NULLS.items()))),
        ("Flags", _flags(schema)),
        ("Recommended cuts", _cuts(facts["cuts"])),
        ("Products", _products(facts["products"])),
        ("Provenance", _provenance(facts["provenance"])),
    ]
    html = page(f"{config.run.name}: data model", f"{facts['rows']:,} rows", sections)
    paths.write_bytes(paths.join(url, NAME), html.encode())
    return {NAME: paths.sha256(html.encode())}


def _files(facts: Mapping[str, Any]) -> str:
    return table(["file", "what opens it"], [(name, FILES[name]) for name in facts["files"]])


def _columns(schema: pa.Schema) -> str:
    rows: list[tuple[Cell, ...]] = [
        (f.name, str(f.type), fact(f, "unit"), fact(f, "ucd"), kind_of(f), fact(f, "description"))
        for f in schema
    ]
    return table(["column", "type", "unit", "UCD", "kind", "what it is"], rows)


def _flags(schema: pa.Schema) -> str:
    html = ""
    for name in (one for one in NOTES if one in schema.names):
        html += heading(name) + table(["bit", "what it says"], list(NOTES[name].items()))
    if not html:
        text = "The columns chosen for this catalog hold no flags."
        return paragraph(text, kind="quiet")
    return html


def _cuts(cuts: Mapping[str, str]) -> str:
    if not cuts:
        return paragraph("No label was fitted.", kind="quiet")
    rows = list(cuts.items())
    return paragraph(RECOMMENDED, kind="quiet") + table(["label", "rows to take"], rows)


def _products(products: Mapping[str, Mapping[str, Any]]) -> str:
    if not products:
        return paragraph("The run file declares none.", kind="quiet")
    rows: list[tuple[Cell, ...]] = [
        (name, int(one["rows"]), str(one["description"]), str(one["where"]))
        for name, one in products.items()
    ]
    return table(["product", "rows", "what it is", "condition"], rows)


def _provenance(record: Mapping[str, Any]) -> str:
    stages = list(record["stages"].items())
    html = table(["stage", "digest"], stages)
    rows = [(one["url"], one["checksum"]) for one in record["models"]]
    html += heading("Models") + table(["where", "SHA-256"], rows)
    html += heading("Inputs") + paragraph(f"{record['inputs']['spectra']:,} spectra were planned.")
    versions = {"python": record["python"], **record["versions"]}
    html += folded("Package versions", json.dumps(versions, indent=1))
    return html + folded("Run file as resolved", json.dumps(record["run"], indent=1))
