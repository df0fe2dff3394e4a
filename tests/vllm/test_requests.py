"""Requests that cannot be served, over HTTP and in an engine; and what the metrics endpoint counts."""

import base64
import io
import json
import logging
from types import SimpleNamespace

import pytest
import torch
from openai import BadRequestError
from PIL import Image
from server import Server

from lightkv.integrations.vllm.flags import serve_flags
from lightkv.integrations.vllm.pictures import PictureReader
from lightkv.integrations.vllm.plan import ServingPlan
from lightkv.integrations.vllm.savings import Savings
from lightkv.integrations.vllm.schedules import serving_pipeline

OPTIONS = {
    "pipeline": "lightkv",
    "partitioner": {"name": "windows", "clamp": False},
    "schedule": [
        {"after_layer": 4, "ratio": 0.5, "windows": 5},
        {"after_layer": 7, "ratio": 0.5, "windows": 1},
    ],
}
GOOD, SMALL, LARGE = (128, 96), (64, 64), (240, 240)
"""Pixels of pictures that fit, that have less than 5 tokens on a side, and that no step computes."""
GRID = (1, 12, 16)
"""Patches of the picture that fits; 2 × 2 of them are one token."""
STEP = 160
SETTINGS = {
    "dtype": "float32",
    "block_size": 32,
    "max_model_len": 512,
    "max_num_batched_tokens": STEP,
    "max_num_seqs": 4,
    "enforce_eager": True,
    "enable_prefix_caching": False,
    "kv_cache_memory_bytes": 64 << 20,
    "limit_mm_per_prompt": {"image": 2, "video": 0},
}
COUNTED = (
    "lightkv:vision_tokens_total",
    "lightkv:vision_tokens_kept_total",
    "lightkv:kv_blocks_saved_total",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import tiny_checkpoints

    made = tmp_path_factory.mktemp("requests") / "checkpoint"
    tiny_checkpoints.qwen2_vl(made)
    return made


# Over HTTP: nothing but `additional_config` says that lightkv is to run.


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    template = tmp_path_factory.mktemp("template") / "chat.jinja"
    template.write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    flags = serve_flags(
        {
            **SETTINGS,
            "additional_config": {"lightkv": OPTIONS},
            "served_model_name": "tiny",
            "chat_template": str(template),
        }
    )
    with Server(folder, flags) as made:
        made.model = "tiny"
        # Before any request: what the engine started and warmed up with is not counted.
        made.first = made.metrics()
        yield made


def ask(server, size, text="w1 w2 w3", body=None, **options):
    file = io.BytesIO()
    Image.new("RGB", size, (90, 20, 200)).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    said = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    return server.openai().chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": said}],
        **{"temperature": 0, "max_tokens": 4, **options},
        extra_body=body or {},
    )


def test_nothing_is_counted_before_the_first_request(server):
    assert [server.first[name] for name in COUNTED] == [0, 0, 0]
    assert server.first["lightkv:plan_info"] == 1


def test_what_is_counted_is_what_the_plan_says(server, folder):
    before = server.metrics()
    answer = ask(server, GOOD, n=2, temperature=1.0)
    assert len(answer.choices) == 2
    after = server.metrics()
    expected = savings(folder, answer.usage.prompt_tokens)
    assert expected.vision == 48
    assert 0 < expected.kept < 48
    assert after[COUNTED[0]] - before[COUNTED[0]] == 48
    assert after[COUNTED[1]] - before[COUNTED[1]] == pytest.approx(expected.kept)
    saved = max(0, expected.uncompressed - expected.blocks)
    assert after[COUNTED[2]] - before[COUNTED[2]] == pytest.approx(saved)


def savings(folder, prompt):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    pipeline = serving_pipeline(
        OPTIONS["pipeline"],
        config.text_config.num_hidden_layers,
        block_size=32,
        partitioner=OPTIONS["partitioner"],
        schedule=OPTIONS["schedule"],
    )
    plan = ServingPlan(pipeline)
    reader = PictureReader(config)
    place = SimpleNamespace(offset=1, length=48, is_embed=None)
    data = {"image_grid_thw": SimpleNamespace(data=torch.tensor([GRID]))}
    feature = SimpleNamespace(data=data, modality="image", identifier="a", mm_position=place)
    spans = reader.spans([feature])
    return Savings(plan).of(plan.entry(spans, reader.sample(spans), prompt), 32)


