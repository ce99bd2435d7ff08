"""What a store of preprocessed spectra holds, summed up: a map to committed partials, then one sum.

Principal components are made of such sums; a second map gives each spectrum's coordinates.

Partials and sum are xarray Datasets of sums, so that adding them is all there is to combining.
"""

import io
from collections.abc import Iterator, Sequence
from functools import partial, reduce

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xarray as xr

from scalespec.config import RunConfig
from scalespec.kernels.features import Components, Moments, moments, principal_components
from scalespec.plan import Block, BlockResult, Stage
from scalespec.stages.ingest import read_index
from scalespec.store import paths
from scalespec.store.catalog import write_part
from scalespec.store.committed import commit_bytes
from scalespec.store.ledger import Ledger, write_json
from scalespec.store.spectra import read_spectra

SNR_EDGES = np.concatenate([[0.0], np.geomspace(1.0, 1000.0, 31), [np.inf]])
"""Of the histogram of S/N."""
UNKNOWN = "?"
"""Class of spectra that the survey gives none."""


def block_statistics(
    spectra: xr.Dataset, classes: Sequence[str], *, with_moments: bool = False
) -> xr.Dataset:
    """Sum up one block of preprocessed spectra, by class.

    Parameters
    ----------
    spectra : xr.Dataset
        In our schema, one grid.
    classes : sequence of str
        Of each spectrum, as "K" of LAMOST's subclass K5.
    with_moments : bool
        Also what principal components are made of: memory of n_pixel².

    Returns
    -------
    xr.Dataset
        Sums: ``n`` spectra with pixels, ``rows``; ``n_good``, ``flux`` and ``flux2`` of good pixels
        by class and wavelength; ``snr`` histogram; ``bits``, pixels that carry each mask bit.
    """
    mask = spectra["mask"]
    good = spectra["ivar"] > 0
    flux = spectra["flux"].astype(np.float64).where(good, 0.0)
    by = xr.DataArray(list(classes), dims="spectrum", name="class")
    counts = xr.Dataset(
        {
            "rows": xr.ones_like(by, dtype=np.int64),
            "n": good.any("wavelength").astype(np.int64),
            "n_good": good.astype(np.int64),
            "flux": flux,
            "flux2": flux**2,
            "snr": _histogram(spectra["snr"].to_numpy()),
        }
    )
    made = counts.groupby(by).sum() if len(classes) else _no_class(counts)
    bits = [int((mask.to_numpy() >> np.uint32(b) & np.uint32(1)).sum()) for b in range(32)]
    made = made.assign(bits=("bit", np.array(bits, np.int64)), pixels=np.int64(mask.size))
    if with_moments:
        sums = moments(flux.to_numpy(), spectra["ivar"].to_numpy())
        made = made.assign(product=(("wavelength", "other"), sums.product))
    return made.drop_vars([v for v in made.coords if v not in ("class", "wavelength")])


def _histogram(snr: npt.NDArray[np.float32]) -> xr.DataArray:
    place = np.clip(np.searchsorted(SNR_EDGES, snr, side="right") - 1, 0, len(SNR_EDGES) - 2)
    one = np.zeros((len(snr), len(SNR_EDGES) - 1), np.int64)
    one[np.arange(len(snr)), place] = 1
    return xr.DataArray(one, dims=("spectrum", "snr_bin"))


def _no_class(counts: xr.Dataset) -> xr.Dataset:
    empty = counts.sum("spectrum").expand_dims({"class": [UNKNOWN]})
    return empty.isel({"class": slice(0, 0)})


def add(one: xr.Dataset, other: xr.Dataset) -> xr.Dataset:
    """Return the sums over both sets of spectra; a class that one lacks counts as 0 there."""
    first, second = xr.align(one, other, join="outer", fill_value=0)
    total: xr.Dataset = first + second
    return total


