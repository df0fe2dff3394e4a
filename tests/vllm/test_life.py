"""What happens to requests while an engine serves: mixed, aborted, preempted, sampled, in pieces.

All on the bundled model in float32. Tests stand in the order of the engines that they need, as only the
last engine lives.
"""

from __future__ import annotations

import json
import shutil

import pytest

pytest.importorskip("vllm.config")

import torch
from compare import engine_prompt, questions
from safetensors.torch import load_file, save_file
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import StructuredOutputsParams
from watched import Watch

import lightkv
from lightkv.checkpoints.bundled import checkpoint_path
from lightkv.demo.model import load
from lightkv.integrations.vllm import engine_args
from lightkv.integrations.vllm.schedules import serving_pipeline

BLOCK = 32
GREEDY = SamplingParams(temperature=0, max_tokens=6)
LONG = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
QUESTIONS = questions(12)
"""The fourth and the twelfth are text only, the eighth has two pictures."""


PROMPTS = [engine_prompt(*question) for question in QUESTIONS]


@pytest.fixture(scope="module")
def serve(engines):
    """`serve(preset, engine={…}, **changes)` gives an engine and its watch."""

    def started(pipeline="lightkv", engine=None, model=None, **changes):
        arguments = {
            "max_model_len": 512,
            "max_num_seqs": 8,
            "max_num_batched_tokens": 1024,
            "limit_mm_per_prompt": {"image": 2},
            **(engine or {}),
        }
        own = {"model": str(model or checkpoint_path())}
        if pipeline is not None:
            own = engine_args(own["model"], pipeline, **changes)
        llm = engines(**own, **arguments)
        scheduler = scheduler_of(llm)
        if not hasattr(scheduler, "watch"):
            scheduler.watch = Watch(scheduler)
            scheduler.watch.core = llm.llm_engine.engine_core.engine_core
        return llm, scheduler.watch

    return started


def scheduler_of(llm):
    return llm.llm_engine.engine_core.engine_core.scheduler


