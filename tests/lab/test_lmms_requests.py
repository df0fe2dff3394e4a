"""What lies between a request of lmms-eval and the model; runs without lmms-eval."""

import ast
import copy
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import lightkv
from lightkv.checkpoints.forced import forced_answers
from lightkv.core.errors import ConfigError, LightKVError, ModelError
from lightkv.demo.model import load
from lightkv.demo.scenes import held_out_scenes, prompt
from lightkv.integrations import lmms_eval as lmms
from lightkv.integrations.lmms_eval import generation, prompts, settings

PICTURE = Image.new("RGB", (96, 96), (40, 40, 40))


@pytest.fixture(scope="module")
def demo():
    return load()


@pytest.fixture
def prompter(demo):
    return prompts.Prompter(copy.deepcopy(demo[1]))


# -- prompts --------------------------------------------------------------------------------------


def test_prompts_are_the_demos(prompter):
    question = "what digit is red ?"
    turn = prompts.user_turn(question, [PICTURE], "<image>")
    assert prompter.text(turn) == prompt(question)
    assert prompter.text(prompts.user_turn(question, None, "<image>")) == (
        "user : what digit is red ? assistant :"
    )


def test_placeholders_in_a_prompt_say_where_pictures_go(prompter):
    turn = prompts.user_turn("first <image> then <image> ?", [PICTURE, PICTURE], "<image>")
    assert prompter.text(turn) == "user : first <image> then <image> ? assistant :"
    with pytest.raises(ModelError, match="1 placeholders <image> for 2 pictures"):
        prompts.user_turn("only <image>", [PICTURE, PICTURE], "<image>")


@given(pieces=st.lists(st.text("abc ", max_size=5), min_size=2, max_size=5))
def test_no_word_of_a_prompt_is_lost(pieces):
    turn = prompts.user_turn("<image>".join(pieces), [PICTURE] * (len(pieces) - 1), "<image>")
    content = turn.messages[0]["content"]
    assert [p["text"] for p in content if p["type"] == "text"] == [
        piece.strip() for piece in pieces if piece.strip()
    ]
    assert sum(p["type"] == "image" for p in content) == len(turn.images) == len(pieces) - 1


def test_messages_of_chat_tasks(prompter, tmp_path):
    path = tmp_path / "picture.png"
    PICTURE.save(path)
    parts = [{"type": "image", "url": str(path)}, {"type": "text", "text": "count ."}]
    turn = prompts.chat_turn([{"role": "user", "content": parts}])
    assert prompter.text(turn) == "user : <image> count . assistant :"
    assert turn.images[0].size == (96, 96)
    turn = prompts.chat_turn([{"role": "user", "content": "count ."}])
    assert prompter.text(turn) == "user : count . assistant :"
    for part in ({"type": "video", "url": "film.mp4"}, {"type": "audio", "url": {"array": []}}):
        with pytest.raises(ModelError, match="picture"):
            prompts.chat_turn([{"role": "user", "content": [part]}])


def test_system_prompt_and_plain_prompts(demo):
    processor = copy.deepcopy(demo[1])
    spoken = prompts.Prompter(processor, system_prompt="be brief")
    turn = prompts.user_turn("count .", [PICTURE], "<image>")
    assert spoken.text(turn) == "system : be brief user : <image> count . assistant :"
    plain = prompts.Prompter(processor, use_chat_template=False)
    assert plain.text(turn) == "<image>\ncount ."


def test_batches_of_different_pictures_equal_single_prompts(demo, prompter):
    """Rows with one and two pictures, padded on the left, give what each gives alone."""
    model = demo[0]
    (first, _), (second, _) = held_out_scenes(2, 2026)
    turns = [
        prompts.user_turn("how many digits there ?", [first.image], "<image>"),
        prompts.user_turn("what digit is red ?", [first.image, second.image], "<image>"),
    ]
    with lightkv.compress(model, "lightkv", retention=0.55), torch.no_grad():
        batch = prompter.inputs(turns, model)
        assert batch["attention_mask"][0, 0] == 0
        together = model(**batch).logits[:, -1]
        alone = [model(**prompter.inputs([turn], model)).logits[0, -1] for turn in turns]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-4, rtol=1e-4)


