"""A server over HTTP, asked by the OpenAI client: `vllm serve` without and with lightkv."""

import base64
import io
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from server import Server

import lightkv
from lightkv.checkpoints.bundled import checkpoint_path
from lightkv.demo.model import load
from lightkv.demo.scenes import held_out_scenes, prompt
from lightkv.integrations.vllm import engine_args
from lightkv.integrations.vllm.flags import serve_flags
from lightkv.integrations.vllm.schedules import serving_pipeline

RETENTION = 0.55
SETTINGS = {
    "dtype": "float32",
    "block_size": 32,
    "max_model_len": 512,
    "max_num_batched_tokens": 2048,
    "max_num_seqs": 16,
    "limit_mm_per_prompt": {"image": 2},
    "kv_cache_memory_bytes": 64 << 20,
    "enable_prefix_caching": False,
    "enforce_eager": True,
}
TOKENS = 16
"""Of an answer. A trained answer is one or two long; what follows differs as soon as any number does."""
LENGTH = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS}
VISION = 144
"""Vision tokens of a picture of the bundled model."""
LONG = 300
"""Tokens that take seconds."""


@pytest.fixture(scope="module", params=["vanilla", "lightkv"])
def server(request, renamed_checkpoint):
    arguments = dict(SETTINGS)
    folder = renamed_checkpoint
    if request.param == "lightkv":
        folder = checkpoint_path()
        arguments |= engine_args(str(folder), "lightkv", retention=RETENTION)
    flags = serve_flags({**arguments, "served_model_name": request.param})
    with Server(folder, flags) as made:
        made.model = request.param
        yield made


@pytest.fixture(scope="module")
def client(server):
    return server.openai()


@pytest.fixture(scope="module")
def asked():
    """(pictures, question): scenes, and at the end one with two pictures and one with none."""
    scenes = held_out_scenes(8, seed=2026)
    found = [([scene.image], every[0].text) for scene, every in scenes]
    (image, *_), text = found[0]
    return [*found, ([image, image.rotate(180)], text), ([], text)]


@pytest.fixture(scope="module")
def expected(server, asked):
    """Answers of transformers, compressed by the engine's own schedule where the server compresses."""
    model, processor = load()

    def answer(images, text):
        whole = prompt(text).replace("<image>", " ".join(["<image>"] * len(images)))
        inputs = processor(images=images or None, text=" ".join(whole.split()), return_tensors="pt")
        with torch.no_grad():
            made = model.generate(**inputs, **LENGTH, do_sample=False)
        new = made[0, inputs["input_ids"].shape[1] :]
        return processor.tokenizer.decode(new, skip_special_tokens=True).strip()

    vanilla = [answer(*one) for one in asked]
    if server.model == "vanilla":
        return vanilla
    layers = model.config.text_config.num_hidden_layers
    chosen = serving_pipeline(
        "lightkv", layers, block_size=SETTINGS["block_size"], retention=RETENTION
    )
    with lightkv.compress(model, "lightkv", schedule=chosen.schedule.to_list()):
        compressed = [answer(*one) for one in asked]
    assert compressed != vanilla  # else they could not tell whether the server compresses
    return compressed


def content(images, text):
    """A message of the OpenAI API, pictures first."""
    said = []
    for image in images:
        file = io.BytesIO()
        image.save(file, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        said.append({"type": "image_url", "image_url": {"url": url}})
    return [*said, {"type": "text", "text": text}]


def ask(client, server, said, body=None, **options):
    # The processor of transformers puts `<bos>` before a prompt; a chat template is taken as it is.
    return client.chat.completions.create(
        model=server.model,
        messages=[{"role": "user", "content": said}],
        **{"temperature": 0, "max_tokens": TOKENS, **options},
        extra_body={"add_special_tokens": True, "min_tokens": TOKENS, **(body or {})},
    )


def quiet(server, seconds=30):
    """The metrics, as soon as nothing runs."""
    last = time.monotonic() + seconds
    while time.monotonic() < last:
        metrics = server.metrics()
        if not metrics["vllm:num_requests_running"] and not metrics["vllm:num_requests_waiting"]:
            return metrics
        time.sleep(0.2)
    raise AssertionError(f"requests are left after {seconds} s")


def text_of(answer):
    return answer.choices[0].message.content.strip()


def test_answers_are_those_of_transformers(client, server, asked, expected):
    assert [text_of(ask(client, server, content(*one))) for one in asked] == expected


def test_answers_to_many_at_once_are_the_same(client, server, asked, expected):
    with ThreadPoolExecutor(3 * len(asked)) as pool:
        said = [content(*one) for one in asked] * 3
        got = list(pool.map(lambda one: text_of(ask(client, server, one)), said))
    assert got == expected * 3
    assert quiet(server)["vllm:kv_cache_usage_perc"] == 0


def test_streamed_answers_are_the_same(client, server, asked, expected):
    for one, answer in zip(asked[:3], expected, strict=False):
        parts = list(ask(client, server, content(*one), stream=True))
        text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
        assert text.strip() == answer
        assert parts[-1].choices[0].finish_reason == "length"


def test_an_answer_ends_by_itself(client, server, asked, expected):
    answer = ask(client, server, content(*asked[0]), {"min_tokens": 0})
    assert answer.choices[0].finish_reason == "stop"
    assert expected[0].startswith(text_of(answer))


def test_two_answers_of_one_prompt(client, server, asked, expected):
    drawn = ask(client, server, content(*asked[0]), n=2, temperature=1.0, seed=1)
    first, second = (choice.message.content.split() for choice in drawn.choices)
    assert first != second
    # What it was trained to say, the model is sure of.
    assert first[0] == second[0] == expected[0].split()[0]


def test_guided_decoding_keeps_to_its_words(client, server, asked):
    for words in (["red", "pink"], ["yes"]):
        guided = {"structured_outputs": {"choice": words}, "min_tokens": 0}
        answer = ask(client, server, content(*asked[0]), guided)
        assert text_of(answer) in words


def test_an_abort_in_the_middle_of_a_stream_leaves_nothing(client, server, asked, expected):
    generated, endless = "vllm:generation_tokens_total", {"ignore_eos": True}
    for _ in range(5):
        before = quiet(server)
        stream = ask(client, server, content(*asked[0]), endless, max_tokens=LONG, stream=True)
        next(iter(stream))
        stream.close()
        after = quiet(server)
        if after[generated] - before[generated] < LONG:
            break  # Otherwise the engine was done before the server saw that nobody listens.
    else:
        pytest.fail("no stream was aborted before its end")
    assert after["vllm:kv_cache_usage_perc"] == 0
    again = ask(client, server, content(*asked[0]))
    assert text_of(again) == expected[0]


def test_metrics_count_what_was_asked(client, server, asked):
    before = quiet(server)
    answer = ask(client, server, content(*asked[0]))
    after = quiet(server)
    for name, tokens in (
        ("vllm:prompt_tokens_total", answer.usage.prompt_tokens),
        ("vllm:generation_tokens_total", answer.usage.completion_tokens),
    ):
        assert after[name] - before[name] == tokens
    seen, kept = (
        after[name] - before[name]
        for name in ("lightkv:vision_tokens_total", "lightkv:vision_tokens_kept_total")
    )
    if server.model == "vanilla":
        assert seen == kept == 0
    else:
        assert seen == VISION
        assert kept / seen == pytest.approx(RETENTION, abs=0.03)