@pytest.mark.parametrize(
    ("size", "body", "message"),
    [
        (SMALL, {}, "5 windows per side do not fit"),
        (LARGE, {}, "have to be computed in one step"),
        (GOOD, {"prompt_logprobs": 1}, "prompt_logprobs"),
        (GOOD, {"kv_transfer_params": {"do_remote_prefill": True}}, "kv_transfer_params"),
    ],
)
def test_a_request_that_cannot_be_served_is_a_bad_request(server, size, body, message):
    before = server.metrics()
    with pytest.raises(BadRequestError, match=message) as caught:
        ask(server, size, body=body)
    assert caught.value.status_code == 400
    after = server.metrics()
    if size != GOOD:
        assert [after[name] for name in COUNTED] == [before[name] for name in COUNTED]
    # The engine lives, and goes on answering.
    assert ask(server, GOOD).choices[0].finish_reason == "length"


def test_the_picture_of_a_refused_request_reaches_the_engine_with_the_next(server):
    for size, body in (((96, 128), {"prompt_logprobs": 1}), (SMALL, {})):
        with pytest.raises(BadRequestError):
            ask(server, size, body=body)
    assert ask(server, (96, 128)).choices[0].finish_reason == "length"


def test_the_log_says_once_what_is_on(server):
    log = server.log()
    assert log.count("lightkv is on: pipeline lightkv") == 1
    assert "stages after decoder layers 4, 7 of 10" in log


# In an engine, behind the checks of the process that requests come to.


@pytest.fixture
def engine(engines, folder):
    settings = {**SETTINGS, "additional_config": {"lightkv": OPTIONS}}
    return engines(model=str(folder), **settings)


def prompts(*sizes):
    mark = "<|vision_start|><|image_pad|><|vision_end|>"
    return [
        {
            "prompt": f"w1 {mark} w2 w3",
            "multi_modal_data": {"image": Image.new("RGB", size, (9, 200, 40))},
        }
        for size in sizes
    ]


def generate(engine, asked, **options):
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, **options)
    return engine.generate(asked, params, use_tqdm=False)


@pytest.mark.parametrize(
    ("size", "message"), [(SMALL, "do not fit"), (LARGE, "max_num_batched_tokens")]
)
def test_generate_raises_a_value_error(engine, size, message):
    with pytest.raises(ValueError, match=message):
        generate(engine, prompts(size))
    assert len(generate(engine, prompts(GOOD))[0].outputs[0].token_ids) == 4


def test_prompt_logprobs_are_refused(engine):
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match="log-probabilities"):
        generate(engine, prompts(GOOD), prompt_logprobs=1)


@pytest.fixture
def unchecked(monkeypatch):
    """Requests come by another way, without the checks in front."""
    from lightkv.integrations.vllm.front import Front
    from lightkv.integrations.vllm.request_rules import RequestRules

    monkeypatch.setattr(Front, "_check", lambda self, *made: None)
    monkeypatch.setattr(RequestRules, "validate_params", classmethod(lambda cls, params: None))


@pytest.fixture
def told():
    """Messages of lightkv in the engine's log."""
    found = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    logger = logging.getLogger("vllm.lightkv")
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (SMALL, {}, "do not fit"),
        (LARGE, {}, "max_num_batched_tokens"),
        (GOOD, {"prompt_logprobs": 1}, "log-probabilities"),
    ],
)
@pytest.mark.parametrize("others", [0, 2])
def test_the_scheduler_ends_what_it_cannot_serve(
    engine, unchecked, told, size, options, message, others
):
    wanted = [o.outputs[0].token_ids for o in generate(engine, prompts(*[GOOD] * others))]
    from vllm import SamplingParams

    plain = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    bad = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, **options)
    asked = prompts(*[GOOD] * others, size)
    outputs = engine.generate(asked, [*[plain] * others, bad], use_tqdm=False)
    assert outputs[-1].outputs[0].finish_reason == "error"
    assert [o.outputs[0].token_ids for o in outputs[:-1]] == wanted
    assert any(message in line for line in told)
    scheduler = engine.llm_engine.engine_core.engine_core.scheduler
    assert scheduler.get_request_counts() == (0, 0)
    assert not scheduler.entries
    assert not scheduler.refused