def test_a_processor_that_refuses_is_a_typed_error(demo, prompter):
    turn = prompts.Turn([{"role": "user", "content": [{"type": "image"}]}], (PICTURE, PICTURE))
    with pytest.raises(ModelError, match=r"prompts with \[2\] pictures"):
        prompter.inputs([turn], demo[0])


# -- generation options ---------------------------------------------------------------------------


def test_greedy_is_the_default_and_switches_sampling_off():
    options = generation.generation_options(
        {
            "temperature": 0,
            "top_p": 1.0,
            "num_beams": 1,
            "until": ["\n"],
            "image_aspect_ratio": "x",
        },
        64,
    )
    assert options == {
        "max_new_tokens": 64,
        "do_sample": False,
        "num_beams": 1,
        "temperature": None,
        "top_p": None,
        "top_k": None,
    }


def test_sampling_is_asked_for_by_temperature():
    given_options = {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 5}
    assert generation.generation_options(given_options, 64) == {
        "max_new_tokens": 5,
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.9,
    }
    assert not generation.generation_options({**given_options, "do_sample": False}, 64)["do_sample"]


def test_numbers_may_be_texts():
    """YAML reads 1e-5 as a text, and a command line knows nothing else."""
    given_options = {
        "temperature": "1e-5",
        "max_new_tokens": "8",
        "num_beams": 2.0,
        "top_p": "None",
    }
    found = generation.generation_options(given_options, 64)
    expected = {"max_new_tokens": 8, "do_sample": True, "temperature": 1e-5, "num_beams": 2}
    assert found == expected
    for off in ("0", "0.0", None, "none"):
        assert not generation.generation_options({"temperature": off}, 64)["do_sample"]
    sample = generation.generation_options({"temperature": 1, "do_sample": "False"}, 64)
    assert sample["do_sample"] is False


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("temperature", "warm", "not a number"),
        ("temperature", True, "not a number"),
        ("top_p", "nan", "not a number"),
        ("max_new_tokens", 1.5, "whole number, 1 or more"),
        ("max_new_tokens", 0, "whole number, 1 or more"),
        ("num_beams", [2], "not a number"),
        ("do_sample", "perhaps", "true or false"),
        ("num_return_sequences", 2, "one request has one answer"),
        ("num_return_sequences", "3", "one request has one answer"),
        ("stop_strings", ["x"], "until"),
    ],
)
def test_options_that_cannot_be_meant(key, value, message):
    with pytest.raises(ConfigError, match=rf"^generation_kwargs\.{key}.*{message}"):
        generation.generation_options({key: value}, 64)


def test_only_options_of_an_answer_are_passed_on(demo, prompter):
    """Neither names of methods, nor what makes `generate` return something else than tokens."""
    odd = {"update": 1, "validate": True, "to_dict": 3, "return_dict_in_generate": True}
    odd |= {"output_scores": True, "output_logits": True, "pad_token_id": 5, "use_cache": False}
    odd |= {"_from_model_config": True, "transformers_version": "1", "num_return_sequences": 1}
    options = generation.generation_options({**odd, "repetition_penalty": "1.1"}, 2)
    plain = {"do_sample", "max_new_tokens", *generation.SAMPLING}
    assert set(options) - plain == {"num_return_sequences", "repetition_penalty"}
    inputs = prompter.inputs([prompts.user_turn("count .", [PICTURE], "<image>")], demo[0])
    found = demo[0].generate(**inputs, **options, pad_token_id=0)
    assert isinstance(found, torch.Tensor)
    assert len(found) == 1


