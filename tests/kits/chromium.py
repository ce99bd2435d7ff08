"""A real headless Chromium, driven by the DevTools protocol: https://chromedevtools.github.io."""

import asyncio
import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

PROGRAM = shutil.which("chromium") or ""
PATIENCE_S = 60
"""Longest wait for anything: a busy machine's two cores may be shared by many."""
ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-default-apps"),
    *("--hide-scrollbars", "--remote-debugging-port=0"),
)


class Page:
    """One tab: what it was told, what it fetched, and what its console said."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: Any) -> None:
        self._loop, self._socket = loop, socket
        self._numbers = itertools.count(1)
        self.errors: list[str] = []
        self.fetched: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its answer; events on the way are kept."""
        number = next(self._numbers)
        self._loop.run_until_complete(
            self._write({"id": number, "method": method, "params": arguments})
        )
        while True:
            answer = self._read(PATIENCE_S)
            assert answer is not None, f"{method}: no answer"
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    async def _write(self, message: dict[str, Any]) -> None:
        await self._socket.write_message(json.dumps(message))

    async def _next(self, seconds: float) -> Any:
        return await asyncio.wait_for(self._socket.read_message(), seconds)

    def _read(self, seconds: float) -> dict[str, Any] | None:
        with suppress(asyncio.TimeoutError):
            text = self._loop.run_until_complete(self._next(seconds))
            assert text is not None, "Chromium is gone"
            message = json.loads(text)
            self._heard(message.get("method", ""), message.get("params", {}))
            return message
        return None

    def _heard(self, event: str, facts: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(facts["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and facts["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(one.get("value")) for one in facts["args"]))
        elif event == "Log.entryAdded" and facts["entry"]["level"] == "error":
            self.errors.append(f"{facts['entry']['text']} {facts['entry'].get('url', '')}")
        elif event == "Network.requestWillBeSent":
            self.fetched.append(facts["request"]["url"])
        elif event == "Network.webSocketCreated":
            self.fetched.append(facts["url"])

    def size(self, width: int, height: int) -> None:
        """Make the window so wide and high, a narrow one like a phone's."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def open(self, url: str, until: str = "document.readyState == 'complete'") -> None:
        """Go to an address, and wait until an expression is true there."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)
        self.until(f"location.href != 'about:blank' && ({until})")

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + PATIENCE_S
        while not self.value(f"Boolean({expression})"):
            assert time.monotonic() < end, f"waited in vain for {expression}; {self.errors}"
            time.sleep(0.05)

    def settle(self, seconds: float = 0.2) -> None:
        """Hear what comes until nothing has come for a while."""
        while self._read(seconds) is not None:
            pass

    def click(self, x: float, y: float) -> None:
        """Press and release the left button at a place of the window."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def press(self, key: str, text: str = "") -> None:
        """Press a key, as Tab or Enter."""
        codes = {"Tab": 9, "Enter": 13, "ArrowDown": 40, " ": 32}
        facts = {"key": key, "windowsVirtualKeyCode": codes.get(key, 0)}
        self.call(
            "Input.dispatchKeyEvent", type="keyDown", **facts, **({"text": text} if text else {})
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", **facts)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def names(self, *roles: str) -> list[tuple[str, str]]:
        """Return what assistive technology is told of: (role, name), in the page's order."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        found = [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"]
        ]
        return [one for one in found if not roles or one[0] in roles]

    def picture(self, path: str | Path, *, whole: bool = False) -> None:
        """Write what is seen as PNG; `whole` down to the page's end."""
        options: dict[str, Any] = {"format": "png"}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options["captureBeyondViewport"] = True
            options["clip"] = {**size, "scale": 1}
        data = self.call("Page.captureScreenshot", **options)["data"]
        Path(path).write_bytes(base64.b64decode(data))


class Browser:
    """A running Chromium."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: int) -> None:
        self._loop, self._port = loop, port

    @contextmanager
    def page(self, width: int = 1440, height: int = 900) -> Iterator[Page]:
        """Open a tab."""
        from tornado.websocket import websocket_connect

        asked = Request(f"http://127.0.0.1:{self._port}/json/new?about:blank", method="PUT")
        with urlopen(asked, timeout=PATIENCE_S) as answer:
            tab = json.load(answer)

        async def connect() -> Any:
            return await websocket_connect(tab["webSocketDebuggerUrl"], max_message_size=2**28)

        async def close() -> None:
            socket.close()

        socket = self._loop.run_until_complete(connect())
        page = Page(self._loop, socket)
        page.size(width, height)
        try:
            yield page
        finally:
            page.call("Page.close")
            self._loop.run_until_complete(close())


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium with an empty profile; nothing of it outlives the context."""
    loop = asyncio.new_event_loop()
    with tempfile.TemporaryDirectory(
        prefix="scalespec-chromium-", ignore_cleanup_errors=True
    ) as home:
        process = subprocess.Popen(
            [PROGRAM, *ARGUMENTS, f"--user-data-dir={home}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": home},
            start_new_session=True,
        )
        try:
            yield Browser(loop, _port(process, Path(home, "DevToolsActivePort")))
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            loop.close()


def _port(process: subprocess.Popen[bytes], file: Path) -> int:
    end = time.monotonic() + PATIENCE_S
    while not (file.exists() and "\n" in file.read_text()):
        assert process.poll() is None, f"Chromium ended with {process.returncode}"
        assert time.monotonic() < end, "Chromium does not start"
        time.sleep(0.02)
    return int(file.read_text().splitlines()[0])
