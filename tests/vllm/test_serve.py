"""A server over HTTP, asked by the OpenAI client: `vllm serve` without and with lightkv."""

import base64
import io
import time

import pytest
import torch
from server import Server, serve_flags

import lightkv
from lightkv.checkpoints.bundled import checkpoint_path
from lightkv.demo.model import load
from lightkv.demo.scenes import held_out_scenes, prompt
from lightkv.integrations.vllm import engine_args

RETENTION = 0.55
SETTINGS = {
    "dtype": "float32",
    "block_size": 32,
    "max_model_len": 512,
    "max_num_batched_tokens": 2048,
    "max_num_seqs": 16,
    "kv_cache_memory_bytes": 64 << 20,
    "enable_prefix_caching": False,
    "enforce_eager": True,
}
LONG = 300  # tokens; they take seconds


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
    """(picture, question) of a few scenes."""
    return [(scene.image, every[0]) for scene, every in held_out_scenes(6, seed=2026)]


@pytest.fixture(scope="module")
def expected(server, asked):
    """Answers of transformers, with lightkv where the server has it."""
    model, processor = load()

    def answers():
        found = []
        for image, question in asked:
            inputs = processor(images=image, text=prompt(question.text), return_tensors="pt")
            with torch.no_grad():
                made = model.generate(**inputs, max_new_tokens=8, do_sample=False)
            new = made[0, inputs["input_ids"].shape[1] :]
            found.append(processor.tokenizer.decode(new, skip_special_tokens=True).strip())
        return found

    if server.model == "vanilla":
        return answers()
    with lightkv.compress(model, "lightkv", retention=RETENTION):
        return answers()


def content(image, text):
    file = io.BytesIO()
    image.save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]


def ask(client, server, said, body=None, **options):
    # The processor of transformers puts `<bos>` before a prompt; a chat template is taken as it is.
    return client.chat.completions.create(
        model=server.model,
        messages=[{"role": "user", "content": said}],
        **{"temperature": 0, "max_tokens": 8, **options},
        extra_body={"add_special_tokens": True, **(body or {})},
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


def test_answers_are_those_of_transformers(client, server, asked, expected):
    got = [
        ask(client, server, content(image, question.text)).choices[0].message.content.strip()
        for image, question in asked
    ]
    assert got == expected


def test_streamed_answers_are_the_same(client, server, asked, expected):
    for (image, question), answer in zip(asked[:3], expected, strict=False):
        parts = list(ask(client, server, content(image, question.text), stream=True))
        text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
        assert text.strip() == answer
        assert parts[-1].choices[0].finish_reason == "stop"


def test_text_alone_is_answered(client, server):
    answer = ask(client, server, "what color is 7 ?", max_tokens=4)
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.prompt_tokens < 20


def test_two_answers_of_one_prompt(client, server, asked, expected):
    image, question = asked[0]
    answers = ask(client, server, content(image, question.text), n=2, temperature=1.0, seed=1)
    assert len(answers.choices) == 2
    # The model is sure of what it reads.
    assert expected[0] in {choice.message.content.strip() for choice in answers.choices}


def test_guided_decoding_keeps_to_its_words(client, server, asked):
    image, question = asked[0]
    for words in (["red", "pink"], ["yes"]):
        answer = ask(
            client,
            server,
            content(image, question.text),
            {"structured_outputs": {"choice": words}},
        )
        assert answer.choices[0].message.content.strip() in words


def test_an_abort_in_the_middle_of_a_stream_leaves_nothing(client, server, asked, expected):
    image, question = asked[0]
    before = quiet(server)
    stream = ask(
        client,
        server,
        content(image, question.text),
        {"ignore_eos": True},
        max_tokens=LONG,
        stream=True,
    )
    next(iter(stream))
    stream.close()
    after = quiet(server)
    generated = "vllm:generation_tokens_total"
    assert after[generated] - before[generated] < LONG
    assert after["vllm:kv_cache_usage_perc"] == 0
    again = ask(client, server, content(image, question.text))
    assert again.choices[0].message.content.strip() == expected[0]


def test_metrics_count_what_was_asked(client, server, asked):
    before = quiet(server)
    image, question = asked[0]
    answer = ask(client, server, content(image, question.text))
    after = quiet(server)
    for name, tokens in (
        ("vllm:prompt_tokens_total", answer.usage.prompt_tokens),
        ("vllm:generation_tokens_total", answer.usage.completion_tokens),
    ):
        assert after[name] - before[name] == tokens
