"""The server of docs/serving.md, taken from the page and run by uvicorn on the loopback device."""

from __future__ import annotations

import http.client
import io
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any
from urllib.parse import urlencode

import pytest
import torch
from PIL import Image
from test_docs_snippets import ROOT, snippets

import lightkv
from lightkv.demo.scenes import held_out_scenes

NEEDS = "needs the extra `serve`: pip install 'lightkv[serve]'"
pytest.importorskip("fastapi", reason=NEEDS)
uvicorn = pytest.importorskip("uvicorn", reason=NEEDS)

PAGE = ROOT / "docs" / "serving.md"
SOURCE = "docs/examples/server.py"
PATIENCE = 60
"""Seconds after which a test gives up."""
WAITING = 2

QUESTION = "list all digits"
SETTINGS = [
    *("MODEL", "DEVICE", "STRATEGY", "RETENTION", "WORKERS", "WAITING"),
    *("BYTES", "PIXELS", "ASPECT", "TOKENS"),
]


def module(name: str, **settings: str) -> ModuleType:
    """The page's server, as `import server` would make it with these environment variables."""
    code = next(s.code for s in snippets(PAGE, "python") if s.marked("file") == SOURCE)
    made = ModuleType(name)
    with pytest.MonkeyPatch.context() as patch:
        for key in SETTINGS:
            patch.delenv(key, raising=False)
        for key, value in settings.items():
            patch.setenv(key, value)
        patch.setitem(sys.modules, name, made)
        exec(compile(code, f"{PAGE.name}:{name}", "exec"), vars(made))
    return made


class Running:
    """The server in a thread, and requests to it."""

    def __init__(self, made: ModuleType) -> None:
        self.made = made
        self.server = uvicorn.Server(
            uvicorn.Config(made.app, port=0, log_level="error", limit_concurrency=64)
        )
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        wait_for(lambda: self.server.started)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()

    def begin(
        self, picture: bytes, prompt: str = QUESTION, **query: Any
    ) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("POST", "/answer?" + urlencode({"prompt": prompt, **query}), picture)
        return connection

    def ask(self, picture: bytes, prompt: str = QUESTION, **query: Any) -> tuple[int, str]:
        """Status, and the answer or what is wrong."""
        response = self.begin(picture, prompt, **query).getresponse()
        text = response.read().decode()
        if response.getheader("content-type", "").startswith("text/plain"):
            return response.status, text
        content = json.loads(text)
        return response.status, content["answer"] if response.status == 200 else str(content)

    def health(self) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET", "/health")
        found: dict[str, Any] = json.loads(connection.getresponse().read())
        return found

    def direct(self, picture: bytes, prompt: str) -> str:
        """What the attached model answers without a server."""
        made = self.made
        inputs = made.read(picture, prompt)
        with torch.no_grad():
            out = made.model.generate(**inputs, max_new_tokens=64, do_sample=False)
        new = out[0, inputs["input_ids"].shape[1] :]
        return str(made.processor.tokenizer.decode(new, skip_special_tokens=True))


class Gate:
    """Holds every forward pass of a model, from the `first` on, until it is opened."""

    def __init__(self, model: torch.nn.Module, first: int = 1) -> None:
        self.passes, self.open = 0, threading.Event()
        self.first = first
        self.handle = model.register_forward_pre_hook(self.wait)

    def wait(self, *_: Any) -> None:
        self.passes += 1
        if self.passes >= self.first:
            assert self.open.wait(PATIENCE)

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: Any) -> None:
        self.open.set()
        self.handle.remove()


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def scenes(count: int) -> list[tuple[bytes, str]]:
    """Pictures with a question each."""
    held = held_out_scenes(count, seed=11)
    return [
        (encoded(scene.image), questions[number % len(questions)].text)
        for number, (scene, questions) in enumerate(held)
    ]


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    running = Running(module("served", WAITING=str(WAITING)))
    yield running
    running.stop()
    assert not running.made.session.active


@pytest.fixture
def picture() -> bytes:
    return scenes(1)[0][0]


def test_plain_and_streamed_answers_are_those_of_the_attached_model(served: Running) -> None:
    for picture, prompt in scenes(6):
        wanted = served.direct(picture, prompt)
        assert wanted
        assert served.ask(picture, prompt) == (200, wanted)
        assert served.ask(picture, prompt, stream=True) == (200, wanted)


def test_a_stream_comes_word_by_word(served: Running, picture: bytes) -> None:
    """The first words are there while the model still waits for its fourth pass."""
    wanted = served.direct(picture, QUESTION)
    with Gate(served.made.model, first=4) as gate:
        response = served.begin(picture, stream=True).getresponse()
        first = response.read1().decode()
        assert first
        assert len(first) < len(wanted)
        gate.open.set()
        assert first + response.read().decode() == wanted


