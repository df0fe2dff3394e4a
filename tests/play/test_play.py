"""The playground without a browser: it answers what sessions answer, and bad input has one line."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import socket
import struct
import threading
import zlib

import pytest
import torch
from PIL import Image

import lightkv
from lightkv.checkpoints.answers import generate
from lightkv.checkpoints.prompts import build_inputs
from lightkv.core.errors import ConfigError, LightKVError
from lightkv.demo.scenes import numbered_scene
from lightkv.lab.pictures import collect
from lightkv.lab.pictures.page import page as shown_page
from lightkv.play import server, uploads
from lightkv.play.offers import SEED, Offers
from lightkv.play.page import page

NEEDS = "needs the extra `play`: pip install 'lightkv[play]'"
TestClient = pytest.importorskip("fastapi.testclient", reason=NEEDS).TestClient
pytest.importorskip("uvicorn", reason=NEEDS)
NAMES = ["lightkv-lean", "fastv"]


def encoded(picture: Image.Image, form: str = "PNG") -> str:
    """A picture's file in base64."""
    stream = io.BytesIO()
    picture.save(stream, form)
    return base64.b64encode(stream.getvalue()).decode("ascii")


@pytest.fixture(scope="module")
def client(app):
    with TestClient(app, base_url="http://127.0.0.1:7860") as made:
        yield made


@pytest.fixture
def ask(client, scene):
    """Asks for a comparison; parts of the request may be replaced."""

    def run(**parts):
        asked = {"model": "demo", "picture": scene[0], "question": scene[1][0]["text"]}
        asked |= {"strategies": NAMES, "retention": 0.4, "max_new_tokens": 8}
        return client.post("/compare", json=asked | parts)

    return run


@pytest.fixture
def refused(ask):
    """The line of a comparison that must be refused."""

    def run(status=422, **parts):
        answer = ask(**parts)
        assert answer.status_code == status
        found = answer.json()
        assert set(found) == {"error", "field"}
        assert len(found["error"].splitlines()) == 1
        return found["error"]

    return run


def hooks(model):
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


# -- what is answered ------------------------------------------------------------------------------


