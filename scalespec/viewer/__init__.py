"""The catalog and its stars, to browse on localhost: Bokeh pages for this machine alone."""

import importlib.util
from collections.abc import Callable

from scalespec.config import RunConfig
from scalespec.errors import ConfigError


def view(config: RunConfig, *, port: int, ready: Callable[[str], None]) -> None:
    """Serve a run's catalog and star pages on 127.0.0.1 until Ctrl-C or SIGTERM.

    Parameters
    ----------
    config : RunConfig
        A run that has published its catalog.
    port : int
        0: any that is free.
    ready : callable
        Told the address as soon as it answers.

    Raises
    ------
    ConfigError
        If bokeh is not installed, the run file publishes nothing, or the port is taken.
    StoreError
        If nothing is published yet.
    """
    if importlib.util.find_spec("bokeh") is None:
        raise ConfigError("view wants the package bokeh: pip install 'scalespec[view]'")
    from scalespec.viewer.server import serve

    serve(config, port=port, ready=ready)
