"""Tasks: the demo's own accuracy, the user's files, agreement, likelihoods, and bad data."""

import json
import struct
import zlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scores import by_kind, evaluate

from lightkv.checkpoints.prompts import batch_inputs
from lightkv.core.errors import ConfigError, SessionError
from lightkv.demo.scenes import held_out_scenes
from lightkv.lab.errors import TaskError
from lightkv.lab.subject import Subject, usage
from lightkv.lab.tasks import build_task, tasks
from lightkv.lab.tasks.scoring import exact, overlap, vqa, words


@pytest.fixture(scope="module")
def subject():
    return Subject.load()


def run(subject, task, pipeline=None, retention=None, reference=None):
    samples = task.samples()
    with subject.compressed(pipeline, retention, probe=samples[:1]) as session:
        return list(task.evaluate(subject, samples, reference)), usage(session)


def test_scenes_have_the_demos_accuracy(subject):
    task = build_task({"name": "scenes", "scenes": 6, "seed": 4})
    found, spent = run(subject, task)
    scores = {kind: sum(o.score for o in some) / len(some) for kind, some in by_kind(found).items()}
    assert scores == evaluate(subject.model, subject.processor, held_out_scenes(6, 4))
    assert {o.sample for o in found} == {s.id for s in task.samples()}
    assert len({o.cluster for o in found}) == 6
    assert (spent.retention, spent.flops, spent.kv_bytes) == (1.0, 1.0, 1.0)
    assert spent.tokens == (144.0,) * 12


def test_retention_is_equalised(subject):
    task = build_task({"name": "scenes", "scenes": 1, "kinds": ["count"]})
    achieved = {}
    for equalise in (True, False):
        session = subject.prepare("lightkv", 0.35, probe=task.samples(), equalise=equalise)
        assert session.reports == []  # the probes leave no trace
        with subject.within(session):
            found = list(task.evaluate(subject, task.samples()))
        achieved[equalise] = found[0].retention
        assert usage(session).retention == pytest.approx(found[0].retention)
    assert abs(achieved[True] - 0.35) <= 0.0025
    assert abs(achieved[False] - 0.35) > 0.0025  # small windows round


def test_sessions_do_not_nest(subject):
    with (
        subject.compressed(None),
        pytest.raises(SessionError, match="in a session already"),
        subject.compressed("lightkv"),
    ):
        pass
    assert subject.session is None


def picture(path, color=(200, 30, 30)):
    Image.new("RGB", (96, 96), color).save(path)


