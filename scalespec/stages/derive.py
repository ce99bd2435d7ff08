"""What repeats, colors and residuals tell: variable velocities, E(B-V), anomalies. Block by block.

Visits of all stars, and residuals of a sample of spectra, are committed partials; their sums are a
table of stars and what is usual; a last map puts a row's own beside it.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from scalespec.config import DeriveTable, RunConfig
from scalespec.errors import ConfigError, StageError
from scalespec.kernels.photometry import reddening
from scalespec.kernels.repeats import plate_zero_points
from scalespec.kernels.variability import variability
from scalespec.plan import Block, BlockResult, Stage
from scalespec.stages import folders
from scalespec.stages.anomalies import Usual, anomaly, learn_usual, residuals
from scalespec.stages.emulators import wanted_device
from scalespec.stages.ingest import read_index
from scalespec.stages.inspect import Fitted, load_fitted
from scalespec.stages.samples import Rows, scrambled
from scalespec.stages.standing import blocks_done, whole
from scalespec.stages.stars import fitted_labels, star_numbers
from scalespec.store import paths
from scalespec.store.batches import column_names
from scalespec.store.catalog import read_part, read_parts, read_row_range, write_part
from scalespec.store.committed import commit_bytes
from scalespec.store.ledger import Ledger, write_json
from scalespec.store.spectra import memory_bytes, read_spectra

Array = npt.NDArray[Any]
Columns = dict[str, Array]

VARIABLE, BY_ROW, USUAL = "variability.parquet", "visits.parquet", "usual.npz"
ANOMALIES = "anomalies.json"
UNITS = {"mean": "km/s", "mean_err": "km/s", "scatter": "km/s", "difference": "km/s"}


@dataclass(frozen=True)
class Sources:
    """What blocks are read from, found once: to name a folder, whole tables upstream are read.

    Attributes
    ----------
    store, best : str
        The store of spectra, the folder of fits.
    raw, color : str
        The folder of raw spectra, the matches with a color; "" where they are not asked for.
    """

    store: str
    best: str
    raw: str = ""
    color: str = ""


def derive(config: RunConfig) -> Iterator[Stage]:
    """Yield the stages that gather visits and residuals, and put columns beside the labels.

    Raises
    ------
    ConfigError
        If a column that the run file names is not there.
    StageError
        If blocks failed whose visits or residuals would lack.
    """
    table = config.derive
    if table is None:
        raise ConfigError("the run file has no [derive] table")
    _check(config, table)
    url = folders.derived_url(config)
    sources = _sources(config, table)
    blocks = blocks_done(config, sources.best)
    visits, sample = paths.join(url, "visits"), paths.join(url, "sample")
    yield Stage(
        name="derive visits",
        url=visits,
        blocks=blocks,
        read=partial(_read_visits, sources=sources, table=table),
        compute=_as_is,
        write=partial(_write_table, url=visits),
        runs_on="dask",
    )
    if not whole(visits, len(blocks)):
        return
    tabulate(url, table)
    if table.anomaly_sample:
        share = table.anomaly_sample / max(sum(block.size for block in blocks), 1)
        yield Stage(
            name="derive sample",
            url=sample,
            blocks=blocks,
            read=partial(_read_spectra, sources=sources, share=share),
            compute=_residuals,
            write=partial(_write_residuals, url=sample),
            runs_on="ray",
            setup=partial(load_fitted, config, sources.store, wanted_device(config)),
            gpus=config.engine.ray.gpus_per_worker,
        )
        if not whole(sample, len(blocks)):
            return
        _learn(url, sample, table)
    yield _last_stage(config, sources, url, blocks)
    if table.anomaly_sample and whole(url, len(blocks)):
        list_anomalies(url, table.anomaly_list)


def _sources(config: RunConfig, table: DeriveTable) -> Sources:
    catalog = table.color.partition(".")[0]
    matches = folders.matches_url(config, catalog) if catalog else ""
    return Sources(
        store=folders.spectra_store(config),
        best=folders.best_url(config),
        raw=folders.raw_url(config) if _index_columns(table) else "",
        color=paths.join(matches, "matches.parquet") if matches else "",
    )


def _index_columns(table: DeriveTable) -> list[str]:
    """Return the columns that the strings beside raw spectra must have."""
    return [name for name in (table.star_id, table.plate) if name and name != "source_id"]


def _last_stage(config: RunConfig, sources: Sources, url: str, blocks: list[Block]) -> Stage:
    table = config.derive or DeriveTable()
    n_pixel = read_spectra(sources.store, 0, 0).sizes["wavelength"] if table.anomaly_sample else 1
    return Stage(
        name="derive",
        url=url,
        blocks=blocks,
        read=partial(_read_block, sources=sources, table=table, url=url),
        compute=partial(_derived, table=table),
        write=partial(_write_table, url=url),
        runs_on="ray" if table.anomaly_sample else "dask",
        setup=partial(_load, config, sources.store, url) if table.anomaly_sample else None,
        gpus=config.engine.ray.gpus_per_worker if table.anomaly_sample else 0.0,
        memory_bytes=memory_bytes(config.run.spectra_per_block, n_pixel),
    )


def _check(config: RunConfig, table: DeriveTable) -> None:
    if not table.color:
        return
    catalog, _, column = table.color.partition(".")
    if catalog not in (config.crossmatch or {}):
        raise ConfigError(f"derive.color wants a [crossmatch.{catalog}] table")
    url = paths.join(folders.matches_url(config, catalog), "matches.parquet")
    if column not in (found := column_names(url)):
        raise ConfigError(f"derive.color: no column {column!r} among {sorted(found)}")


def _read_visits(block: Block, sources: Sources, table: DeriveTable) -> pa.Table:
    """Return row, star, plate, velocity and its error of a block's good fits."""
    best = _best(block, sources)
    rows = Rows(best, fitted_labels(list(best)))
    star = read_spectra(sources.store, block.start, block.stop, names=("source_id",))["source_id"]
    ids = star.to_numpy()
    plate = np.zeros(block.size, np.int64)
    if named := _index_columns(table):
        index = read_index(sources.raw, block)
        if lacking := sorted(set(named) - set(index)):
            raise ConfigError(f"derive: no columns {lacking}, only {list(index)}")
        ids = index[table.star_id].to_numpy() if table.star_id in named else ids
        plate = star_numbers(index[table.plate].to_numpy()) if table.plate else plate
    made = {"row": best["row"], "star": star_numbers(ids), "plate": plate}
    made |= {name: best[name].astype(np.float32) for name in ("rv", "rv_err")}
    return pa.table(made).filter(pa.array(rows.good & (made["star"] > 0)))


