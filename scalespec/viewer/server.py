"""A Bokeh server that this machine alone can reach."""

import errno
import signal
import socket
from collections.abc import Callable
from functools import partial

from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.resources import Resources
from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from bokeh.server.views.static_handler import StaticHandler
from bokeh.settings import settings
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets

from scalespec.config import RunConfig
from scalespec.errors import ConfigError
from scalespec.stages import folders
from scalespec.store.catalog import catalog_folder
from scalespec.viewer.pages import Viewed, catalog_page, star_page

LOOPBACK = "127.0.0.1"
SCRIPTS = ["bokeh", "bokeh-widgets"]
"""What the pages need of Bokeh's scripts; no formulas, so nothing of MathJax."""
PAGES = {"/": catalog_page, "/star": star_page}


class LocalTornado(BokehTornado):  # type: ignore[misc]
    """Pages whose scripts come from here, whatever the environment says."""

    def resources(self, absolute_url: str | bool | None = None) -> Resources:  # noqa: ARG002
        """Return where the scripts are, from the root of this very server."""
        version = StaticHandler.append_version
        return Resources("server", root_url="/", components=SCRIPTS, path_versioner=version)


def read_viewed(config: RunConfig) -> Viewed:
    """Read what the pages show.

    Raises
    ------
    ConfigError
        If the run file publishes nothing.
    StoreError
        If nothing is published yet, or something of it is missing or damaged.
    """
    if config.publish is None:
        raise ConfigError("view shows a published catalog: the run file has no [publish] table")
    catalog_folder(folders.catalog_url(config))
    return Viewed.of(config)


def bind(port: int) -> list[socket.socket]:
    """Take a port of this machine for itself.

    Raises
    ------
    ConfigError
        If it cannot be had.
    """
    try:
        found: list[socket.socket] = bind_sockets(port, address=LOOPBACK)
    except OSError as error:
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be had ({error})"
        raise ConfigError(
            f"--port {port} {why}: choose another, or --port 0 for any that is free"
        ) from error
    return found


def make_server(viewed: Viewed, sockets: list[socket.socket]) -> BaseServer:
    """Return a server on the current loop that answers at the sockets; it is not started."""
    port = sockets[0].getsockname()[1]
    origins = [f"{LOOPBACK}:{port}", f"localhost:{port}"]
    settings.allowed_ws_origin.set_value(origins)  # whatever the environment says
    handlers = {
        path: Application(FunctionHandler(partial(page, viewed=viewed)))
        for path, page in PAGES.items()
    }
    pages = LocalTornado(handlers, extra_websocket_origins=origins)
    http = HTTPServer(pages)
    http.add_sockets(sockets)
    return BaseServer(IOLoop.current(), pages, http)


def serve(config: RunConfig, *, port: int, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM comes: see `scalespec.viewer.view`."""
    viewed = read_viewed(config)
    server = make_server(viewed, bind(port))
    loop = server.io_loop
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.asyncio_loop.add_signal_handler(number, loop.stop)
    server.start()
    ready(f"http://{LOOPBACK}:{server.port}/")
    loop.start()
    server.stop(wait=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.asyncio_loop.remove_signal_handler(number)