@pytest.fixture
def folder(tmp_path):
    for name in ("one.png", "two.png"):
        picture(tmp_path / name)
    lines = [
        {"image": "one.png", "question": "how many digits there ?", "answers": ["0", "1"]},
        {
            "file_name": "two.png",
            "question": "is digit 3 there ?",
            "answer": "no",
            "kind": "exists",
        },
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return tmp_path


def test_files_from_folder_and_from_lines(subject, folder):
    one, two = (
        build_task({"name": "files", "path": str(path)})
        for path in (folder, folder / "metadata.jsonl")
    )
    first, second = one.samples()
    assert first.answers == ("0", "1")
    assert (second.kind, second.answers, second.cluster) == ("exists", ("no",), "two.png")
    assert [s.question for s in two.samples()] == [first.question, second.question]
    assert first.seen().pictures[0].size == (96, 96)
    found, spent = run(subject, one, "lightkv", 0.55)
    assert {o.sample for o in found} == {first.id, second.id}
    assert all(o.score in (0.0, 1.0) for o in found)
    assert spent.retention == pytest.approx(0.55, abs=0.0025)
    before = one.fingerprint()
    picture(folder / "one.png", (1, 2, 3))
    assert one.fingerprint() != before


def test_a_fingerprint_is_of_names_and_contents(folder):
    task = build_task({"name": "files", "path": str(folder)})
    before = task.fingerprint()
    assert task.fingerprint() == before
    one, two = folder / "one.png", folder / "two.png"
    one.write_bytes(one.read_bytes() + b"one")  # behind the picture, so of no account to Pillow
    two.write_bytes(two.read_bytes() + b"two")
    assert len({before, task.fingerprint()}) == 2
    before = task.fingerprint()
    names = one.rename(folder / "kept.png"), two.rename(one)
    names[0].rename(two)  # the same sizes and names, the other way round
    assert task.fingerprint() != before
    before = task.fingerprint()
    lines = (folder / "metadata.jsonl").read_text()
    (folder / "copy.png").write_bytes(one.read_bytes())
    (folder / "metadata.jsonl").write_text(lines.replace("one.png", "copy.png"))
    assert task.fingerprint() != before


def test_a_folder_of_pictures_alone(subject, folder):
    (folder / "metadata.jsonl").unlink()
    inner = {"name": "files", "path": str(folder)}
    with pytest.raises(TaskError, match="nobody knows what to ask"):
        build_task(inner).samples()
    inner["question"] = "list all digits"
    with pytest.raises(TaskError, match="has no answers"):
        build_task(inner).samples()
    task = build_task({"name": "agreement", "of": inner, "measure": "overlap"})
    truth, _ = run(subject, task)
    assert [o.score for o in truth] == [1.0, 1.0]
    reference = {o.sample: o.answer for o in truth}
    found, _ = run(subject, task, "random", 0.3, reference)
    assert all(0.0 <= o.score <= 1.0 for o in found)
    for one in found:
        assert one.score == overlap(one.answer, [reference[one.sample]])


def broken_lines(name):
    good = json.dumps({"image": "one.png", "question": "?", "answers": ["x"]})
    return {
        "json": (good + '\n{"image": \n', "line 2: not valid JSON"),
        "bytes": (good.encode() + b"\n\n\xff\xfe{}\n", "line 3: not valid JSON"),
        "list": ("[1, 2]\n", "line 1: a line is an object"),
        "image": (good + "\n" + '{"question": "?"}\n', "line 2: no text under 'image'"),
        "question": ('{"image": "one.png"}\n', "line 1: no text under 'question'"),
        "answers": (
            '{"image": "one.png", "question": "?", "answers": [1]}\n',
            "line 1: 'answers' is neither",
        ),
        "missing": ('{"image": "no.png", "question": "?"}\n', "line 1 .*no such picture"),
        "base64": (good.replace("one.png", "iVBOR/w0KGgo" * 9000), "line 1 .*no such picture"),
        "null": (good.replace("one.png", "one\\u0000.png"), "line 1 .*no such picture"),
        "deep": (good + "\n" + "[" * 100_000, "line 2: not valid JSON"),
        "long": (good[:-1] + ', "n": ' + "1" * 5000 + "}", "line 1: not valid JSON"),
        "surrogate": (good[:-1] + ', "kind": "\\ud800"}', "line 1: half a surrogate pair"),
        "key": (good[:-1] + ', "\\udfff": 1}', "line 1: half a surrogate pair"),
        "empty": ("\n\n", "no samples"),
        "twice": ("\n".join([good[:-1] + ', "id": "a"}'] * 2), "two samples have the id 'a'"),
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        *("json", "bytes", "list", "image", "question", "answers", "missing", "empty", "twice"),
        *("base64", "null", "deep", "long", "surrogate", "key"),
    ],
)
def test_broken_lines_are_named(folder, name):
    content, message = broken_lines(name)
    path = folder / "lines.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TaskError, match=message) as caught:
        build_task({"name": "files", "path": str(path)}).samples()
    assert len(str(caught.value)) < 1000