def summary(total: xr.Dataset) -> dict[str, object]:
    """Return the sums as numbers that a page shows.

    Examples
    --------
    >>> one = xr.Dataset({"flux": (("spectrum", "wavelength"), np.ones((1, 2), np.float32))})
    >>> one = one.assign(ivar=one["flux"], mask=(one["flux"] * 4).astype(np.uint32))
    >>> one = one.assign(snr=("spectrum", np.array([50.0], np.float32)))
    >>> made = summary(block_statistics(one, ["K"]))
    >>> made["spectra"], made["coverage"], made["classes"], made["bits"]
    (1, 1.0, {'K': 1}, {2: 1.0})
    """
    spectra = total["n"].sum().item()
    pixels = max(int(total["pixels"]), 1)
    bits = {b: int(n) / pixels for b, n in enumerate(total["bits"].to_numpy()) if n}
    histogram = total["snr"].sum("class").to_numpy()
    return {
        "rows": total["rows"].sum().item(),
        "spectra": spectra,
        "coverage": total["n_good"].sum().item() / pixels,
        "classes": {
            str(c): int(n) for c, n in zip(total["class"].values, total["rows"].values, strict=True)
        },
        "bits": bits,
        "snr_median": _middle(histogram),
        "snr_edges": SNR_EDGES[:-1].tolist(),
        "snr_counts": histogram.tolist(),
    }


def _middle(histogram: npt.NDArray[np.int64]) -> float:
    """Return the median of a histogram, to the width of its bins; 0 of nothing."""
    running = np.cumsum(histogram)
    if not running[-1]:
        return 0.0
    place = int(np.searchsorted(running, running[-1] / 2))
    low, high = SNR_EDGES[place], min(SNR_EDGES[place + 1], 2 * SNR_EDGES[place] + 1)
    return float(np.sqrt(low * high)) if low > 0 else 0.5


def mean_spectra(total: xr.Dataset) -> xr.Dataset:
    """Return mean flux, its scatter from star to star, and coverage, by class and wavelength."""
    n = total["n_good"]
    some = n.where(n > 0, 1)
    mean = total["flux"] / some
    scatter = (total["flux2"] / some - mean**2).clip(min=0) ** 0.5
    coverage = n / total["rows"].where(total["rows"] > 0, 1)
    return xr.Dataset(
        {"mean": mean.where(n > 0, 0), "scatter": scatter.where(n > 0, 0), "coverage": coverage}
    )


def components_of(total: xr.Dataset, n_component: int) -> Components:
    """Return principal components of all the spectra summed up with moments.

    Raises
    ------
    ValueError
        If there are too few spectra.
    """
    good, flux = total["n_good"].sum("class"), total["flux"].sum("class")
    sums = Moments(
        good.to_numpy().astype(np.float64), (flux - good).to_numpy(), total["product"].to_numpy()
    )
    # Rows without one good pixel count as the continuum in the product and so do not count.
    return principal_components(sums, int(total["n"].sum()), n_component)


def statistics(config: RunConfig, url: str, raw: str, blocks: Sequence[Block]) -> Iterator[Stage]:
    """Yield the stage that sums up blocks of ``<url>/spectra.zarr``, then add the partials.

    Parameters
    ----------
    config : RunConfig
    url : str
        Folder of the preprocessed spectra; the sums go below it, into ``statistics``.
    raw : str
        Folder of the raw spectra, whose index gives classes; "" if there is none.
    blocks : sequence of Block
    """
    table = config.preprocess
    n_component = table.components if table else 0
    target = paths.join(url, "statistics")
    done = Ledger(url).done()
    yield Stage(
        name="statistics",
        url=target,
        blocks=[block for block in blocks if block.index in done],
        read=partial(_read, url=paths.join(url, "spectra.zarr"), raw=raw),
        compute=partial(_compute, with_moments=n_component > 0),
        write=partial(_write, url=target),
        runs_on="dask",
    )
    commits = Ledger(target).commits()
    if commits:
        parts = (_load(target, commits[index]) for index in sorted(commits))
        _keep(target, reduce(add, parts), n_component)
    if commits and n_component:
        yield _scores_stage(url, target, [block for block in blocks if block.index in commits])


def _scores_stage(url: str, target: str, blocks: Sequence[Block]) -> Stage:
    """Return the stage that finds each spectrum's coordinates along the components."""
    basis = paths.read_bytes(paths.join(target, "components.npz"))
    # Other spectra, other components, other coordinates.
    scores = paths.join(target, "scores", paths.sha256(basis)[:16])
    return Stage(
        name="components",
        url=scores,
        blocks=blocks,
        read=partial(_read_pixels, url=paths.join(url, "spectra.zarr")),
        compute=_scores,
        write=partial(_write_scores, url=scores),
        runs_on="dask",
        setup=partial(_components, target),
    )