def generated(llm, prompts, sampling=GREEDY):
    """Token ids of each answer."""
    outputs = llm.generate(prompts, sampling, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def one_by_one(llm, prompts, sampling=GREEDY):
    """The same without company."""
    return [generated(llm, [each], sampling)[0] for each in prompts]


def stepped(llm, arrivals, until=None, aborts=None):
    """Let requests arrive step by step.

    Args:
        llm: the engine.
        arrivals: step → (name, prompt, sampling) of each request that comes before it.
        until: what to do after each step; gets its number.
        aborts: step → names to abort after it.

    Returns:
        name → token ids of those that finished.
    """
    engine, answers, step = llm.llm_engine, {}, 0
    while step <= max(arrivals) or engine.has_unfinished_requests():
        for name, asked, sampling in arrivals.get(step, ()):
            engine.add_request(name, asked, sampling)
        for output in engine.step():
            if output.finished:
                answers[output.request_id] = list(output.outputs[0].token_ids)
        if until is not None:
            until(step)
        for name in (aborts or {}).get(step, ()):
            engine.abort_request([name])
        step += 1
        assert step < 2000, "requests wait for ever"
    return answers


def clean(watch):
    """Nothing is held, by the worker neither, and no request held other blocks than counted."""
    if watch.core.scheduler.has_requests():
        watch.core.step()  # A server does: it tells the worker who is gone.
    runner = watch.core.model_executor.driver_worker.worker.model_runner
    assert not runner.serving.requests._of
    assert not runner.requests
    assert watch.left == 0
    assert not watch.wrong


@pytest.fixture(scope="module")
def loaded():
    torch.set_num_threads(1)
    return load()


def in_transformers(loaded, chosen, pipeline, tokens=6, least=None, scores=False, **changes):
    """Answers one at a time by the schedule that the engine runs; with logits of each step if wanted."""
    model, processor = loaded
    layers = model.config.text_config.num_hidden_layers
    spec = serving_pipeline(pipeline, layers, block_size=BLOCK, **changes)
    changes = {name: value for name, value in changes.items() if name != "retention"}
    changes["schedule"] = spec.schedule.to_list()
    found = []
    with lightkv.compress(model, pipeline, **changes), torch.no_grad():
        for text, pictures in chosen:
            inputs = processor(images=pictures or None, text=[text], return_tensors="pt")
            out = model.generate(
                **inputs,
                max_new_tokens=tokens,
                min_new_tokens=least,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
            ids = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
            logits = [step[0].log_softmax(-1) for step in out.logits]
            found.append((ids, logits) if scores else ids)
    return found


# One engine with room for all


@pytest.fixture
def roomy(serve):
    return serve(retention=0.55)


def test_arrivals_over_time_answer_as_one_at_a_time(roomy):
    llm, watch = roomy
    alone = one_by_one(llm, PROMPTS, LONG)
    arrivals = {2 * i + i % 2: [(str(i), each, LONG)] for i, each in enumerate(PROMPTS)}
    answers = stepped(llm, arrivals)
    assert [answers[str(i)] for i in range(len(PROMPTS))] == alone
    assert watch.peak > 4
    clean(watch)


def test_logprobs_are_those_of_transformers(roomy, loaded):
    llm, watch = roomy
    sampling = SamplingParams(temperature=0, max_tokens=6, logprobs=3)
    outputs = llm.generate(PROMPTS, sampling, use_tqdm=False)
    expected = in_transformers(loaded, QUESTIONS, "lightkv", retention=0.55, scores=True)
    for output, (ids, logits) in zip(outputs, expected, strict=True):
        assert list(output.outputs[0].token_ids) == ids
        for step, row in zip(output.outputs[0].logprobs, logits, strict=True):
            for token, said in step.items():
                assert said.logprob == pytest.approx(float(row[token]), abs=1e-4)
    clean(watch)


def test_greedy_copies_equal_the_single_answer(roomy):
    llm, watch = roomy
    alone = generated(llm, PROMPTS[:4])
    # Greedy requests have one answer in vLLM's eyes, so these are sampled from the best token only.
    copies = SamplingParams(n=3, temperature=1.0, top_k=1, max_tokens=6)
    for output, single in zip(
        llm.generate(PROMPTS[:4], copies, use_tqdm=False), alone, strict=True
    ):
        assert [list(each.token_ids) for each in output.outputs] == [single] * 3
    clean(watch)


def test_seeded_copies_come_again(roomy):
    llm, watch = roomy
    copies = SamplingParams(n=3, temperature=1.5, seed=7, max_tokens=12, ignore_eos=True)

    def drawn():
        outputs = llm.generate(PROMPTS[:4], copies, use_tqdm=False)
        return [[list(each.token_ids) for each in output.outputs] for output in outputs]

    first = drawn()
    assert drawn() == first
    assert len({tuple(each) for each in first[0]}) > 1
    clean(watch)


def test_a_seeded_sample_does_not_depend_on_its_company(roomy):
    llm, watch = roomy
    seeded = [
        SamplingParams(temperature=1.5, seed=40 + i, max_tokens=12, ignore_eos=True)
        for i in range(len(PROMPTS))
    ]
    alone = [
        generated(llm, [each], sampling)[0] for each, sampling in zip(PROMPTS, seeded, strict=True)
    ]
    assert generated(llm, PROMPTS, seeded) == alone
    clean(watch)


def test_guided_answers_keep_to_the_choice(roomy):
    llm, watch = roomy
    choice = ["red", "blue"]
    guided = SamplingParams(
        temperature=0, max_tokens=6, structured_outputs=StructuredOutputsParams(choice=choice)
    )
    # A free request beside them, which none of this may change.
    free = generated(llm, PROMPTS[:1])
    asked = [GREEDY, *[guided] * 5]
    outputs = llm.generate([PROMPTS[0], *PROMPTS[:5]], asked, use_tqdm=False)
    assert list(outputs[0].outputs[0].token_ids) == free[0]
    assert {output.outputs[0].text.strip() for output in outputs[1:]} <= set(choice)
    assert all(output.outputs[0].finish_reason == "stop" for output in outputs[1:])
    clean(watch)


def test_a_stop_string_ends_an_answer(roomy):
    llm, watch = roomy
    [free] = llm.generate(PROMPTS[:1], LONG, use_tqdm=False)
    words = free.outputs[0].text.split()
    assert len(words) > 3
    stop = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, stop=[words[2]])
    [stopped] = llm.generate(PROMPTS[:1], stop, use_tqdm=False)
    assert stopped.outputs[0].finish_reason == "stop"
    assert stopped.outputs[0].stop_reason == words[2]
    assert stopped.outputs[0].text == free.outputs[0].text.partition(words[2])[0]
    clean(watch)


def test_one_token_is_enough(roomy):
    llm, watch = roomy
    once = SamplingParams(temperature=0, max_tokens=1)
    assert generated(llm, PROMPTS, once) == [ids[:1] for ids in generated(llm, PROMPTS)]
    clean(watch)


def test_a_request_is_aborted_where_it_runs_and_where_it_waits(roomy):
    llm, watch = roomy
    expected = generated(llm, PROMPTS, LONG)
    arrivals = {0: [(str(i), each, LONG) for i, each in enumerate(PROMPTS)]}
    seen = {}

    def look(step):
        if step == 3:
            scheduler = scheduler_of(llm)
            seen["running"] = {r.request_id.split("-")[0] for r in scheduler.running}
            seen["waiting"] = {r.request_id.split("-")[0] for r in scheduler.waiting}

    answers = stepped(llm, arrivals, until=look, aborts={3: ["1", "3", "10"]})
    assert {"1", "3"} <= seen["running"]
    assert "10" in seen["waiting"]
    others = {str(i) for i in range(len(PROMPTS))} - {"1", "3", "10"}
    assert set(answers) >= others
    assert all(answers[name] == expected[int(name)] for name in others)
    clean(watch)


def test_a_request_in_error_leaves_nothing(roomy, monkeypatch):
    llm, watch = roomy
    expected = generated(llm, PROMPTS[:3])
    with pytest.raises(VLLMValidationError, match="prompt_logprobs"):
        llm.generate(PROMPTS[:1], SamplingParams(prompt_logprobs=1), use_tqdm=False)
    # What the front would refuse, come to the scheduler some other way.
    scheduler = scheduler_of(llm)
    look = scheduler._entry

    def broken(request):
        if request.request_id.startswith("bad"):
            raise ValueError("no such picture")
        return look(request)

    monkeypatch.setattr(scheduler, "_entry", broken)
    arrivals = {0: [("good", PROMPTS[0], GREEDY), ("bad", PROMPTS[1], GREEDY)]}
    assert stepped(llm, arrivals)["good"] == expected[0]
    clean(watch)
    assert generated(llm, PROMPTS[:3]) == expected


# A pool for few


TIGHT = {"max_model_len": 352, "num_gpu_blocks_override": 150}


def test_a_preempted_request_is_aborted(serve):
    llm, watch = serve(engine=TIGHT, retention=0.55)
    alone = one_by_one(llm, PROMPTS, LONG)
    engine, scheduler = llm.llm_engine, scheduler_of(llm)
    arrivals = {0: [(str(i), each, LONG) for i, each in enumerate(PROMPTS)]}
    gone = []

    def look(step):
        if not gone:
            lost = [r for r in scheduler.waiting if r.num_preemptions]
            gone.extend(lost[0].request_id.split("-")[0] for _ in lost[:1])
            engine.abort_request(gone)

    answers = stepped(llm, arrivals, until=look)
    assert len(gone) == 1
    others = {str(i) for i in range(len(PROMPTS))} - set(gone)
    assert all(answers[name] == alone[int(name)] for name in others)
    assert watch.preemptions > 0
    clean(watch)


def test_sampling_goes_on_after_preemption(serve):
    llm, watch = serve(engine=TIGHT, retention=0.55)
    before = watch.preemptions
    seeded = SamplingParams(temperature=1.2, seed=3, max_tokens=40, ignore_eos=True)
    alone = one_by_one(llm, PROMPTS, seeded)
    assert watch.preemptions == before
    assert generated(llm, PROMPTS, seeded) == alone
    assert watch.preemptions > before
    clean(watch)


def test_what_is_drawn_by_a_seed_is_drawn_again_after_preemption(serve):
    llm, watch = serve("random", engine=TIGHT, retention=0.55)
    alone = one_by_one(llm, PROMPTS, LONG)
    assert watch.preemptions == 0
    assert generated(llm, PROMPTS, LONG) == alone
    assert watch.preemptions > 0
    clean(watch)


# Prompts in pieces


PIECES = {"max_num_batched_tokens": 200, "max_num_seqs": 6}


def with_text(words, pictures=None):
    """A question with much text behind its picture."""
    text, own = QUESTIONS[0]
    return text + " red" * words, own if pictures is None else pictures


def counts_of(llm):
    """(first token, tokens) of each step of each request, from now on."""
    scheduler, seen = scheduler_of(llm), {}
    schedule = scheduler.schedule

    def noted(*args, **kwargs):
        output = schedule(*args, **kwargs)
        for request in scheduler.running:
            count = output.num_scheduled_tokens.get(request.request_id)
            if count:
                name = request.request_id.split("-")[0]
                end = request.num_computed_tokens
                seen.setdefault(name, []).append((end - count, count))
        return output

    scheduler.schedule = noted
    return seen, lambda: setattr(scheduler, "schedule", schedule)


def in_pieces(llm, chosen):
    """Steps of each request, and answers of 12 tokens to questions that arrive at once."""
    sampling = SamplingParams(temperature=0, max_tokens=12, min_tokens=12)
    seen, restore = counts_of(llm)
    arrivals = {0: [(str(i), engine_prompt(*each), sampling) for i, each in enumerate(chosen)]}
    try:
        answers = stepped(llm, arrivals)
    finally:
        restore()
    return seen, answers


def test_the_first_piece_ends_behind_the_picture_and_text_follows_in_chunks(serve, loaded):
    chosen = [with_text(120), *QUESTIONS[:4], with_text(90)]
    expected = in_transformers(loaded, chosen, "tome", retention=0.55, tokens=12, least=12)
    llm, watch = serve("tome", engine=PIECES, retention=0.55)
    seen, answers = in_pieces(llm, chosen)
    assert [answers[str(i)] for i in range(len(chosen))] == expected
    vision = 144
    assert all(seen[str(i)][0][0] == 0 for i in range(len(chosen)))
    for i, (_, pictures) in enumerate(chosen):
        assert not pictures or seen[str(i)][0][1] > vision
    # A prompt that no step computes as a whole.
    assert len([count for _, count in seen["0"] if count > 1]) > 1
    clean(watch)


def test_a_piece_that_never_fits_is_refused_and_others_go_on(serve):
    llm, watch = serve("tome", engine=PIECES, retention=0.55)
    expected = generated(llm, PROMPTS[:2])
    two = [
        each for each, (_, pictures) in zip(PROMPTS, QUESTIONS, strict=True) if len(pictures) > 1
    ]
    with pytest.raises(ValueError, match="max-num-batched-tokens"):
        llm.generate(two[:1], GREEDY, use_tqdm=False)
    assert generated(llm, PROMPTS[:2]) == expected
    clean(watch)


def test_what_reads_text_gets_the_whole_prompt(serve, loaded):
    """DART takes pivots among the text behind the picture."""
    text, pictures = QUESTIONS[0]
    long = text.replace("<image>", "<image>" + " red" * 30), pictures
    # The text leaves room for a picture, but not for the question behind it.
    chosen = [("what color is" + " red" * 20, []), long, *QUESTIONS[1:3]]
    changes = {"retention": 0.35}
    expected = in_transformers(loaded, chosen, "dart", tokens=12, least=12, **changes)
    llm, watch = serve("dart", engine=PIECES, **changes)
    seen, answers = in_pieces(llm, chosen)
    assert all(len([count for _, count in steps if count > 1]) == 1 for steps in seen.values())
    assert [answers[str(i)] for i in range(len(chosen))] == expected
    clean(watch)


# Other places of stages


@pytest.mark.parametrize(
    ("pipeline", "changes"),
    [
        ("tome", {"schedule": [{"after_layer": 0, "ratio": 0.5}]}),
        (
            "tome",
            {
                "schedule": [
                    {"after_layer": 0, "ratio": 0.3},
                    {"after_layer": 4, "ratio": 0.4},
                ]
            },
        ),
        ("pyramiddrop", {"positions": "keep"}),
    ],
    ids=["before the decoder", "before and within", "by the next layer"],
)
def test_stages_before_the_decoder_and_by_the_next_layer(serve, loaded, pipeline, changes):
    expected = in_transformers(loaded, QUESTIONS, pipeline, tokens=12, least=12, **changes)
    llm, watch = serve(pipeline, **changes)
    held = []

    def look(step):
        coordinator = scheduler_of(llm).kv_cache_manager.coordinator
        for request in scheduler_of(llm).running[:1]:
            managers = coordinator.single_type_managers
            held.append([len(each.req_to_blocks[request.request_id]) for each in managers])

    sampling = SamplingParams(temperature=0, max_tokens=12, min_tokens=12)
    arrivals = {0: [(str(i), each, sampling) for i, each in enumerate(PROMPTS)]}
    answers = stepped(llm, arrivals, until=look)
    assert [answers[str(i)] for i in range(len(PROMPTS))] == expected
    clean(watch)
    if changes.get("schedule", [{}])[0].get("after_layer") == 0:
        # Of 154 tokens and more, 5 blocks, no layer holds all.
        assert max(held[0]) < 5


# Compiled decoding


def test_compiled_decoding_answers_as_the_layers_run_one_by_one(serve):
    llm, _ = serve(retention=0.55)
    expected = generated(llm, PROMPTS, LONG)
    # Dynamo's graph without Inductor's kernels, which take minutes to build.
    compiled = {"enforce_eager": False, "compilation_config": {"backend": "eager"}}
    llm, watch = serve(retention=0.55, engine=compiled)
    mode = llm.llm_engine.vllm_config.compilation_config.mode
    assert mode.name not in ("NONE", "STOCK_TORCH_COMPILE")
    assert generated(llm, PROMPTS, LONG) == expected
    clean(watch)


# Quantised weights


@pytest.fixture(scope="module")
def quantised(renamed_checkpoint, tmp_path_factory):
    """The decoder of the bundled model in int8, one scale for each output channel."""
    folder = tmp_path_factory.mktemp("quantised") / "checkpoint"
    shutil.copytree(renamed_checkpoint, folder)
    weights = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if "language_model" not in name or not name.endswith("proj.weight"):
            weights[name] = weight
            continue
        scale = weight.abs().amax(dim=1, keepdim=True) / 127
        weights[name] = (weight / scale).round().to(torch.int8)
        weights[name + "_scale"] = scale
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    eight = {"num_bits": 8, "type": "int", "symmetric": True}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["re:.*vision_tower.*", "re:.*multi_modal_projector.*", "re:.*lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {**eight, "strategy": "channel", "dynamic": False},
                "input_activations": {**eight, "strategy": "token", "dynamic": True},
            }
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def told(llm, prompts):
    """Tokens and log-probabilities of each answer, bit for bit."""
    sampling = SamplingParams(temperature=0, max_tokens=8, logprobs=3)
    return [
        [sorted((t, v.logprob.hex()) for t, v in step.items()) for step in o.outputs[0].logprobs]
        for o in llm.generate(prompts, sampling, use_tqdm=False)
    ]


def test_quantised_with_nothing_to_remove_is_plain_vllm(serve, quantised):
    llm, _ = serve(None, model=quantised)
    expected = told(llm, PROMPTS)
    layer = "language_model.model.layers.0.self_attn.qkv_proj"
    runner = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker
    module = runner.model_runner.get_model().get_submodule(layer)
    assert type(module.scheme).__name__ == "CompressedTensorsW8A8Int8"
    llm, watch = serve(retention=1.0, model=quantised)
    assert told(llm, PROMPTS) == expected
    clean(watch)


def test_quantised_and_compressed_after_preemption(serve, quantised):
    llm, watch = serve(engine=TIGHT, retention=0.55, model=quantised)
    alone = one_by_one(llm, PROMPTS, LONG)
    assert watch.preemptions == 0
    assert generated(llm, PROMPTS, LONG) == alone
    assert watch.preemptions > 0
    clean(watch)
