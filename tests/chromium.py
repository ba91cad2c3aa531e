"""A headless Chromium, driven over a pipe by the DevTools protocol. Standard library only."""

import json
import os
import shutil
import subprocess

BINARY = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Chromium:
    """One tab; every event is kept. A context manager."""

    def __init__(self, profile):
        out_read, self._write = os.pipe()
        self._read, in_write = os.pipe()

        def wire():  # Chromium reads commands from descriptor 3 and writes to 4
            first, second = os.dup(out_read), os.dup(in_write)
            os.dup2(first, 3)
            os.dup2(second, 4)

        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
        command = [BINARY, *flags, f"--user-data-dir={profile}", "--window-size=1280,900", "about:blank"]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, close_fds=False, preexec_fn=wire
        )
        os.close(out_read)
        os.close(in_write)
        self._buffer, self._id, self.events, self._session = b"", 0, [], None
        target = next(t for t in self.ask("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def _message(self):
        while b"\0" not in self._buffer:
            data = os.read(self._read, 1 << 20)
            if not data:
                raise RuntimeError("Chromium closed its pipe")
            self._buffer += data
        text, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(text)

    def ask(self, method, **params):
        """The result of one command."""
        self._id += 1
        message = {"id": self._id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (reply := self._message()).get("id") != self._id:
            self.events.append(reply)
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']}")
        return reply["result"]

    def run(self, script):
        """The JSON value of a script; promises are awaited."""
        reply = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in reply:
            raise RuntimeError(reply["exceptionDetails"])
        return reply["result"].get("value")

    def open(self, path):
        """Load a file and wait until its first turn stands on the page; milliseconds since navigation began."""
        self.ask("Page.navigate", url=path.resolve().as_uri())
        return self.run(
            "new Promise(done => { const look = () => document.querySelector('.turn')"
            " ? done(performance.now()) : setTimeout(look, 10); look(); })"
        )

    def named(self, method):
        """Events of one kind so far."""
        return [event for event in self.events if event.get("method") == method]

    def close(self):
        """End the browser that this object started."""
        self._process.terminate()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