def huge_png(side):
    """A valid header of a PNG of `side` x `side` pixels with next to no data."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no picture", "line 1 .*not a picture that Pillow can read"),
        (huge_png(9000), "line 1 .*larger than 64 megapixels"),
        (huge_png(40_000), "line 1 .*larger than 64 megapixels"),
    ],
    ids=["unreadable", "large", "bomb"],
)
def test_bad_pictures_are_named(folder, content, message):
    (folder / "one.png").write_bytes(content)
    with pytest.raises(TaskError, match=message) as caught:
        build_task({"name": "files", "path": str(folder)}).samples()
    assert "one.png" in str(caught.value)


def test_a_truncated_picture_is_named_when_it_is_read(folder):
    data = (folder / "one.png").read_bytes()
    (folder / "one.png").write_bytes(data[: len(data) // 2])
    sample = build_task({"name": "files", "path": str(folder)}).samples()[0]
    with pytest.raises(TaskError, match=r"one\.png"):
        sample.seen().pictures[0]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("scene", "no such task.*Did you mean 'scenes'"),
        ({"name": "scenes", "sceens": 3}, "Did you mean 'scenes'.*Its parameters are"),
        ({"name": "scenes", "scenes": 0}, "greater than or equal to 1"),
        ({"name": "scenes", "kinds": ["counts"]}, "no such kind of question.*'count'"),
        ({"scenes": 3}, "a name or a mapping with name"),
        (3, "a name or a mapping with name"),
        ({"name": "agreement", "of": "file"}, "Did you mean 'files'"),
        ({"name": "files", "path": "/none/at/all"}, "no such file or folder"),
        ({"name": "files", "path": "long" * 9000}, "no such file or folder"),
    ],
)
def test_wrong_tasks(source, message):
    with pytest.raises(ConfigError, match=message):
        build_task(source).samples()


def test_specs_are_plain_and_come_back(folder):
    made = [
        build_task({"name": "scenes", "scenes": 3, "split": "train"}),
        build_task({"name": "pictures", "rows": 8, "columns": 20}),
        build_task({"name": "pairs", "kinds": ["both"]}),
        build_task({"name": "clips", "by": "time"}),
        build_task({"name": "files", "path": str(folder)}),
        build_task({"name": "agreement", "of": {"name": "scenes", "scenes": 2}}),
        build_task({"name": "perplexity", "of": "scenes"}),
    ]
    assert {task.name for task in made} == set(tasks())
    for task in made:
        assert build_task(json.loads(json.dumps(task.spec()))) == task


def test_likelihood_is_that_of_one_pass(subject):
    """Forced decoding of the uncompressed model against one pass over prompt and answer."""
    task = build_task({"name": "perplexity", "of": {"name": "scenes", "scenes": 2}})
    samples = task.samples()
    found, _ = run(subject, task)
    scores = {o.sample: o.score for o in found}
    tokenizer = subject.processor.tokenizer
    for sample in samples:
        inputs = batch_inputs(subject.processor, [sample.question], [sample.seen()], subject.model)
        ids = tokenizer(sample.answers[0], add_special_tokens=False, return_tensors="pt").input_ids
        whole = torch.cat([inputs["input_ids"], ids], dim=1)
        with torch.no_grad():
            logits = subject.model(input_ids=whole, pixel_values=inputs["pixel_values"]).logits
        chances = logits[0, -ids.shape[1] - 1 : -1].log_softmax(dim=-1)
        wanted = chances.gather(1, ids[0].unsqueeze(1)).mean().item()
        assert scores[sample.id] == pytest.approx(wanted, abs=1e-4)


def test_likelihood_reads_the_compressed_cache(subject):
    """The first token sees the prefill; the later ones of a list see the cache."""
    task = build_task(
        {"name": "perplexity", "of": {"name": "scenes", "scenes": 3, "kinds": ["list"]}}
    )
    plain, _ = run(subject, task)
    same, _ = run(subject, task, {"matcher": "keep-all", "schedule": []})
    assert same == plain
    evicted, spent = run(subject, task, "random", 0.2)
    assert spent.retention == pytest.approx(0.2, abs=0.01)
    assert all(o.score <= 0.0 for o in evicted)
    assert sum(o.score for o in evicted) < sum(o.score for o in plain) - 1.0


def test_normalised_words():
    assert words("The two red, cats!") == ["2", "red", "cats"]
    assert words("It's 3.5 or 1,000.") == ["its", "3.5", "or", "1,000"]
    assert exact("A cat.", ["dog", "cat"]) == 1.0
    assert exact("cats", ["cat"]) == 0.0
    # Ten people, two of whom said so: 2 · min(1/3, 1) + 8 · min(2/3, 1) over ten.
    assert vqa("red", ["red"] * 2 + ["blue"] * 8) == pytest.approx((2 / 3 + 8 * 2 / 3) / 10)
    assert vqa("red", ["red"] * 5 + ["blue"] * 5) == 1.0
    assert vqa("red", ["Red"]) == 1.0
    assert overlap("a red cat sits", ["the red dog sits"]) == pytest.approx(2 * 2 / 6)
    assert overlap("", [""]) == 1.0
    assert overlap("x", [""]) == 0.0


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        *[("", "A"), ("!!!", "A"), ("The", "A"), ("B", "A"), ("+", "-"), ("", "?")],
        *[("-5", "5"), ("\u22125", "5"), ("5", "(-5)"), (".5", "5"), ("-.5", "-5")],
        *[("की", "का"), ("ดี", "ดู")],
    ],
)
def test_what_is_left_of_nothing_is_not_right(answer, truth):
    """Normalising may empty an answer or take its sense; then it must not equal another one."""
    for measure in (exact, vqa, overlap):
        assert measure(answer, [truth]) == measure(truth, [answer]) == 0.0
        assert measure(answer, [truth] * 10) == 0.0
        assert measure(answer, [answer]) == measure(truth, [truth]) == 1.0


def test_forms_of_one_answer_are_equal():
    for answer in ("A", "a", "A.", "(a)", " a)"):
        assert exact(answer, ["A"]) == 1.0
    assert exact("\u22125", ["-5"]) == 1.0
    assert exact("3-5", ["3 5"]) == exact("well...5", ["well 5"]) == 1.0
    assert exact("cafe\u0301", ["CAFÉ"]) == 1.0
    assert exact("की", ["की!"]) == 1.0


@given(st.text(max_size=30), st.text(max_size=30))
def test_overlap_is_a_symmetric_share(one, other):
    assert 0.0 <= overlap(one, [other]) <= 1.0
    assert overlap(one, [other]) == overlap(other, [one])
    assert overlap(one, [one]) == exact(one, [one]) == 1.0
