"""What a table of matches is and was made of: ``matches.json`` beside it, written last.

Folders of later stages are named by the table's checksum, some of them many times a run: the table
of 10^7 matches has gigabytes, its record a line.
"""

from functools import lru_cache

import numpy as np
import pandas as pd

from scalespec.config import digest
from scalespec.plan import Block
from scalespec.store import paths, streams
from scalespec.store.catalog import read_row_range
from scalespec.store.ledger import read_json, write_json
from scalespec.store.listing import Entry, entry

TABLE, RECORD = "matches.parquet", "matches.json"


def checksum(url: str) -> str:
    """Return the SHA-256 of the table of matches in the folder `url`; "" if there is none."""
    table = entry(paths.join(url, TABLE))
    if table.size < 0:
        return ""
    record = _record(url)
    if record.get("bytes") == table.size:
        return str(record["sha256"])
    return _hashed(table)  # of an older version


@lru_cache(maxsize=64)
def _hashed(table: Entry) -> str:
    """Return the checksum of a table without a record: read once a process, while it stays so."""
    return streams.sha256(table.url)


def _record(url: str) -> dict[str, object]:
    where = paths.join(url, RECORD)
    return read_json(where) if paths.exists(where) else {}


def rows_checksum(url: str, stop: int) -> str:
    """Return what tells the table's rows before row `stop` of the spectra, whatever follows."""
    return _hashed_rows(url, checksum(url), stop)


@lru_cache(maxsize=64)
def _hashed_rows(url: str, _checksum: str, stop: int) -> str:
    """Return the checksum of some rows; read once a process, while the table stays so."""
    rows = read_row_range(paths.join(url, TABLE), Block("spectrum", 0, 0, stop)).to_pandas()
    hashes = pd.util.hash_pandas_object(rows, index=False).to_numpy()
    return digest([str(name) for name in rows], paths.sha256(hashes.view(np.uint8)))


def stands(url: str, made_of: str, *others: str) -> bool:
    """Whether the table is there, made of this and no other, and so are the files beside it."""
    table = entry(paths.join(url, TABLE))
    record = _record(url)
    same = record.get("made_of") == made_of and record.get("bytes") == table.size
    return same and all(paths.exists(paths.join(url, name)) for name in others)


def begin(url: str) -> None:
    """Take the record back before the table is written: what it says will not hold any more."""
    paths.delete(paths.join(url, RECORD))


def finish(url: str, made_of: str) -> None:
    """Record what the table is, now that it and all beside it are written."""
    table = entry(paths.join(url, TABLE))
    record = {"sha256": streams.sha256(table.url), "bytes": table.size, "made_of": made_of}
    write_json(paths.join(url, RECORD), record)
