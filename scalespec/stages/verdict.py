"""What a comparison came to, written down: tables as text, CSV and LaTeX, and a page."""

import io
import json
from typing import Any

import numpy.typing as npt
import pandas as pd

from scalespec.config.compare import CompareTable
from scalespec.stages.verdict_page import write_page
from scalespec.stages.verdict_tables import as_latex, score_table, tables_text
from scalespec.store import paths
from scalespec.store.catalog import iterate_parts, read_parts
from scalespec.store.ledger import Ledger, read_json, write_json


def read_predictions(url: str) -> pd.DataFrame:
    """Return every committed prediction of a comparison."""
    predictions: pd.DataFrame = read_parts(url).to_pandas()
    return predictions


def read_facts(url: str) -> dict[tuple[str, int], dict[str, Any]]:
    """Return (model, split) -> history, sizes, leakage and attribution."""
    found = {}
    for part in iterate_parts(url):
        facts = json.loads((part.schema.metadata or {}).get(b"facts", b"{}"))
        if part.num_rows:
            found[part["model"][0].as_py(), part["split"][0].as_py()] = facts
    return found


def written(url: str) -> bool:
    """Say whether a comparison has come to its tables."""
    return paths.exists(paths.join(url, "tables.txt"))


def read_tables(url: str) -> str:
    """Return the tables of a comparison as text.

    Raises
    ------
    StoreError
        If it is not done.
    """
    return paths.read_bytes(paths.join(url, "tables.txt")).decode()


def write_verdict(
    url: str, table: CompareTable, columns: dict[str, npt.NDArray[Any]], *, name: str, seed: int
) -> None:
    """Write tables and a page of a comparison.

    Parameters
    ----------
    url : str
        Folder with the committed predictions.
    table : CompareTable
    columns : dict of str to array
        Label columns of the store.
    name : str
        Of the run.
    seed : int
        Of the bootstrap.
    """
    commits = {str(i): result.attempt for i, result in Ledger(url).commits().items()}
    made_of = paths.join(url, "verdict.json")
    if paths.exists(made_of) and read_json(made_of) == commits:
        return  # of these very predictions
    predictions = read_predictions(url)
    tested = predictions[predictions["part"] == "test"]
    scored = score_table(tested, table, seed=seed)
    text = tables_text(scored, table)
    made = {"tables.txt": text, "tables.tex": as_latex(scored, table)}
    buffer = io.StringIO()
    scored.to_csv(buffer, index=False, float_format="%.6g")
    made["tables.csv"] = buffer.getvalue()
    more = write_page(
        url, table, (predictions, scored, read_facts(url)), name=name, columns=columns
    )
    made["tables.txt"] += more
    for file, content in made.items():
        paths.write_bytes(paths.join(url, file), content.encode())
    write_json(made_of, commits)