def test_columns_are_what_sessions_answer(ask, offers, scene):
    """Text, tokens, bytes and FLOPs of each strategy alone; the picture is that of `lightkv show`."""
    loaded = offers.load("demo")
    question = scene[1][0]["text"]
    image = numbered_scene(0, SEED)[0].image
    inputs = build_inputs(loaded.processor, question, [image], loaded.model)
    with torch.no_grad():
        plain = loaded.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    before = hooks(loaded.model)  # transformers leaves its own behind, once it has run
    found = ask().json()
    assert hooks(loaded.model) == before
    text = loaded.processor.tokenizer.decode(
        plain[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    none, *columns = found["columns"]
    assert (none["strategy"], none["answer"]) == ("uncompressed", text.strip())
    assert none["report"]["samples"][0]["vision_tokens"] == [144] * 12
    for name, column in zip(NAMES, columns, strict=True):
        session = lightkv.core.run.session.prepare(loaded.model, name, retention=0.4)
        answer = generate(session, loaded.processor, inputs, 8)
        own = column["report"]
        assert (column["strategy"], column["answer"]) == (name, answer.text)
        for key in ("retention", "vision_kv_bytes", "flops", "samples", "compression_flops"):
            assert own[key] == answer.report.to_dict()[key]
        assert own["flops_vanilla"] == none["report"]["flops"]
        assert min(own["time_to_first_token"], own["time_per_token"], column["seconds"]) > 0
        assert column["vision_tokens"] == 144
    drawn = collect(
        loaded.model,
        loaded.processor,
        [image],
        [question],
        NAMES,
        retention=0.4,
        max_new_tokens=8,
        name="demo",
    )
    assert found["picture"] == shown_page(drawn)


def test_a_strategy_that_cannot_work_leaves_the_other_alone(ask):
    """No column of the three fails for another one."""
    found = ask(strategies=["lightkv", "hired"], retention=0.05).json()
    none, failed, done = found["columns"]
    assert failed["error"].startswith("retention = 0.05: ")
    assert none["error"] is done["error"] is None
    assert "hired" in found["picture"]
    alone = ask(strategies=["lightkv"], retention=0.05, uncompressed=False).json()
    assert [column["strategy"] for column in alone["columns"]] == ["lightkv"]
    assert alone["picture"] is None
    assert alone["no_picture"]


def test_scenes_have_their_answers(client):
    found = client.get("/scene", params={"model": "demo", "number": 7}).json()
    scene, questions = numbered_scene(7, SEED)
    shown = Image.open(io.BytesIO(base64.b64decode(found["picture"])))
    assert shown.tobytes() == scene.image.tobytes()
    assert found["questions"] == [{"text": q.text, "answer": q.answer} for q in questions]
    for number in (-1, 1000, "x"):
        answer = client.get("/scene", params={"model": "demo", "number": number})
        assert answer.status_code == 422
        assert answer.json()["error"]


def test_strategies_are_those_that_are_registered(client, offers):
    found = client.get("/strategies", params={"model": "demo"}).json()
    assert {"lightkv", "fastv", "</script><b>mine"} <= {each["name"] for each in found}
    assert all(each["refused"] == "" for each in found)
    answer = client.get("/strategies", params={"model": "/etc"})
    assert answer.status_code == 422
    assert "There are: demo" in answer.json()["error"]


# -- what is refused -------------------------------------------------------------------------------


def bomb() -> str:
    """A PNG of 20,000 × 20,000 pixels: its header, and nothing behind it."""

    def chunk(kind, data):
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).decode("ascii")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"picture": ""}, "picture: there is no picture"),
        ({"picture": "no base64"}, "base64"),
        ({"picture": "aGVsbG8="}, "not a picture that can be read"),
        ({"picture": encoded(Image.new("RGB", (9, 9)), "BMP")}, "PNG, JPEG or WebP"),
        ({"picture": encoded(Image.new("RGB", (1, 1)))}, "'1 × 1': the picture has fewer"),
        (
            {"picture": encoded(Image.new("1", (9000, 8000)))},
            "'9,000 × 8,000': the picture has more",
        ),
        ({"picture": bomb()}, "more pixels than are opened (50,000,000)"),
        ({"picture": encoded(Image.new("RGB", (2000, 9)))}, "100 times as long as wide"),
        ({"picture": "A" * (uploads.BODY - 4096)}, "larger than 20 MiB"),
        ({"question": " "}, "question: there is no question"),
        ({"question": "x" * 4001}, "longer than 4,000 characters"),
        ({"question": "what is <image> ?"}, "prompt: the processor cannot take"),
        ({"question": "red " * 900 + "?"}, "and the model has positions for 512"),
        (
            {"strategies": ["fastw", "tome"]},
            "'fastw': there is no strategy of that name. Did you mean",
        ),
        ({"strategies": []}, "one or two strategies"),
        ({"strategies": ["tome"] * 3}, "one or two strategies"),
        ({"strategies": "tome"}, "strategies"),
        ({"model": "/etc"}, "model = '/etc': no model of that name is offered"),
        ({"retention": 0}, "retention = 0.0: must be above 0 and at most 1"),
        ({"retention": 1.5}, "retention = 1.5"),
        ({"retention": "half"}, "retention = 'half'"),
        ({"retention": None}, "retention"),
        ({"max_new_tokens": 0}, "must be at least 1"),
        ({"max_new_tokens": 513}, "must be at most 512"),
        ({"pipeline": "/etc/passwd"}, "pipeline = '/etc/passwd'"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else next(iter(value)),
)
def test_bad_input_is_one_line(refused, parts, words):
    assert words in refused(**parts)


def test_no_path_of_the_browser_is_opened(refused, tmp_path, monkeypatch):
    """A pipeline file that is there, and a checkpoint that is there, are names that nobody offers."""
    there = tmp_path / "there.yaml"
    there.write_text("name: there\nmatcher: tome\n")
    monkeypatch.setattr("builtins.open", pytest.fail)
    monkeypatch.setattr("pathlib.Path.open", pytest.fail)
    assert "there is no strategy" in refused(strategies=[str(there), "tome"])
    assert "no model of that name" in refused(model=str(tmp_path))


def test_requests_of_other_sites_and_of_other_kinds_are_refused(client, refused):
    """A page of another site can neither read an answer nor start a comparison."""
    for host in ("evil.example", "127.0.0.1.evil.example", "[::2]:7860", ""):
        answer = client.get("/", headers={"host": host})
        assert answer.status_code == 400, host
        assert "not a name of this server" in answer.json()["error"]
    for host in ("localhost:7860", "LOCALHOST", "[::1]:7860", "127.0.0.1"):
        assert client.get("/", headers={"host": host}).status_code == 200, host
    for kind in ("text/plain", "multipart/form-data", ""):
        answer = client.post("/compare", content=b"{}", headers={"content-type": kind})
        assert "requests are JSON" in answer.json()["error"]
    for body in (b"", b"[]", b"{", b"[" * 100_000, b"\xff"):
        answer = client.post("/compare", content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["field"]) == (422, "body")
    assert "larger than 20 MiB" in refused(413, picture="A" * (uploads.BODY + 1))
    assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 404


