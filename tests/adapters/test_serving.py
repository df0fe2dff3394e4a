"""Features of transformers around a compressed prefill, on a tiny LLaVA and the bundled model."""

from __future__ import annotations

from threading import Thread
from typing import Any

import pytest
import torch
from releases import before
from tiny import tiny_llava
from torch import nn
from transformers import TextIteratorStreamer, pipeline

import lightkv
from lightkv.core.errors import LayoutError, ModelError, SessionError
from lightkv.demo.model import load
from lightkv.demo.scenes import held_out_scenes, prompt

SCHEDULE = [
    {"after_layer": 2, "ratio": 0.5, "windows": 2},
    {"after_layer": 4, "ratio": 0.5, "windows": 1},
]
IMAGE = 5


@pytest.fixture(scope="module")
def demo() -> Any:
    return load()


def inputs(images: int = 1) -> dict[str, torch.Tensor]:
    ids = torch.tensor([[7, 8, *[IMAGE] * (36 * images), 9, 10, 11]])
    pixels = torch.randn(images, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "pixel_values": pixels}


def generate(model: nn.Module, **changes: Any) -> Any:
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    run: Any = model.generate
    return run(**inputs(), **{**options, **changes})


def test_streaming_gives_the_tokens_of_a_plain_call(demo: Any) -> None:
    model, processor = demo
    scene, _ = held_out_scenes(1, seed=4)[0]
    batch = processor(images=scene.image, text=prompt("list all digits"), return_tensors="pt")
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    with lightkv.compress(model, "lightkv", retention=0.55):
        out = model.generate(**batch, max_new_tokens=15, do_sample=False)
        thread = Thread(
            target=model.generate,
            kwargs={**batch, "max_new_tokens": 15, "do_sample": False, "streamer": streamer},
        )
        thread.start()
        text = "".join(streamer)
        thread.join()
    new = out[0, batch["input_ids"].shape[1] :]
    assert text.split() == processor.tokenizer.decode(new, skip_special_tokens=True).split()


def test_the_pipeline_of_transformers_runs_compressed(demo: Any) -> None:
    model, processor = demo
    scene, questions = held_out_scenes(1, seed=4)[0]
    ask = pipeline("image-text-to-text", model=model, processor=processor)
    question = next(q for q in questions if q.kind == "digit_to_color")
    with lightkv.compress(model, "lightkv", retention=0.55) as run:
        out = ask(scene.image, text=prompt(question.text), max_new_tokens=2, return_full_text=False)
    assert out[0]["generated_text"].split()[0] == question.answer
    assert run.last.retention < 0.6


def test_a_peft_model_is_compressed_inside() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=True)
    plain = tiny_llava()
    wrapped = peft.get_peft_model(tiny_llava(), config).eval()
    with lightkv.compress(plain, "lightkv", schedule=SCHEDULE):
        wanted = generate(plain)
    with lightkv.compress(wrapped, "lightkv", schedule=SCHEDULE) as run:
        found = generate(wrapped)
    assert torch.equal(found, wanted)
    assert run.last.retention < 0.8
    lightkv.attach(wrapped, "lightkv", schedule=SCHEDULE)
    lightkv.detach(wrapped)
    assert not any(module._forward_pre_hooks for module in wrapped.modules())


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_other_wrappers_are_refused_by_name(wrap: Any) -> None:
    wrapped = wrap(tiny_llava())
    with pytest.raises(ModelError) as error, lightkv.compress(wrapped, "lightkv"):
        pass
    assert type(wrapped).__name__ in str(error.value)
    assert error.value.remedy


def test_labels_are_refused_and_the_loss_of_the_text_works() -> None:
    model = tiny_llava().train()
    batch = inputs()
    with lightkv.compress(model, "lightkv", schedule=SCHEDULE):
        with pytest.raises(SessionError, match="labels"):
            model(**batch, labels=batch["input_ids"])
        logits = model(**batch, logits_to_keep=3).logits
    loss = nn.functional.cross_entropy(logits[0, :-1], batch["input_ids"][0, -2:])
    loss.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
    with lightkv.compress(model, "lightkv", schedule=SCHEDULE):
        text = batch["input_ids"][:, -3:]
        assert torch.isfinite(model(input_ids=text, labels=text).loss)


def test_positions_of_the_full_prompt_and_chunks_are_refused() -> None:
    model = tiny_llava()
    with lightkv.compress(model, "lightkv", schedule=SCHEDULE):
        with pytest.raises(SessionError, match="logits_to_keep"):
            model(**inputs(), logits_to_keep=torch.tensor([40]))
        if not before("5.23"):  # which leave the pictures out of chunks, with or without lightkv
            with pytest.raises(LayoutError, match="prefill_chunk_size"):
                generate(model, prefill_chunk_size=16)
    assert not any(module._forward_pre_hooks for module in model.modules())