def test_pictures_that_the_encoder_has_no_room_for_wait_whole(engine):
    """Three prompts of 64 + 48 tokens with a step of 160: the second picture waits for the next step."""
    alone = [generate(engine, prompts(size))[0].outputs[0].token_ids for size in ((128, 128), GOOD)]
    outputs = generate(engine, prompts((128, 128), GOOD, (128, 128), GOOD))
    assert [o.outputs[0].token_ids for o in outputs] == [*alone, *alone]


# Whoever is built looks at the whole set.


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"worker_cls": "vllm.v1.worker.cpu_worker.CPUWorker"}, "--worker-cls"),
        ({"scheduler_cls": "vllm.v1.core.sched.scheduler.Scheduler"}, "--scheduler-cls"),
    ],
)
def test_a_part_of_the_classes_is_refused(folder, changes, field):
    from lightkv.core.errors import ConfigError

    with pytest.raises(ConfigError) as caught:
        configured(folder, **changes)
    assert caught.value.field == field


def test_each_class_refuses_an_engine_that_lacks_a_part(folder):
    from lightkv.core.errors import CompatibilityError, ConfigError
    from lightkv.integrations.vllm.configure import check_complete

    for holder, name, value, field in (
        ("scheduler_config", "scheduler_cls", None, "--scheduler-cls"),
        ("parallel_config", "worker_cls", "auto", "--worker-cls"),
        ("model_config", "logits_processors", None, "--logits-processors"),
    ):
        made = configured(folder)
        setattr(getattr(made, holder), name, value)
        with pytest.raises(ConfigError) as caught:
            check_complete(made)
        assert caught.value.field == field
    made = configured(folder)
    made.model_config.hf_config.architectures = ["Qwen2VLForConditionalGeneration"]
    with pytest.raises(ConfigError, match="LightKVQwen2VL"):
        check_complete(made)
    made = configured(folder)
    del made.model_config.hf_config.lightkv_checks_requests
    with pytest.raises(CompatibilityError, match="would not be checked"):
        check_complete(made)


def test_a_model_that_is_not_mapped_is_refused(tmp_path, folder):
    from transformers import LlamaConfig

    from lightkv.core.errors import ModelError

    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=100,
    ).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="Qwen2VLForConditionalGeneration"):
        configured(tmp_path, skip_tokenizer_init=True)


def test_nobody_else_meets_lightkv(folder):
    made = configured(folder, additional_config={})
    assert made.scheduler_config.scheduler_cls is None
    assert "lightkv" not in made.parallel_config.worker_cls
    assert made.model_config.logits_processors is None
    assert made.model_config.hf_config.architectures == ["Qwen2VLForConditionalGeneration"]


def configured(folder, **changes):
    from vllm.engine.arg_utils import EngineArgs

    settings = {
        "model": str(folder),
        "dtype": "float32",
        "max_model_len": 512,
        "enable_prefix_caching": False,
        "additional_config": json.loads(json.dumps({"lightkv": OPTIONS})),
    }
    return EngineArgs(**{**settings, **changes}).create_engine_config()


def test_both_runners_take_the_rules():
    """And neither does anything for them: no request's logits need processing."""
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.sample.logits_processor import validate_logits_processors_parameters
    from vllm.v1.worker.gpu.sample.logits_processor import (
        build_custom_logits_processors_params_validator,
    )

    from lightkv.integrations.vllm.configure import RULES
    from lightkv.integrations.vllm.request_rules import RequestRules

    asked = SamplingParams(prompt_logprobs=1)
    with pytest.raises(VLLMValidationError, match="log-probabilities"):
        validate_logits_processors_parameters([RULES], asked)
    with pytest.raises(VLLMValidationError, match="log-probabilities"):
        build_custom_logits_processors_params_validator([RULES])(asked)
    for rules in (RequestRules(None, None, False), RequestRules(None, None)):
        assert rules.is_argmax_invariant()
        assert not rules.add_request(0, asked)
        assert rules.apply("logits", None) == "logits"