def test_a_picture_is_turned_upright(served: Running) -> None:
    """A photograph that lies on its side, and says so, is answered like the upright one."""
    scene, _ = held_out_scenes(1, seed=11)[0]
    exif, turned = Image.Exif(), scene.image.transpose(Image.Transpose.ROTATE_90)
    exif[0x0112] = 6  # to be shown turned by 90° clockwise
    wanted = (200, served.direct(encoded(scene.image), QUESTION))
    assert served.ask(encoded(turned, exif=exif)) == wanted
    assert served.ask(encoded(turned)) != wanted


def test_requests_at_once_wait_for_one_another(served: Running) -> None:
    asked = scenes(WAITING + 1)
    wanted = [(200, served.direct(*one)) for one in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        for turn in range(3):
            jobs = [
                pool.submit(served.ask, *one, stream=(number + turn) % 2 == 0)
                for number, one in enumerate(asked)
            ]
            assert [job.result(PATIENCE) for job in jobs] == wanted


TOO_LARGE = {
    "pixels": lambda: encoded(Image.new("RGB", (1500, 1500))),
    "narrow": lambda: encoded(Image.new("RGB", (4000, 4))),
    "bytes": lambda: bytes((4 << 20) + 1),
}
BROKEN = {
    "garbage": lambda: b"this is no picture",
    "empty": lambda: b"",
    "cut off": lambda: encoded(Image.effect_noise((96, 96), 90))[:3000],
    "another format": lambda: encoded(Image.new("RGB", (96, 96)), "BMP"),
}


@pytest.mark.parametrize(
    ("make", "status", "says"),
    [
        *((TOO_LARGE[name], 413, "at most") for name in TOO_LARGE),
        *((BROKEN[name], 400, "cannot be read") for name in BROKEN),
    ],
    ids=[*TOO_LARGE, *BROKEN],
)
def test_a_picture_that_cannot_be_used_has_a_status(
    served: Running, make: Callable[[], bytes], status: int, says: str
) -> None:
    for stream in (False, True):
        found = served.ask(make(), stream=stream)
        assert found[0] == status, found
        assert says in found[1]
    assert served.health()["requests"] == 0


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"tokens": 257}, 422),
        ({"tokens": 0}, 422),
        ({"prompt": "x" * 2001}, 422),
        ({"prompt": "what is <image> ?"}, 400),
    ],
)
def test_a_request_that_cannot_be_served_has_a_status(
    served: Running, picture: bytes, query: dict[str, Any], status: int
) -> None:
    assert served.ask(picture, **query)[0] == status
    assert served.ask(picture)[0] == 200


def test_a_body_of_unknown_length_is_refused(served: Running, picture: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE)
    connection.request("POST", "/answer?prompt=x", iter([picture]), encode_chunked=True)
    assert connection.getresponse().status == 413


def test_a_full_queue_says_so(served: Running) -> None:
    asked = scenes(WAITING + 1)
    wanted = [(200, served.direct(*one)) for one in asked]
    with Gate(served.made.model) as gate, ThreadPoolExecutor(len(asked)) as pool:
        jobs = [pool.submit(served.ask, *one) for one in asked]
        wait_for(lambda: served.health()["requests"] == len(asked))
        response = served.begin(asked[0][0]).getresponse()
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
        assert "taken" in response.read().decode()
        gate.open.set()
        assert [job.result(PATIENCE) for job in jobs] == wanted
    assert served.ask(*asked[0]) == wanted[0]


def test_a_client_that_left_the_queue_is_not_answered(served: Running, picture: bytes) -> None:
    run = served.made.session.last.run
    with Gate(served.made.model) as gate, ThreadPoolExecutor(1) as pool:
        job = pool.submit(served.ask, picture)
        wait_for(lambda: gate.passes == 1)
        leaver = served.begin(picture)
        wait_for(lambda: served.health()["requests"] == 2)
        leaver.close()
        served.health()
        gate.open.set()
        assert job.result(PATIENCE)[0] == 200
        wait_for(lambda: served.health()["requests"] == 0)
    assert served.made.session.last.run == run + 1


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_stops_when_its_client_leaves(
    served: Running, picture: bytes, stream: bool
) -> None:
    with Gate(served.made.model, first=10**6) as gate:
        assert served.ask(picture)[0] == 200
        whole = gate.passes
    assert whole > 5
    with Gate(served.made.model, first=3) as gate:
        leaver = served.begin(picture, stream=stream)
        wait_for(lambda: gate.passes == 3)
        assert leaver.sock is not None
        leaver.sock.shutdown(socket.SHUT_RDWR)
        leaver.close()
        served.health()
        gate.open.set()
        wait_for(lambda: served.health()["requests"] == 0)
        assert gate.passes <= 4


@pytest.mark.parametrize("number", [1, 3])
def test_an_error_is_never_a_short_answer(served: Running, picture: bytes, number: int) -> None:
    """Before the first word it has a status; later a stream breaks off where it would have ended."""
    count = 0

    def fail(*_: Any) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise lightkv.LightKVError("the model is out of order")

    for stream in (False, True):
        count, handle = 0, served.made.model.register_forward_pre_hook(fail)
        try:
            if stream and number > 1:
                with pytest.raises(http.client.IncompleteRead):
                    served.ask(picture, stream=True)
            else:
                status, text = served.ask(picture, stream=stream)
                assert status == 422
                assert "out of order" in text
        finally:
            handle.remove()
        wait_for(lambda: served.health()["requests"] == 0)
    assert served.ask(picture)[0] == 200


