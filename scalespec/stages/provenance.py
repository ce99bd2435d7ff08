"""What made a catalog: run file, digests, versions, models, inputs."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from scalespec.config import RunConfig, digest
from scalespec.stages import folders
from scalespec.stages.evidence import stage_folders
from scalespec.store import paths
from scalespec.store.ledger import Ledger, write_json
from scalespec.store.model import checksum

NAME = "provenance.json"
PACKAGES = (
    "scalespec",
    "numpy",
    "torch",
    "zarr",
    "xarray",
    "astropy",
    "pyarrow",
    "pandas",
    "scipy",
)
"""Whose versions are kept; not those of engines, which change no byte."""


def provenance(config: RunConfig) -> dict[str, Any]:
    """Return all that a catalog's rows depend on, in plain types."""
    segments = folders.planned_segments(config)
    return {
        "run": config.model_dump(mode="json"),
        "run_digest": digest(config),
        "stages": {name: url.rpartition("/")[2] for name, url in stage_folders(config).items()},
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "models": [{"url": url, "checksum": checksum(url)} for url in folders.model_urls(config)],
        "inputs": {
            "spectra": sum(segment.n for segment in segments),
            "lists": [segment.sha256 for segment in segments],
            "manifest": _input_manifest(config),
        },
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _input_manifest(config: RunConfig) -> dict[str, str]:
    """Return the commits' checksums of the raw store's index: which file made which row."""
    raw = folders.raw_url(config)
    commits = Ledger(raw).commits()
    return {
        paths.join(raw, key): sha
        for _, result in sorted(commits.items())
        for key, sha in result.objects.items()
        if key.startswith("index/")
    }


def write_provenance(config: RunConfig, url: str) -> dict[str, str]:
    """Write it beside the catalog; return its SHA-256 by name."""
    target = paths.join(url, NAME)
    write_json(target, provenance(config))
    return {NAME: paths.sha256(paths.read_bytes(target))}
