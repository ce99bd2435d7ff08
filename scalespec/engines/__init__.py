"""The only rooms that know Dask or Ray."""

from typing import Any, Literal

from scalespec.config import EngineTable

EngineName = Literal["local", "dask", "ray"]


def open_engine(name: EngineName, table: EngineTable) -> Any:
    """Start or join the engine asked for; only that one is imported.

    Parameters
    ----------
    name : {"local", "dask", "ray"}
        Which.
    table : EngineTable
        Addresses and sizes, from the run file.

    Raises
    ------
    StageError
        If nothing answers at its address.

    Examples
    --------
    >>> open_engine("local", EngineTable()).workers
    1
    """
    if name == "dask":
        from scalespec.engines.dask import DaskEngine

        return DaskEngine(table.dask)
    if name == "ray":
        from scalespec.engines.ray import RayEngine

        return RayEngine(table.ray)
    from scalespec.engines.local import LocalEngine

    return LocalEngine()
