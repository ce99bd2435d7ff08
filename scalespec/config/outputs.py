"""``[publish]``, ``[report]`` and ``[engine]``: what comes out, and who works."""

from pydantic import Field

from scalespec.config.table import Table


class PublishTable(Table):
    """``[publish]``: one catalog."""

    columns: tuple[str, ...] = ()
    """Columns of the catalog; empty: all of them. ``labels`` and ``label_cov`` stand for groups."""


class ReportTable(Table):
    """``[report]``: one page a person can look at."""

    references: tuple[str, ...] = ()
    """Names of ``[crossmatch.NAME]`` tables to compare with; empty: all."""
    truth: str = ""
    """Table of true labels by ``obsid`` (a mock survey has one): adds pulls."""
    truth_where: str = ""
    """Which stars are compared with the truth, by columns of its table, as ``binary == 0``."""
    snr_min: float = Field(default=30.0, ge=0)
    """The pulls and scatters quoted are of spectra above this S/N."""


class DaskTable(Table):
    """``[engine.dask]``: without an address, a local cluster of real processes."""

    address: str = ""
    """Of a running scheduler, as ``tcp://host:8786``, or a scheduler file, ``file:///...json``."""
    workers: int = Field(default=2, ge=1)
    """Local worker processes, one thread each."""


class RayTable(Table):
    """``[engine.ray]``: without an address, a local Ray."""

    address: str = ""
    """Of a running head, as ``host:6379``, or ``auto``."""
    workers: int = Field(default=2, ge=1)
    """Actors, and training workers."""
    gpus_per_worker: float = Field(default=0.0, ge=0)
    """GPUs each actor or training worker holds."""


class EngineTable(Table):
    """``[engine]``: who runs the blocks."""

    dask: DaskTable = DaskTable()
    ray: RayTable = RayTable()