def test_health_tells_what_was_achieved(served: Running, picture: bytes) -> None:
    assert served.ask(picture)[0] == 200
    found, reports = served.health(), served.made.session.reports
    assert found["attached"] is True
    assert found["requests"] == 0
    samples = [sample for report in reports for sample in report.samples]
    token = samples[0].vision_kv_bytes // sum(samples[0].vision_tokens)
    held = token * sum(sum(sample.vision_tokens) for sample in samples)
    whole = token * sum(len(sample.vision_tokens) * sample.original for sample in samples)
    assert found["retention"] == pytest.approx(held / whole)
    assert found["kv_bytes_saved"] == whole - held
    assert found["retention"] == pytest.approx(0.55, abs=0.05)


def test_stopping_finishes_what_is_under_way_and_detaches(picture: bytes) -> None:
    made = module("stopped")
    running = Running(made)
    wanted = running.direct(picture, QUESTION)
    with Gate(made.model, first=3) as gate:
        response = running.begin(picture, stream=True).getresponse()
        first = response.read1().decode()
        running.server.should_exit = True
        time.sleep(0.3)
        assert made.session.active
        gate.open.set()
        assert first + response.read().decode() == wanted
    running.stop()
    assert not made.session.active
    assert not any(inner._forward_pre_hooks for inner in made.model.modules())
    with pytest.raises(RuntimeError):
        made.workers.submit(print)


def test_a_checkpoint_and_a_retention_of_your_own(tmp_path: Any, picture: bytes) -> None:
    from lightkv.demo.model import load

    model, processor = load()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    made = module("own", MODEL=str(tmp_path), RETENTION="0.35")
    running = Running(made)
    try:
        nothing = {"attached": True, "requests": 0, "retention": 1.0, "kv_bytes_saved": 0}
        assert running.health() == nothing
        assert running.ask(picture)[0] == 200
        assert running.health()["retention"] == pytest.approx(0.35, abs=0.05)
        assert made.model.name_or_path == str(tmp_path)
    finally:
        running.stop()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"RETENTION": "55"}, "retention = 55"),
        ({"RETENTION": "half"}, "RETENTION=half is no number"),
        ({"STRATEGY": "tomme"}, "Did you mean 'tome'?"),
        ({"MODEL": "./nowhere"}, "no such directory"),
        ({"WORKERS": "0"}, "must be greater than 0"),
        ({"PIXELS": "2M"}, "PIXELS=2M is no number"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_line(settings: dict[str, str], says: str) -> None:
    with pytest.raises(SystemExit) as caught:
        module("refused", **settings)
    line = str(caught.value)
    assert line.startswith("error: ")
    assert says in line
    assert "\n" not in line


def test_an_uncompressed_server_answers_as_the_model_does(picture: bytes) -> None:
    from lightkv.demo.model import load

    made = module("plain", RETENTION="1")
    running = Running(made)
    try:
        inputs, (model, processor) = made.read(picture, QUESTION), load()
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=64, do_sample=False)
        new = out[0, inputs["input_ids"].shape[1] :]
        wanted = processor.tokenizer.decode(new, skip_special_tokens=True)  # type: ignore[attr-defined]
        assert running.ask(picture) == (200, wanted)
        assert running.health()["retention"] == 1.0
        assert running.health()["kv_bytes_saved"] == 0
    finally:
        running.stop()


def test_another_strategy_and_another_limit(picture: bytes) -> None:
    made = module("other", STRATEGY="fastv", PIXELS="5000")
    assert made.session.pipeline.spec.name == "fastv"
    with pytest.raises(made.HTTPException, match="at most 5,000 pixels"):
        made.read(picture, QUESTION)
    made.session.detach()


def test_what_came_instead_of_a_picture_is_said(served: Running) -> None:
    status, text = served.ask(b"scene.png")
    assert status == 400
    assert "9 bytes" in text
    assert "scene.pn" in text
    assert "--data-binary @FILE" in text


@pytest.mark.parametrize("workers", [4])
def test_streams_of_several_workers_take_turns(workers: int) -> None:
    """More workers than one: answers interleave pass by pass and stay what they are alone."""
    running = Running(module("several", WORKERS=str(workers)))
    try:
        asked = scenes(12)
        wanted = [(200, running.direct(*one)) for one in asked]
        with ThreadPoolExecutor(len(asked)) as pool:
            jobs = [
                pool.submit(running.ask, *one, stream=number % 2 == 0)
                for number, one in enumerate(asked)
            ]
            assert [job.result(PATIENCE) for job in jobs] == wanted
    finally:
        running.stop()
