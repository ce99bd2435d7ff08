"""The Zarr store of a run's spectra: made for its plan's first segment, grown for the others."""

from collections.abc import Mapping

import xarray as xr

from scalespec.config import RunConfig
from scalespec.stages.folders import planned_segments
from scalespec.store.encoding import Encoding
from scalespec.store.spectra import create_arms, grow_spectra


def make_store(config: RunConfig, url: str, groups: Mapping[str, xr.Dataset]) -> None:
    """Make the store at `url`, with a row for every planned spectrum; one that is there may grow.

    Parameters
    ----------
    config : RunConfig
        Its inputs are planned.
    url : str
        A ``spectra.zarr``.
    groups : mapping of str to xr.Dataset
        Templates of any number of rows: "" the root, and the arms.
    """
    ends = [segment.stop for segment in planned_segments(config)]
    create_arms(
        url,
        groups,
        n_spectrum=ends[-1],
        shard_rows=config.run.spectra_per_block,
        encoding=encoding(config),
    )
    grow_spectra(url, ends)


def encoding(config: RunConfig) -> Encoding:
    """Return how the run keeps its pixels."""
    return Encoding(config.store.codec, config.store.lossy_bits)
