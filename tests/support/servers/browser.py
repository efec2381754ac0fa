"""A browser without a screen: Debian's Chromium, steered with the DevTools protocol over a pipe.

The protocol: one JSON object a message, ended by a zero byte, read by the browser from its file
descriptor 3 and written to 4 (`--remote-debugging-pipe`); domains and methods as in
https://chromedevtools.github.io/devtools-protocol/.
"""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.daemon.harness import clean_environment, dying_with_parent
from tests.support.machine.ground import program
from tests.support.waiting import until

SECONDS = 60.0
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # tests run as root, where Chromium has none
    "--remote-debugging-pipe",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
    # Whatever else wanted to go outside cannot.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)

Message = dict[str, Any]


class Browser:
    """A running browser."""

    def __init__(self, writer: int, reader: int) -> None:
        self._writer, self._reader = writer, reader
        self._buffer = b""
        self._last = 0
        self.events: list[Message] = []
        """Every event it sent, in order."""
        self.answer: Callable[[Message], None] | None = None
        """Is called with each event as it comes, for those that wait for an answer."""

    def call(self, method: str, session: str | None = None, **params: Any) -> Message:
        """Call a method of the protocol and answer its result."""
        number = self.send(method, session, **params)
        deadline = time.monotonic() + SECONDS
        while True:
            message = self._receive(deadline, method)
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                result: Message = message["result"]
                return result

    def send(self, method: str, session: str | None = None, **params: Any) -> int:
        """Call a method of the protocol without waiting; return the number of the call."""
        self._last += 1
        message: Message = {"id": self._last, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._writer, data) :]
        return self._last

    def _receive(self, deadline: float, method: str) -> Message:
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._reader], [], [], left)[0]:
                raise TimeoutError(f"the browser did not answer {method} in {SECONDS:g} s")
            block = os.read(self._reader, 1 << 20)
            assert block, f"the browser ended during {method}"
            self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: Message = json.loads(line)
        if "method" in message:
            self.events.append(message)
            if self.answer is not None:
                self.answer(message)
        return message

    def open(self, url: str, *, width: int = 1000, height: int = 800, dark: bool = False) -> Page:
        """Open a page in a window of its own, with no history, cookies or storage."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.resize(width, height)
        page.call("Emulation.setScrollbarsHidden", hidden=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.go(url)
        return page


class Page:
    """A page that is open in a browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser = browser
        self._session = session

    def call(self, method: str, **params: Any) -> Message:
        """Call a method of the protocol on this page."""
        return self.browser.call(method, self._session, **params)

    def go(self, url: str) -> None:
        """Go to an address, and wait until the document is loaded."""
        moved = self.call("Page.navigate", url=url)
        assert "errorText" not in moved, moved["errorText"]
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def resize(self, width: int, height: int, *, scale: float = 1) -> None:
        """Give the window a size in CSS pixels, of which each is `scale` dots wide."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=False,
        )

    def evaluate(self, expression: str) -> Any:
        """Evaluate JavaScript in the page, and answer its value."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def until(self, expression: str, *, seconds: float = 30.0) -> None:
        """Wait until a JavaScript expression is true in the page."""
        until(
            lambda: self.evaluate(f"Boolean({expression})"),
            seconds=seconds,
            what=f"in the browser: {expression}",
            interval=0.05,
        )

    def text(self, selector: str = "body") -> str:
        """Return the text that an element shows."""
        shown: str = self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")
        return shown

    def type(self, selector: str, text: str) -> None:
        """Type into a field, and press Enter."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            extra = {"text": "\r"} if kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key="Enter",
                code="Enter",
                windowsVirtualKeyCode=13,
                **extra,
            )

    def screenshot(self) -> bytes:
        """Return a PNG of the whole page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def reported(self, method: str) -> list[Message]:
        """Return the parameters of all events of one kind, in order."""
        return [
            event["params"]
            for event in self.browser.events
            if event["method"] == method and event.get("sessionId") == self._session
        ]

    def requested(self) -> list[str]:
        """Return the addresses of everything the page asked for."""
        return [event["request"]["url"] for event in self.reported("Network.requestWillBeSent")]

    def complaints(self) -> list[str]:
        """Return what went to the console: errors, exceptions, breaches of the page's policy."""
        return [
            *(
                event["exceptionDetails"]["text"]
                for event in self.reported("Runtime.exceptionThrown")
            ),
            *(f"console: {event['args']}" for event in self.reported("Runtime.consoleAPICalled")),
            *(
                f"{event['entry']['text']} {event['entry'].get('url', '')}"
                for event in self.reported("Log.entryAdded")
            ),
        ]

    def replace(self, path: str, body: Mapping[str, Any]) -> None:
        """Return requests for a path with a document of the test's own from now on."""
        encoded = base64.b64encode(json.dumps(body).encode()).decode()

        def answer(event: Message) -> None:
            if event["method"] == "Fetch.requestPaused":
                self.browser.send(
                    "Fetch.fulfillRequest",
                    self._session,
                    requestId=event["params"]["requestId"],
                    responseCode=200,
                    responseHeaders=[{"name": "Content-Type", "value": "application/json"}],
                    body=encoded,
                )

        self.browser.answer = answer
        self.call("Fetch.enable", patterns=[{"urlPattern": f"*{path}"}])


@contextmanager
def running_browser(profile: Path, wrapper: Sequence[str] = ()) -> Iterator[Browser]:
    """Run a browser with its files in an empty directory, and end it with all its processes.

    `wrapper` is a command that runs the command behind it, such as `nsenter`.
    """
    chromium = program("chromium")
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # The shell puts the ends where the browser looks for them, whatever numbers they have here.
    script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    command = [chromium, *_FLAGS, f"--user-data-dir={profile / 'profile'}", "about:blank"]
    with (profile / "log").open("wb") as log:
        process = subprocess.Popen(
            dying_with_parent([*wrapper, "bash", "-c", script, "bash", *command]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(theirs_in, theirs_out),
            env=clean_environment(HOME=str(profile)),
            process_group=0,
        )
    os.close(theirs_in)
    os.close(theirs_out)
    browser = Browser(ours_out, ours_in)
    try:
        yield browser
        # It may be gone before its answer is read, so what counts is that it ends.
        browser.send("Browser.close")
        process.wait(SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.close(ours_out)
        os.close(ours_in)
