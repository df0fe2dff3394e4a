"""`vllm serve` in a process group of its own: started on a free port, waited for, read and stopped."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}
"""What every engine of tests and benchmarks runs with: no network, one thread."""

_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{.*\})? (?P<value>\S+)$", re.M)
_RUNNING = "vllm:num_requests_running"


class ServerError(RuntimeError):
    """The server did not start, or ended; the message holds the end of its log."""


class Server:
    """A server, from `with` on until its end.

    Args:
        model: a folder with a model.
        flags: of `vllm serve`.
        environment: changes of `ENVIRONMENT`.
        patience: seconds that the start may take.
    """

    def __init__(
        self,
        model: Path | str,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        patience: float = 300.0,
    ) -> None:
        self.model = str(model)
        self.port = _free_port()
        self._flags = list(flags)
        self._environment = {**os.environ, **ENVIRONMENT, **(environment or {})}
        # The engine of a server always has a process of its own, and flags say how much it caches.
        for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_CPU_KVCACHE_SPACE"):
            self._environment.pop(name, None)
        self._patience = patience
        self._folder = tempfile.TemporaryDirectory(prefix="vllm-serve-")
        self._log = Path(self._folder.name, "log")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        """What it has said so far, engine and all."""
        return self._log.read_text(errors="replace")

    def openai(self) -> Any:
        """A client of the `openai` package."""
        from openai import OpenAI

        return OpenAI(base_url=f"{self.url}/v1", api_key="none", timeout=120, max_retries=0)

    def metrics(self) -> Counter[str]:
        """Its metrics by name, summed over labels."""
        summed: Counter[str] = Counter()
        for sample in _SAMPLE.finditer(_read(f"{self.url}/metrics")):
            summed[sample["name"]] += float(sample["value"])  # type: ignore[assignment]
        return summed

    def start(self) -> None:
        """Start without waiting, so that several servers can start at once."""
        command = [str(Path(sys.executable).with_name("vllm")), "serve", self.model]
        command += ["--host", "127.0.0.1", "--port", str(self.port), *self._flags]
        environment = self._environment
        named = _named_vllm(Path(self._folder.name))
        paths = [*named, *filter(None, [environment.get("PYTHONPATH")])]
        if paths:
            environment["PYTHONPATH"] = os.pathsep.join(paths)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> None:
        """Return as soon as it answers.

        Raises:
            ServerError: it ended instead, or its patience is over.
        """
        last = time.monotonic() + self._patience
        while time.monotonic() < last:
            if self._process is None or self._process.poll() is not None:
                raise ServerError(f"the server ended while it started:\n{self.log()[-6000:]}")
            try:
                _read(f"{self.url}/health")
            except OSError:
                time.sleep(0.5)
            else:
                return
        raise ServerError(f"no answer after {self._patience:.0f} s:\n{self.log()[-6000:]}")

    def stop(self) -> None:
        """End it and its engine, and forget its log."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
            with contextlib.suppress(ProcessLookupError):  # what is left of its group: the engine
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._folder.cleanup()

    def __enter__(self) -> Server:
        try:
            self.start()
            self.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class Watch:
    """The most requests that a server runs at once while this is open.

    Attributes:
        peak: the largest number seen.
    """

    def __init__(self, server: Server, every: float = 0.2) -> None:
        self.peak = 0
        self._server, self._every = server, every
        self._over = Event()
        self._thread = Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._over.wait(self._every):
            self.peak = max(self.peak, round(self._server.metrics()[_RUNNING]))

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


def _free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def _named_vllm(folder: Path) -> list[str]:
    """Folders to import from so that the command `vllm` starts where vLLM was installed as `vllm-cpu`:
    it asks for the version of a distribution called `vllm`, which then does not exist."""
    try:
        version("vllm")
    except PackageNotFoundError:
        # The platform is recognised by `cpu` in the version.
        told = version("vllm-cpu").split("+")[0] + "+cpu"
        metadata = folder / f"vllm-{told}.dist-info" / "METADATA"
        metadata.parent.mkdir(exist_ok=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {told}\n")
        return [str(folder)]
    return []