def test_the_page_loads_nothing(client):
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    text = answer.text.replace("http://www.w3.org/2000/svg", "")
    assert "http:" not in text
    assert "https:" not in text
    assert "{{" not in text
    assert text.count("</script>") == 2  # a name cannot end an element
    assert "DATA}}" not in page(["{{SCRIPT}}"], [])


# -- turns -----------------------------------------------------------------------------------------


def test_one_after_the_other_and_no_endless_queue():
    from lightkv.play.app import BusyError, Turns

    active, most = 0, 0
    first, go = threading.Event(), threading.Event()

    def work():
        nonlocal active, most
        active += 1
        most = max(most, active)
        first.set()
        assert go.wait(30)
        active -= 1
        return threading.current_thread().name

    async def run():
        turns = Turns(3)
        jobs = [asyncio.create_task(turns.take(work)) for _ in range(3)]
        await asyncio.to_thread(first.wait, 30)
        with pytest.raises(BusyError, match="waiting already"):
            await turns.take(work)
        go.set()
        names = await asyncio.gather(*jobs)
        with pytest.raises(ConfigError):
            await turns.take(lambda: (_ for _ in ()).throw(ConfigError("no")))
        return [*names, await turns.take(work)]

    assert len(set(asyncio.run(run()))) == 1
    assert most == 1


def test_a_failure_is_no_answer_and_leaves_no_hooks(app, scene, offers):
    """A bug inside a pass: the model is restored, and the next request is served."""
    loaded = offers.load("demo")
    asked = {"model": "demo", "picture": scene[0], "question": "list all digits"}
    asked |= {"strategies": NAMES, "retention": 0.4, "max_new_tokens": 1}

    def failing(error):
        def fail(*_):
            raise error

        return loaded.model.lm_head.register_forward_pre_hook(fail)

    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        assert client.post("/compare", json=asked).status_code == 200
        before = hooks(loaded.model)  # transformers leaves its own behind, once it has run
        handle = failing(torch.OutOfMemoryError("out"))
        columns = client.post("/compare", json=asked).json()["columns"]
        handle.remove()
        assert all("too little memory" in column["error"] for column in columns)
        assert hooks(loaded.model) == before
        handle = failing(ZeroDivisionError("a bug"))
        assert client.post("/compare", json=asked).status_code == 500
        handle.remove()
        assert hooks(loaded.model) == before
        assert client.post("/compare", json=asked).json()["columns"][0]["error"] is None


# -- what is offered, and where --------------------------------------------------------------------


def test_a_pipeline_file_needs_a_name_of_its_own(tmp_path):
    path = tmp_path / "x.yaml"
    for name in ("tome", "uncompressed"):
        path.write_text(f"name: {name}\nmatcher: tome\n")
        with pytest.raises(ConfigError, match="another strategy has this name"):
            Offers(["demo"], [path])


def test_models_are_called_by_the_end_of_their_path(monkeypatch, tmp_path):
    from lightkv.play.app import build_app

    assert Offers(["demo", "/models/llava", "owner/name"]).models == ["demo", "llava", "name"]
    assert Offers(["/a/llava", "/b/llava"]).models == ["/a/llava", "/b/llava"]
    with pytest.raises(LightKVError, match="no such directory"):
        build_app(Offers(["/not/there"]))
    monkeypatch.setattr("lightkv.play.offers.FOLDERS", {"demo": tmp_path})
    monkeypatch.setattr("lightkv.checkpoints.bundled.FOLDERS", {"demo": tmp_path})
    with pytest.raises(LightKVError, match="there is no checkpoint"):
        Offers()


def test_where_it_listens(monkeypatch):
    with contextlib.closing(server.listening("127.0.0.1", 0)) as made:
        port = made.getsockname()[1]
        assert server.address(made) == f"http://127.0.0.1:{port}/"
        with pytest.raises(ConfigError, match="cannot listen"):
            server.listening("127.0.0.1", port)
    for host, port, words in (
        ("127.0.0.1", 65536, "from 0 to"),
        ("198.51.100.7", 0, "cannot listen"),
    ):
        with pytest.raises(ConfigError, match=words):
            server.listening(host, port)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: (_ for _ in ()).throw(OSError()))
    with pytest.raises(ConfigError, match="not an address of this machine"):
        server.listening("not.there", 0)
    assert server.is_loopback("127.0.0.2")
    assert not server.is_loopback("0.0.0.0")
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="the playground needs fastapi"):
        server.serve()
