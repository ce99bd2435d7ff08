"""``[publish]``, ``[report]`` and ``[engine]``: what comes out, and who works."""

from pydantic import Field, field_validator

from scalespec.config.table import Table


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
    isochrones: str = ""
    """Isochrones to draw over Kiel diagrams: a grid as of ``[ages]``, or MIST's CSV of one age."""
    isochrone_gyr: float = Field(default=7.0, gt=0)
    """Their age, as near as the file has it."""
    isochrone_fe_h: tuple[float, ...] = (-1.0, 0.0)
    """Their metallicities, as near as the file has them; empty: all."""
    worker_hour: float = Field(default=0.0, ge=0)
    """What a worker costs by the hour, in any currency: the page then says what each stage cost."""


class DaskTable(Table):
    """``[engine.dask]``: without an address, a local cluster of real processes."""

    address: str = ""
    """Of a running scheduler, as ``tcp://host:8786`` (``tls://`` where it encrypts), or a scheduler
    file, ``file:///...json``; ``auto`` takes the address that ``DASK_SCHEDULER_ADDRESS`` says."""
    workers: int = Field(default=2, ge=1)
    """Local worker processes, one thread each; at an address, threads to wait for."""
    wait_seconds: float = Field(default=0.0, ge=0)
    """How long to wait at an address until so many workers have joined."""


class RayTable(Table):
    """``[engine.ray]``: without an address, a local Ray."""

    address: str = ""
    """Of a running head, as ``host:6379``; ``auto`` takes the Ray that ``RAY_ADDRESS`` says, or the
    one that runs on this machine."""
    workers: int = Field(default=2, ge=1)
    """Actors, and training workers."""
    wait_seconds: float = Field(default=0.0, ge=0)
    """How long to wait at an address until the nodes that have joined hold so many workers; an
    autoscaler is told. Blocks are then done by those that are there. A training, which wants all at
    once, waits as long again, then ends; for places that others hold it waits ten minutes."""
    gpus_per_worker: float = Field(default=0.0, ge=0)
    """GPUs each training worker, or actor that computes with an emulator or a network, holds: a
    part of one, or a whole number. Models that compete (``[compare]``) learn on the processor."""

    @field_validator("gpus_per_worker")
    @classmethod
    def _whole_or_part(cls, value: float) -> float:
        if value > 1 and value != round(value):
            raise ValueError(f"{value:g}: Ray shares one GPU, or gives whole ones: take 0.5 or 2")
        return value


class EngineTable(Table):
    """``[engine]``: who runs the blocks."""

    dask: DaskTable = DaskTable()
    ray: RayTable = RayTable()
