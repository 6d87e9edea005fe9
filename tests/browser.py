"""A real, headless Chromium for tests, driven by chromedriver (W3C WebDriver) with the standard library alone."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

SWITCHES = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage")


def missing() -> str:
    """Why no browser can be started here, with the cure; "" when one can."""
    lacking = [what for what, names in (("Chromium", ("chromium", "chromium-browser", "google-chrome")),
                                        ("chromedriver", ("chromedriver",))) if not any(map(shutil.which, names))]
    return f"no {' and no '.join(lacking)} on this machine: apt-get install chromium chromium-driver" if lacking else ""


class Browser:
    """One session of a running chromedriver at `address`."""

    def __init__(self, address: str, profile: Path, size: tuple[int, int]):
        self.address = address
        options = {"args": [*SWITCHES, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"]}
        capabilities = {"goog:chromeOptions": options,
                        "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"}}
        self.session = self._call("POST", "/session", capabilities={"alwaysMatch": capabilities})["sessionId"]

    def _call(self, method: str, path: str, **body: Any) -> Any:
        data = json.dumps(body).encode() if method == "POST" else None
        request = Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urlopen(request, timeout=60) as reply:
                return json.load(reply)["value"]
        except HTTPError as error:
            raise RuntimeError(f"{method} {path}: {json.load(error)['value']['message']}") from error

    def open(self, page: Path) -> None:
        """Loads a local file and waits for its load event; forgets what earlier pages asked for."""
        self.log("performance")
        self._call("POST", f"/session/{self.session}/url", url=page.as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that the body of an async function returns in the page."""
        script = f"""const done = [...arguments].pop();
            (async function () {{ {script} }}).apply(null, arguments).then(done, e => done(`${{e}}`))"""
        return self._call("POST", f"/session/{self.session}/execute/async", script=script, args=list(arguments))

    def drag(self, start: tuple[float, float], *stops: tuple[float, float]) -> None:
        """Presses the mouse at `start`, moves it over `stops` (pixels of the window), releases it."""
        moves = [{"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)} for x, y in (start, *stops)]
        actions = [moves[0], {"type": "pointerDown", "button": 0}, *moves[1:], {"type": "pointerUp", "button": 0}]
        self._call("POST", f"/session/{self.session}/actions", actions=[
            {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": actions}])

    def log(self, kind: str) -> list[dict]:
        """Entries since the last call: "browser" (console, errors) or "performance" (network, among others)."""
        return self._call("POST", f"/session/{self.session}/se/log", type=kind)

    def requests(self) -> set[str]:
        """Addresses that the page asked for since `open`; data: URIs, and the browser's own start page, left out."""
        events = (json.loads(entry["message"])["message"] for entry in self.log("performance"))
        return {url for event in events if event["method"] == "Network.requestWillBeSent"
                if not (url := event["params"]["request"]["url"]).startswith(("data:", "chrome:"))}

    def screenshot(self, path: Path) -> None:
        """The window as a PNG."""
        path.write_bytes(base64.b64decode(self._call("GET", f"/session/{self.session}/screenshot")))

    def close(self) -> None:
        """Ends the session and its browser."""
        self._call("DELETE", f"/session/{self.session}")


@contextmanager
def chromium(folder: Path, size: tuple[int, int] = (1300, 1000)) -> Iterator[Browser]:
    """A browser with a fresh profile in `folder`; driver and browser end with the block."""
    with (folder / "driver.log").open("wb") as errors, subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=errors, text=True) as driver:
        try:
            port = next(found[1] for line in driver.stdout if (found := re.search(r"on port (\d+)\.", line)))
            browser = Browser(f"http://127.0.0.1:{port}", folder / "profile", size)
            try:
                yield browser
            finally:
                browser.close()
        finally:
            driver.terminate()
