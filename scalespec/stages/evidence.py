"""What a run has come to, read once: the catalog's columns, the models, where the rest lies."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.types as patypes

from scalespec.config import RunConfig
from scalespec.errors import ScalespecError
from scalespec.optimize.result import FitStatus
from scalespec.stages import folders
from scalespec.stages.columns import label_names
from scalespec.stages.inspect import Fitted, load_fitted
from scalespec.store import paths
from scalespec.store.catalog import read_parts, read_schema

Array = npt.NDArray[Any]
Columns = dict[str, Array]


@dataclass(frozen=True)
class Evidence:
    """What a run has come to: the catalog's columns (n rows), and where the rest lies.

    Attributes
    ----------
    config : RunConfig
    columns : dict of str to (n,) array
        Numeric columns of the catalog.
    planned : int
        Spectra of the plan.
    """

    config: RunConfig
    columns: Columns
    planned: int

    @cached_property
    def labels(self) -> list[str]:
        """Labels that were fitted."""
        return [n for n in label_names(self.columns) if f"first_{n}" in self.columns]

    @cached_property
    def fitted(self) -> Array:
        """(n,) bool: rows that hold labels."""
        if not self.labels:
            return np.zeros(len(self.columns["row"]), bool)
        return np.isfinite(self.columns[self.labels[0]])

    @cached_property
    def good(self) -> Array:
        """(n,) bool: rows that hold labels and no flag, but that a label may be at its bound.

        A model of twenty labels has one or other at its bound in most stars of low S/N, and the
        rest of them none the worse for it.
        """
        flags = np.uint32(~int(FitStatus.AT_BOUND) & 0xFFFFFFFF)
        good: Array = self.fitted & (self.columns["fit_status"] & flags == 0)
        return good

    def trusted(self, *labels: str) -> Array:
        """(n,) bool: good rows where none of these labels is at its bound."""
        known = [self.labels.index(name) for name in labels if name in self.labels]
        bits = np.uint64(sum(1 << k for k in known))
        trusted: Array = self.good & (self.columns["at_bound"].astype(np.uint64) & bits == 0)
        return trusted

    @property
    def store(self) -> str:
        """The preprocessed spectra."""
        return paths.join(folders.spectra_url(self.config), "spectra.zarr")

    @cached_property
    def models(self) -> list[Fitted]:
        """The run's models, as the fit used them."""
        return load_fitted(self.config, self.store)


def read_evidence(config: RunConfig) -> Evidence:
    """Read the numeric columns of the run's catalog: about 0.4 kB a row, without covariances.

    Raises
    ------
    StoreError
        If nothing is published yet.
    """
    url = folders.catalog_url(config)
    planned = sum(segment.n for segment in folders.planned_segments(config))
    schema = read_schema(url)
    names = [f.name for f in schema if patypes.is_integer(f.type) or patypes.is_floating(f.type)]
    parts = read_parts(url, names)
    return Evidence(config, {name: parts[name].to_numpy() for name in names}, planned)


def stage_folders(config: RunConfig) -> dict[str, str]:
    """Return the folders of the run's stages that are known, by name."""
    calls: dict[str, Callable[[], str]] = {
        "raw": partial(folders.raw_url, config),
        "spectra": partial(folders.spectra_url, config),
    }
    for name in config.crossmatch or {}:
        calls[f"matches/{name}"] = partial(folders.matches_url, config, name)
        calls[f"matches/{name}/train"] = partial(folders.training_url, config, name)
    calls |= {
        "library": partial(folders.library_url, config),
        "model": partial(folders.model_url, config),
        "first": partial(folders.first_url, config),
        "best": partial(folders.best_url, config),
        "catalog": partial(folders.catalog_url, config),
    }
    known = {}
    for name, call in calls.items():
        try:
            known[name] = call()
        except ScalespecError:
            continue
    return known
