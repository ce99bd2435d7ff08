"""Where the paths of a run file lead: they start at its own folder, and buckets get options."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PATH_KEYS = frozenset(
    {
        *("workspace", "files", "catalog", "root", "library", "models", "truth", "source"),
        *("description", "teacher", "gradients", "isochrone", "isochrones", "adapt"),
    }
)
"""Keys of tables that hold paths."""
INNER_PATHS = (
    "preprocess.velocity.templates",
    "crossmatch.*.catalog",
    "crossmatch.*.training.library",
    "calibrate.pairs.catalog",
    "calibrate.clusters.catalog",
    "compare.leakage.broken",
)
"""Keys of tables within tables that do; ``*`` is any name."""


def resolve_paths(tables: dict[str, Any], base: Path, query: str) -> dict[str, Any]:
    """Return a run file's tables with absolute paths.

    Parameters
    ----------
    tables : dict
        As TOML has them.
    base : Path
        Folder of the run file.
    query : str
        Options of buckets, for URLs that have none of their own.
    """
    resolved = dict(tables)
    for name, table in tables.items():
        if name == "crossmatch":  # its keys are names of tables, "models" may be one
            continue
        # In [train] and [compare], `catalog` is the name of a crossmatch table, not a path.
        keys = PATH_KEYS - {"catalog"} if name in ("train", "compare") else PATH_KEYS
        resolved[name] = {
            key: _absolute(value, base, query, pattern=key == "files") if key in keys else value
            for key, value in table.items()
        }
    for path in INNER_PATHS:
        resolved = _with_inner(resolved, path.split("."), base, query)
    return resolved


def _with_inner(
    table: dict[str, Any], keys: Sequence[str], base: Path, query: str
) -> dict[str, Any]:
    """Return a table with the path at `keys`, a key for each table within another, absolute."""
    first, *rest = keys
    found = table if first == "*" else {first} & set(table)
    made = {
        name: _with_inner(table[name], rest, base, query)
        if rest
        else _absolute(table[name], base, query)
        for name in found
    }
    return table | made


def _absolute(value: Any, base: Path, query: str, *, pattern: bool = False) -> Any:
    """Resolve paths against the run file's folder, and give URLs of buckets their options."""
    if isinstance(value, list | tuple):
        return [_absolute(v, base, query, pattern=pattern) for v in value]
    if not isinstance(value, str) or not value:
        return value
    if "://" in value:
        return value + query if "s3://" in value and "?" not in value else value
    if value.startswith("@"):
        return "@" + os.path.normpath(base / value[1:])
    return _pattern(base, value) if pattern else os.path.normpath(base / value)


def _pattern(base: Path, value: str) -> str:
    """Return a glob whose part that is the run file's folder matches that folder alone.

    A folder named ``dr[10]`` would else stand for ``dr1`` and ``dr0``.
    """
    plain = os.path.normpath(base / value)
    escaped = os.path.normpath(Path(glob.escape(str(base))) / value)
    # A folder stands for all that lies in it only where it is written without wildcards.
    return f"{escaped}/**" if escaped != plain and Path(plain).is_dir() else escaped