def _best(block: Block, sources: Sources) -> Columns:
    table = read_part(sources.best, block)
    return {n: table[n].to_numpy() for n in table.column_names if n != "label_cov"}


def _as_is(_: Any, table: pa.Table) -> pa.Table:
    return table


def _write_table(block: Block, table: pa.Table, url: str) -> BlockResult:
    return write_part(url, block, table, counts={"rows": table.num_rows})


def tabulate(url: str, table: DeriveTable) -> None:
    """Write the table of stars with several visits, and the same by row of the store.

    ``variability.parquet``: star, n_visit, mean, mean_err, scatter, difference [km/s], p_value.
    """
    if paths.exists(paths.join(url, BY_ROW)):
        return
    visits = read_parts(paths.join(url, "visits"))
    row, star, plate = (visits[name].to_numpy() for name in ("row", "star", "plate"))
    rv, error = (visits[name].to_numpy().astype(np.float64) for name in ("rv", "rv_err"))
    if table.plate and len(row):
        _, number = np.unique(plate, return_inverse=True)
        number = np.where(plate < 0, -1, number)
        zero, _, _ = plate_zero_points(rv, error, star, number)
        rv = rv - np.where(number < 0, 0.0, zero[number])
    found = variability(star, rv, error, floor=table.rv_floor_kms)
    names = ("star", "n_visit", "mean", "mean_err", "scatter", "difference", "p_value")
    made = {name: getattr(found, name) for name in names}
    fields = [
        pa.field(n, pa.array(v).type, metadata={"unit": UNITS.get(n, "")}) for n, v in made.items()
    ]
    schema = pa.schema(fields, metadata={"rv_floor_kms": f"{found.floor:.4g}"})
    _put(paths.join(url, VARIABLE), pa.table(list(made.values()), schema=schema))
    order = np.argsort(row, kind="stable")
    at = np.searchsorted(found.star, star[order])
    several = at < len(found.star)
    several[several] = found.star[at[several]] == star[order][several]
    mine = at[several]
    by_row = {"row": row[order][several], "n_visit": found.n_visit[mine]}
    by_row |= {"rv_scatter": found.scatter[mine], "rv_p_value": found.p_value[mine]}
    _put(paths.join(url, BY_ROW), pa.table(by_row))


def _put(url: str, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=1 << 16)
    paths.write_bytes(url, buffer.getvalue())


