"""A run's pages served from a thread, and what tests ask of them in Chromium."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from chromium import Page

from scalespec.config import RunConfig

IDLE = "window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle"
KIT = """
window.kit = {
  // every element, those within shadow roots too
  all: (root = document) => [...root.querySelectorAll('*')].flatMap(
    (one) => [one, ...(one.shadowRoot ? window.kit.all(one.shadowRoot) : [])]),
  // all that is written on the page, but for style sheets and scripts
  text: () => window.kit.all().filter((one) => !['STYLE', 'SCRIPT'].includes(one.tagName))
    .flatMap((one) => [...one.childNodes]).filter((node) => node.nodeType == 3)
    .map((node) => node.data.trim()).filter(Boolean).join(' '),
  canvases: () => window.kit.all().filter((one) =>
    one.tagName == 'CANVAS' && one.getBoundingClientRect().width > 99).length,
  root: (name) => Bokeh.documents[0].roots().find((root) => root.name == name),
  frame: (name) => {
    const view = Bokeh.index.get_by_id(window.kit.root(name).id), {left, top} =
      view.canvas.el.getBoundingClientRect(), {x0, x1, y0, y1} = view.frame.bbox;
    return [left + x0, left + x1, top + y0, top + y1]},
  focus: () => { let one = document.activeElement;
    while (one.shadowRoot?.activeElement) one = one.shadowRoot.activeElement; return one },
  // the data of the glyphs of a figure that are drawn from a column
  column: (figure, column) => [...window.kit.root(figure).renderers.find((one) =>
    one.data_source && one.data_source.data.has?.(column) || column in
    (one.data_source?.data ?? {})).data_source.get(column)].map((v) => +v),
};
window.alerted = false; window.alert = () => { window.alerted = true };
"""


@contextmanager
def served(config: RunConfig) -> Iterator[str]:
    """Serve a run's pages from a thread of this process; give their address."""
    from scalespec.viewer.server import bind, make_server, read_viewed

    viewed, sockets = read_viewed(config), bind(0)
    started: dict[str, Any] = {}
    ready = threading.Event()

    def work() -> None:
        asyncio.set_event_loop(asyncio.new_event_loop())
        server = started["server"] = make_server(viewed, sockets)
        server.start()
        ready.set()
        server.io_loop.start()
        server.stop(wait=False)
        server.io_loop.close(all_fds=True)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    finally:
        loop = started["server"].io_loop
        loop.add_callback(loop.stop)
        thread.join(60)


def look(page: Page, url: str) -> None:
    """Open a page of the viewer and wait until it is drawn."""
    page.call("Page.addScriptToEvaluateOnNewDocument", source=KIT)
    page.open(url, IDLE)
    page.settle()


def elsewhere(page: Page, *known: str) -> list[str]:
    """Return what the page fetched from anywhere else than the places that are known."""
    own = ("data:", "about:", *known)
    return [url for url in page.fetched if not url.startswith(own)]