@given(text=st.text("ab\n", max_size=12), stops=st.lists(st.text("ab\n", min_size=1, max_size=2)))
def test_an_answer_ends_before_the_first_stop_string(text, stops):
    short = generation.cut(text, stops)
    assert text.startswith(short)
    assert not any(stop in short for stop in stops)
    if short != text:
        assert any(text[len(short) :].startswith(stop) for stop in stops)


def test_stop_strings():
    assert generation.stop_strings(None) == []
    assert generation.stop_strings("x") == ["x"]
    assert generation.stop_strings(["x", None, ""]) == ["x"]
    with pytest.raises(ConfigError, match="until"):
        generation.stop_strings(5)


def test_generation_ends_at_a_stop_string(demo, prompter):
    model, (scene, questions) = demo[0], held_out_scenes(1, 2026)[0]
    turn = prompts.user_turn(questions[-1].text, [scene.image], "<image>")
    inputs = prompter.inputs([turn], model)
    length = inputs["input_ids"].shape[1]
    whole = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, length:]
    word = prompter.tokenizer.decode(whole[2])
    stop = generation.StopAt(prompter.tokenizer, [word], length)
    short = model.generate(**inputs, max_new_tokens=12, do_sample=False, stopping_criteria=[stop])[
        0, length:
    ]
    assert short.tolist() == whole[:3].tolist()


# -- scores of given answers ----------------------------------------------------------------------


@pytest.mark.parametrize("retention", [None, 0.55])
def test_scores_are_those_of_a_whole_pass(demo, prompter, retention):
    """Forced decoding against one pass over prompt and answer, the answer hidden from guidance by
    feeding it in a second step of its own."""
    model, (scene, _) = demo[0], held_out_scenes(1, 2026)[0]
    turn = prompts.user_turn("list all digits", [scene.image], "<image>")
    other = prompts.user_turn("what digit is red ?", [scene.image], "<image>")
    ids = [prompter.continuation_ids(turn, " 3 red 4 blue"), prompter.continuation_ids(other, "7")]
    assert [len(found) for found in ids] == [4, 1]
    session = lightkv.prepare(model, "lightkv", retention=retention) if retention else None
    if session:
        session.attach()
    try:
        found = forced_answers(model, prompter.inputs([turn, other], model), ids, pad=0)
        for (given, greedy), row, one in zip(found, ids, (turn, other), strict=True):
            inputs = prompter.inputs([one], model)
            with torch.no_grad():
                first = model(**inputs, use_cache=True)
                logits = [first.logits[0, -1:]]
                if len(row) > 1:
                    mask = torch.ones(1, inputs["input_ids"].shape[1] + len(row) - 1)
                    answer = torch.tensor([row[:-1]])
                    cache = first.past_key_values
                    second = model(input_ids=answer, attention_mask=mask, past_key_values=cache)
                    logits.append(second.logits[0])
            likely = torch.cat(logits).log_softmax(-1)
            want = likely[torch.arange(len(row)), torch.tensor(row)].tolist()
            assert given == pytest.approx(want, abs=1e-4)
            assert greedy == (likely.argmax(-1).tolist() == row)
    finally:
        if session:
            session.detach()


def test_the_greedy_answer_is_called_greedy(demo, prompter):
    model, (scene, questions) = demo[0], held_out_scenes(1, 2026)[0]
    turn = prompts.user_turn(questions[0].text, [scene.image], "<image>")
    inputs = prompter.inputs([turn, turn], model)
    wrong = "9" if questions[0].answer != "9" else "8"
    ids = [prompter.continuation_ids(turn, text) for text in (questions[0].answer, wrong)]
    (right, greedy), (other, not_greedy) = forced_answers(model, inputs, ids, pad=0)
    assert (greedy, not_greedy) == (True, False)
    assert sum(right) > sum(other)


def test_an_empty_answer_is_refused(prompter):
    with pytest.raises(ConfigError, match="no tokens"):
        prompter.continuation_ids(prompts.user_turn("count .", None, None), "")