def _read_spectra(block: Block, sources: Sources, share: float = 1.0) -> tuple[Any, Columns]:
    """Read a block's spectra and fits; with a `share`, those of its good ones that are drawn."""
    best = _best(block, sources)
    spectra = read_spectra(sources.store, block.start, block.stop)
    if share < 1:
        drawn = scrambled(best["row"]) < np.uint64(share * (2**64 - 2**11))
        rows = np.flatnonzero(drawn & Rows(best, fitted_labels(list(best))).good)
        return spectra.isel(spectrum=rows), {name: v[rows] for name, v in best.items()}
    return spectra, best


def _residuals(fitted: list[Fitted], data: tuple[Any, Columns]) -> npt.NDArray[np.float32]:
    return residuals(fitted, *data)


def _write_residuals(block: Block, made: npt.NDArray[np.float32], url: str) -> BlockResult:
    buffer = io.BytesIO()
    np.save(buffer, made.astype(np.float16))
    n = len(made)
    return commit_bytes(url, block, buffer.getvalue(), "npy", rows=n, counts={"sampled": n})


def _learn(url: str, sample: str, table: DeriveTable) -> None:
    target = paths.join(url, USUAL)
    if paths.exists(target):
        return
    parts = [
        np.load(io.BytesIO(paths.read_bytes(paths.join(sample, next(iter(result.objects))))))
        for _, result in sorted(Ledger(sample).commits().items())
    ]
    try:
        usual = learn_usual(np.concatenate(parts).astype(np.float32), table.anomaly_components)
    except ValueError as error:
        raise StageError(f"derive.anomaly_sample = {table.anomaly_sample}: {error}") from error
    paths.write_bytes(target, usual.to_bytes())


def _load(config: RunConfig, store: str, url: str) -> tuple[list[Fitted], Usual]:
    usual = Usual.from_bytes(paths.read_bytes(paths.join(url, USUAL)))
    return load_fitted(config, store, wanted_device(config)), usual


def _read_block(
    block: Block, sources: Sources, table: DeriveTable, url: str
) -> tuple[Columns, pa.Table, Columns, Any]:
    """Read a block's fit, its rows' visits, their color, and spectra if anomalies are wanted."""
    visits = read_row_range(paths.join(url, BY_ROW), block)
    color: Columns = {}
    if table.color:
        found = read_row_range(sources.color, block)
        name = table.color.partition(".")[2]
        values = np.full(block.size, np.nan)
        values[found["row"].to_numpy() - block.start] = found[name].to_numpy()
        color["color"] = values
    if table.anomaly_sample:
        spectra, best = _read_spectra(block, sources)
        return best, visits, color, spectra
    return _best(block, sources), visits, color, None


def _derived(
    loaded: tuple[list[Fitted], Usual] | None,
    data: tuple[Columns, pa.Table, Columns, Any],
    table: DeriveTable,
) -> pa.Table:
    """Return row, obsid and what the run file asks for, NaN where there is nothing to say."""
    best, visits, color, spectra = data
    n = len(best["row"])
    made: Columns = {"row": best["row"], "obsid": best["obsid"]}
    place = visits["row"].to_numpy() - (best["row"][0] if n else 0)
    made["n_visit"] = np.ones(n, np.int32)
    made["n_visit"][place] = visits["n_visit"].to_numpy()
    for name in ("rv_scatter", "rv_p_value"):
        made[name] = np.full(n, np.nan, np.float32)
        made[name][place] = visits[name].to_numpy()
    if "color" in color:
        trusted = Rows(best, fitted_labels(list(best))).trusted("teff")
        teff = np.where(trusted, best["teff"], np.nan).astype(np.float64)
        error = best["teff_err"].astype(np.float64)
        ebv, ebv_err = reddening(teff, error, color["color"], name=table.color_name)
        made |= {"ebv": ebv.astype(np.float32), "ebv_err": ebv_err.astype(np.float32)}
    if loaded is not None:
        fitted, usual = loaded
        made["anomaly"] = anomaly(usual, residuals(fitted, spectra, best))
    return pa.table(made)


def list_anomalies(url: str, n: int) -> None:
    """Write the spectra that are least usual, the least first."""
    found = read_parts(url, ["row", "obsid", "anomaly"])
    score = np.nan_to_num(found["anomaly"].to_numpy(), nan=-np.inf)
    order = np.lexsort((found["row"].to_numpy(), -score))[:n]
    rows = found.take(pa.array(order[np.isfinite(score[order])])).to_pylist()
    kept = [row | {"anomaly": round(row["anomaly"], 4)} for row in rows]
    write_json(paths.join(url, ANOMALIES), {"anomalies": kept})