def _components(url: str) -> Components:
    found = _from_bytes(paths.read_bytes(paths.join(url, "components.npz")))
    mean, vectors, variance = (found[n].to_numpy() for n in ("mean", "vectors", "variance"))
    return Components(mean, vectors, variance, float(found["total_variance"]))


def _read_pixels(block: Block, url: str) -> tuple[Block, xr.Dataset]:
    return block, read_spectra(url, block.start, block.stop, names=("flux", "ivar"))


def _scores(basis: Components, read: tuple[Block, xr.Dataset]) -> pa.Table:
    """Return row and coordinates; those of a spectrum without information are 0."""
    block, spectra = read
    made = basis.project(spectra["flux"].to_numpy(), spectra["ivar"].to_numpy())
    flat = pa.array(made.astype(np.float32).ravel())
    scores = pa.FixedSizeListArray.from_arrays(flat, made.shape[1])
    return pa.table({"row": np.arange(block.start, block.stop), "scores": scores})


def _write_scores(block: Block, made: pa.Table, url: str) -> BlockResult:
    return write_part(url, block, made, counts={"scores": made.num_rows})


def _read(block: Block, url: str, raw: str) -> tuple[xr.Dataset, list[str]]:
    spectra = read_spectra(url, block.start, block.stop)
    classes = [UNKNOWN] * block.size
    if raw:
        index = read_index(raw, block)
        if "subclass" in index:
            classes = [str(name)[:1] or UNKNOWN for name in index["subclass"].fillna("")]
    return spectra, classes


def _compute(_: None, data: tuple[xr.Dataset, list[str]], with_moments: bool) -> xr.Dataset:
    return block_statistics(*data, with_moments=with_moments)


def _write(block: Block, made: xr.Dataset, url: str) -> BlockResult:
    return commit_bytes(url, block, _to_bytes(made), "npz")


def _to_bytes(made: xr.Dataset) -> bytes:
    buffer = io.BytesIO()
    arrays = {str(n): v.to_numpy() for n, v in made.variables.items()}
    arrays = {n: a.astype(str) if a.dtype == object else a for n, a in arrays.items()}
    arrays |= {f"dims {n}": np.array(v.dims, dtype=str) for n, v in made.variables.items()}
    # Sums of products are noise to their last bit: packing 100 MB of them takes three seconds.
    save = np.savez if "product" in made else np.savez_compressed
    save(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _from_bytes(data: bytes) -> xr.Dataset:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        names = [name for name in file.files if not name.startswith("dims ")]
        variables = {n: (tuple(map(str, file[f"dims {n}"])), file[n]) for n in names}
    coords = {n: v for n, v in variables.items() if v[0] == (n,)}
    return xr.Dataset({n: v for n, v in variables.items() if n not in coords}, coords)


def _load(url: str, result: BlockResult) -> xr.Dataset:
    return _from_bytes(paths.read_bytes(paths.join(url, next(iter(result.objects)))))


def _keep(url: str, total: xr.Dataset, n_component: int) -> None:
    """Store the sum and what it says; the same blocks give the same numbers."""
    write_json(paths.join(url, "summary.json"), summary(total))
    paths.write_bytes(paths.join(url, "mean_spectra.npz"), _to_bytes(mean_spectra(total)))
    if n_component:
        found = components_of(total, n_component)
        made = xr.Dataset(
            {
                "mean": ("wavelength", found.mean),
                "vectors": (("component", "wavelength"), found.vectors),
                "variance": ("component", found.variance),
                "total_variance": ((), np.float64(found.total_variance)),
            },
            {"wavelength": total["wavelength"]},
        )
        paths.write_bytes(paths.join(url, "components.npz"), _to_bytes(made))


def read_statistics(url: str, name: str) -> xr.Dataset:
    """Read ``mean_spectra`` or ``components`` of a folder of preprocessed spectra.

    Raises
    ------
    StoreError
        If it is not there: set ``[preprocess] statistics``.
    """
    return _from_bytes(paths.read_bytes(paths.join(url, "statistics", f"{name}.npz")))