# -- arguments ------------------------------------------------------------------------------------


def test_arguments_as_lmms_eval_parses_them(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("be brief\n")
    found = settings.parse(
        {
            "pretrained": "demo",
            "strategy": "lightkv",
            "retention": 1,
            "matcher": "{name: bipartite, metric: keys}",
            "batch_size": "4",
            "max_batch_size": None,
            "use_chat_template": False,
            "system_prompt": str(words),
        }
    )
    assert found.retention == 1.0
    assert found.changes == {"matcher": {"name": "bipartite", "metric": "keys"}}
    assert (found.batch_size, found.use_chat_template) == (4, False)
    assert found.system_prompt == "be brief"


@pytest.mark.parametrize("strategy", [None, "", "none", "Vanilla"])
def test_no_strategy_leaves_the_model_alone(strategy):
    assert settings.parse({"pretrained": "demo", "strategy": strategy}).spec is None


@pytest.mark.parametrize(
    ("given_arguments", "message"),
    [
        ({}, "no model to evaluate"),
        ({"pretrained": "demo", "strategy": "lihgtkv"}, "Did you mean 'lightkv'"),
        ({"pretrained": "demo", "strategy": "missing.yaml"}, "missing.yaml"),
        ({"pretrained": "demo", "strategy": 5}, "preset's name"),
        ({"pretrained": "demo", "retenton": 0.5}, "Did you mean 'retention'"),
        ({"pretrained": "demo", "retention": 0.5}, "without a strategy"),
        ({"pretrained": "demo", "scorer": "uniform"}, "without a strategy"),
        ({"pretrained": "demo", "strategy": "tome", "retention": "half"}, "above 0, at most 1"),
        ({"pretrained": "demo", "strategy": "tome", "matcher": "{name: ["}, "not a mapping"),
        ({"pretrained": "demo", "batch_size": "auto"}, "whole number"),
        ({"pretrained": "demo", "max_new_tokens": 0}, "whole number"),
        ({"pretrained": "demo", "use_chat_template": "perhaps"}, "true or false"),
    ],
)
def test_arguments_that_cannot_work(given_arguments, message):
    with pytest.raises(LightKVError, match=message):
        settings.parse(given_arguments)


def test_a_model_that_is_not_there_is_named_as_it_was_given(tmp_path):
    with pytest.raises(ModelError, match=r"^pretrained = .*it lacks config.json"):
        settings.load(settings.parse({"pretrained": str(tmp_path)}))
    with pytest.raises(ConfigError, match=r"^dtype = 'flaot32'.*float32"):
        settings.load(settings.parse({"pretrained": "demo", "dtype": "flaot32"}))
    with pytest.raises(ConfigError, match=r"^attn_implementation = 'fast'"):
        settings.load(settings.parse({"pretrained": "demo", "attn_implementation": "fast"}))


def test_attention_of_choice():
    model, _ = settings.load(settings.parse({"pretrained": "demo", "attn_implementation": "eager"}))
    assert model.config.text_config._attn_implementation == "eager"


# -- the extra ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["__init__", "prompts", "generation", "settings"])
def test_lmms_eval_is_not_imported_before_it_asks(name):
    tree = ast.parse((Path(lmms.__file__).parent / f"{name}.py").read_text())
    named = [n.name for node in tree.body if isinstance(node, ast.Import) for n in node.names]
    named += [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert not [module for module in named if module.split(".")[0] == "lmms_eval"]
    assert "lightkv.integrations.lmms_eval.model" not in named


def test_without_lmms_eval_the_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "lightkv.integrations.lmms_eval.model", raising=False)
    monkeypatch.delattr(lmms, "model", raising=False)
    for name in [n for n in sys.modules if n.split(".")[0] == "lmms_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    with pytest.raises(ConfigError, match=r"pip install lightkv\[lmms-eval\]"):
        _ = lmms.LightKVModel
    with pytest.raises(AttributeError):
        _ = lmms.Nothing
