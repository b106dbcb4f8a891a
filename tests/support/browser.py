"""A real browser without a window: Chromium, led by its driver over the WebDriver protocol."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from .process import SLOWNESS, wait_until

STARTED = re.compile(rb"started successfully on port (\d+)")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
    "--no-default-browser-check", "--no-proxy-server",
]


class Browser:
    """open() a page, then run() scripts in it. All that it writes is in a folder that goes with it."""

    def __init__(self):
        self.scratch = tempfile.TemporaryDirectory(prefix="b-", ignore_cleanup_errors=True)  # short: of sockets, too
        self.folder = Path(self.scratch.name)
        self.log_path = self.folder / "driver.log"
        self.process = None
        self.url = None

    def __enter__(self):
        driver, browser = shutil.which("chromedriver"), shutil.which("chromium")
        assert driver and browser, "scripts/setup --tests installs Chromium and its driver"
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "TMPDIR": str(self.folder), "LANG": "C.UTF-8"}
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [driver, "--port=0"], env=env, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self._begin(browser)
        except BaseException:
            self._end()
            raise
        return self

    def _begin(self, browser):
        started = wait_until(lambda: STARTED.search(self.log_path.read_bytes()), "the driver listens", 20)
        self.url = f"http://127.0.0.1:{int(started.group(1))}/session"
        options = {"binary": browser, "args": [*FLAGS, f"--user-data-dir={self.folder}/profile"]}
        wanted = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        self.url += "/" + self._call("POST", "", {"capabilities": wanted})["sessionId"]

    def _end(self):
        self.process.terminate()
        self.process.wait(20 * SLOWNESS)
        self.scratch.cleanup()

    def __exit__(self, *_):
        try:
            self._call("DELETE", "")
        finally:
            self._end()

    def _call(self, method, path, body=None):
        data = json.dumps(body).encode("utf-8") if body is not None else None
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60 * SLOWNESS) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode("utf-8", "replace")[:2000]) from None

    def open(self, url):
        self._call("POST", "/url", {"url": url})

    def run(self, script, *args):
        """What the script returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(args)})
