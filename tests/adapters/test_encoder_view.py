"""The vision encoder as stages see it: on LLaVA and LLaVA-NeXT, and refused elsewhere."""

import pytest
import torch
from test_llava import IMAGE
from test_llava import TestLlava as LlavaSuite
from test_llava_next import PINPOINTS, SIDE, TILE, tokens_of
from test_llava_next import TestLlavaNext as NextSuite
from test_llava_next_video import both as next_video_inputs
from test_llava_next_video import tiny as tiny_next_video
from test_video_llava import PIXELS
from test_video_llava import both as video_llava_inputs
from test_video_llava import tiny as tiny_video_llava
from test_vipllava import TestVipLlava as VipSuite
from test_vipllava import tiny_vipllava
from tiny import clip, tiny_llava, tiny_llava_next, tiny_qwen2_5_vl
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
)

import lightkv
from lightkv.core.encoder import layer_number
from lightkv.core.errors import ConfigError, ModelError
from lightkv.core.needs import needs_class_token
from lightkv.core.run.prefill import Prefill
from lightkv.testing import Prompt
from lightkv.testing.adapters import MIXED, encoder_needs
from lightkv.testing.oracles import snapshot

OF_ENCODER = [
    "fastervlm",
    "hiprune",
    "hired",
    "prumerge",
    "prumerge-plus",
    "visionzip",
    "vispruner",
    "vscan",
]
FAMILIES = {"llava": (LlavaSuite, tiny_llava), "llava_next": (NextSuite, tiny_llava_next)}
EVERYTHING = {
    "scorer": {"name": "class-attention", "layer": -1},
    "matcher": {"name": "tile-budget", "layer": 0},
    "aggregator": "neighbour-sum",
}


def test_they_need_a_class_token():
    assert all(needs_class_token(encoder_needs(name)) for name in OF_ENCODER)
    assert not encoder_needs("divprune")


def seen(model, inputs, monkeypatch, **changes):
    """What is recorded of a prefill: `read(view)` of the view that reaches the stage."""
    caught = {}
    apply = Prefill.apply

    def spy(prefill, after_layer, hidden):
        if after_layer == 0 and prefill.vision is not None:
            view = prefill.vision
            caught["cls"] = [view.cls_attention(layer) for layer in (0, -1)]
            caught["joint"] = view.cls_attention(-1, split=False)
            caught["keys"], caught["query"] = view.keys(-1), view.cls_query(-1)
            caught["features"] = view.features()
            caught["projected"] = view.project(view.features())
            index = prefill.layout.token_index(hidden.device)
            caught["hidden"] = hidden.reshape(-1, hidden.shape[-1])[index.flat]
            caught["layout"] = prefill.layout
        return apply(prefill, after_layer, hidden)

    monkeypatch.setattr(Prefill, "apply", spy)
    options = {**EVERYTHING, "schedule": [{"after_layer": 0, "ratio": 0.5}], **changes}
    with lightkv.compress(model, "hired", **options), torch.no_grad():
        model(**inputs) if "max_new_tokens" not in inputs else model.generate(**inputs)
    monkeypatch.undo()
    return caught


def eager_attention(tower, pixels):
    """Per layer `[I, H, T, T]` attention of the eager encoder."""
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        return tower(pixels, output_attentions=True).attentions


def check_everything(caught, tower, pixels, cells):
    """`cells` `[V₀]`: (image of the encoder, patch) of each vision token, or None."""
    attentions = eager_attention(tower, pixels)
    shown = [place is not None for place in cells]
    for layer, found in zip((0, -1), caught["cls"], strict=True):
        for token, place in enumerate(cells):
            if place is None:
                assert not found[token].any()
                continue
            wanted = attentions[layer][place[0], :, 0, 1 + place[1]]
            torch.testing.assert_close(found[token], wanted, atol=1e-6, rtol=0)
    # What enters the projector gives, through it, what the decoder got.
    here = torch.tensor(shown)
    torch.testing.assert_close(
        caught["projected"][here], caught["hidden"][here], atol=1e-6, rtol=1e-5
    )
    assert not caught["features"][~here].any()
    key, query = caught["keys"][here].flatten(1), caught["query"][here].flatten(1)
    logits = (key * query).sum(-1) / key.shape[1] ** 0.5
    ratio = caught["joint"][here, 0] / logits.exp()
    images = torch.tensor([place[0] for place in cells if place is not None])
    for image in images.unique():
        own = ratio[images == image]
        torch.testing.assert_close(own, own[:1].expand_as(own), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("strategy", ["default", "full"])
def test_llava_sees_the_encoder_of_every_row(strategy, monkeypatch):
    model = tiny_llava(vision_feature_select_strategy=strategy)
    inputs = LlavaSuite().make_inputs(model, MIXED)
    first = [None] if strategy == "full" else []
    if strategy == "full":
        rows = [[7, *[IMAGE] * 37, 8], [0, *[IMAGE] * 37, 9]]
        mask = [[1] * 39, [0] + [1] * 38]
        inputs["input_ids"], inputs["attention_mask"] = torch.tensor(rows), torch.tensor(mask)
        inputs["pixel_values"] = inputs["pixel_values"][:2]
    images = inputs["pixel_values"].shape[0]
    cells = [c for i in range(images) for c in [*first, *((i, p) for p in range(36))]]
    caught = seen(model, inputs, monkeypatch)
    check_everything(caught, model.model.vision_tower, inputs["pixel_values"], cells)


@pytest.mark.parametrize("beams", [1, 3])
def test_generate_encodes_once_and_beams_share_it(beams, monkeypatch):
    model = tiny_llava()
    inputs = LlavaSuite().make_inputs(model, MIXED[:2])
    more = {"max_new_tokens": 2, "num_beams": beams, "pad_token_id": 0}
    caught = seen(model, {**inputs, **more}, monkeypatch)
    cells = [(0, p) for p in range(36)] * beams
    cells += [(i, p) for i in (1, 2) for p in range(36)] * beams
    check_everything(caught, model.model.vision_tower, inputs["pixel_values"], cells)


def test_vipllava_sees_features_of_several_layers(monkeypatch):
    model = tiny_vipllava()
    inputs = VipSuite().make_inputs(model, MIXED)
    images = inputs["pixel_values"].shape[0]
    caught = seen(model, inputs, monkeypatch)
    check_everything(
        caught,
        model.model.vision_tower,
        inputs["pixel_values"],
        [(i, p) for i in range(images) for p in range(36)],
    )
    hidden = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True)
    wanted = torch.cat([hidden.hidden_states[layer][:, 1:] for layer in (-2, -3, 2)], dim=-1)
    torch.testing.assert_close(caught["features"], wanted.flatten(0, 1))


def next_cells(size, first):
    """Encoder input and patch of each token of a picture, by walking over its pixels."""
    from transformers.image_processing_utils import select_best_resolution
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    height, width = select_best_resolution(size, PINPOINTS)
    down, across = height // TILE, width // TILE
    numbers = torch.zeros(down * SIDE, across * SIDE, dtype=torch.long)
    for row in range(down * SIDE):
        for column in range(across * SIDE):
            tile = 1 + row // SIDE * across + column // SIDE
            numbers[row, column] = tile * 100 + row % SIDE * SIDE + column % SIDE
    shown = unpad_image(numbers[None], size)[0]
    cells = [(first, p) for p in range(SIDE * SIDE)]
    for row in shown.tolist():
        cells += [(first + n // 100, n % 100) for n in row] + [None]
    return cells, 1 + down * across


def test_llava_next_sees_tiles_without_their_padding(monkeypatch):
    model = tiny_llava_next()
    prompts = (Prompt(2, 1, 3, seed=1), Prompt(5, 2, 6, seed=2))
    inputs = NextSuite().make_inputs(model, prompts)
    cells, first, tiles = [], 0, []
    for size, pixels in zip(inputs["image_sizes"].tolist(), inputs["pixel_values"], strict=True):
        own, count = next_cells(size, first)
        assert len(own) == tokens_of(size)
        cells, first = cells + own, first + count
        tiles.append(pixels[:count])
    assert any(size[0] != size[1] for size in inputs["image_sizes"].tolist())
    caught = seen(model, inputs, monkeypatch)
    check_everything(caught, model.model.vision_tower, torch.cat(tiles), cells)


def test_video_llava_sees_both_towers(monkeypatch):
    model, inputs = tiny_video_llava(), video_llava_inputs()
    caught = seen(model, inputs, monkeypatch)
    video = inputs["pixel_values_videos"][0]
    own = eager_attention(model.model.video_tower, video)[0][:, :, 0, 1:]
    image = eager_attention(model.model.image_tower, inputs[PIXELS])[0][:, :, 0, 1:]
    zero = torch.zeros(1, own.shape[1])
    frames = [torch.cat([zero, frame.T]) for frame in own]
    torch.testing.assert_close(caught["cls"][0], torch.cat([*frames, image[0].T]))


def test_llava_next_video_pools_the_attention_of_four_patches(monkeypatch):
    model, inputs = tiny_next_video(), next_video_inputs()
    caught = seen(model, inputs, monkeypatch)
    video = inputs["pixel_values_videos"][0]
    own = eager_attention(model.model.vision_tower, video)[0][:, :, 0, 1:]
    pooled = own.unflatten(-1, (3, 2, 3, 2)).sum(dim=(3, 5)).flatten(2)
    torch.testing.assert_close(caught["cls"][0][88:], pooled.transpose(1, 2).flatten(0, 1))
    torch.testing.assert_close(caught["projected"][88:], caught["hidden"][88:])


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("preset", [*OF_ENCODER, "divprune"])
def test_a_batch_with_padding_equals_single_runs(family, preset):
    suite, make = FAMILIES[family]
    suite, model = suite(), make()
    prompts = (Prompt(2, 1, 3, seed=1), Prompt(5, 2, 6, seed=2))
    with lightkv.compress(model, preset, retention=0.4) as session:
        batch = suite.logits(model, suite.make_inputs(model, prompts))
        rows = session.last.samples
    for row, prompt in enumerate(prompts):
        with lightkv.compress(model, preset, retention=0.4) as session:
            alone = suite.logits(model, suite.make_inputs(model, [prompt]))
        torch.testing.assert_close(batch[row], alone[0], atol=1e-5, rtol=0)
        assert session.last.samples[0] == rows[row]


@pytest.mark.parametrize("pipeline", ["prumerge", "prumerge-plus"])
def test_the_published_budget_follows_from_values(pipeline):
    suite, model = LlavaSuite(), tiny_llava()
    matcher = {"name": "class-outliers", "spatial": pipeline != "prumerge", "budget": "outliers"}
    with lightkv.compress(model, pipeline, retention=0.9, matcher=matcher) as session:
        suite.generate(model, suite.make_inputs(model, MIXED))
    assert all(0 < s.retention < 0.92 for s in session.last.samples if s.original)


@pytest.mark.parametrize("inside", ["tower", "decoder"])
def test_an_exception_leaves_nothing_behind(inside):
    suite, model = LlavaSuite(), tiny_llava()
    inputs = suite.make_inputs(model, MIXED)
    tower = model.model.vision_tower
    plain, before = suite.logits(model, inputs), snapshot(model)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in tower.modules()]

    def fail(*_):
        raise RuntimeError("boom")

    target = tower.encoder.layers[-1].mlp if inside == "tower" else model.model.language_model.norm
    with lightkv.compress(model, "visionzip", retention=0.5) as session:
        wanted = suite.logits(model, inputs)
        handle = target.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="boom"):
            suite.generate(model, inputs)
        handle.remove()
        assert torch.equal(suite.logits(model, inputs), wanted)
        assert not session._attachment._encoder._seen
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in tower.modules()]
    assert snapshot(model) == before
    assert torch.equal(suite.logits(model, inputs), plain)


def siglip_llava():
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=48,
        patch_size=8,
    )
    text = tiny_llava().config.text_config
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**text.to_dict()),
        image_token_id=IMAGE,
        vision_feature_select_strategy="full",
    )
    return LlavaForConditionalGeneration(config).eval()


@pytest.mark.parametrize("make", [siglip_llava, tiny_qwen2_5_vl])
@pytest.mark.parametrize("preset", OF_ENCODER)
def test_encoders_without_a_class_token_are_refused_at_once(make, preset):
    model = make()
    before = snapshot(model)
    with pytest.raises(ModelError, match="has no class token") as error:
        lightkv.attach(model, preset)
    assert "'divprune'" in str(error.value)
    assert snapshot(model) == before


def test_layers_and_spans_are_checked_at_once():
    model = tiny_llava()
    assert clip().num_hidden_layers == 2
    with pytest.raises(ConfigError, match="2 layers"):
        lightkv.attach(model, "fastervlm", scorer={"name": "class-attention", "layer": -3})
    layout = lightkv.VisionLayout.from_spans([[(2, (1, 6, 6))]])
    with pytest.raises(ModelError, match="which patch"):
        lightkv.attach(model, "fastervlm", layout=layout)


@pytest.mark.parametrize(
    ("layer", "number"), [(0.34, 8), (0.25, 6), (0.001, 0), (0.999, 23), (-2, 22)]
)
def test_a_layer_may_be_a_share_of_the_depth(layer, number):
    assert layer_number(layer, 24) == number


def test_features_made_outside_are_refused():
    model = tiny_llava()
    inputs = LlavaSuite().make_inputs(model, [Prompt(2, 1, 3)])
    features = model.get_image_features(inputs.pop("pixel_values"))
    with (
        pytest.raises(ModelError, match="inside the session"),
        lightkv.compress(model, "fastervlm"),
    ):
        model(**inputs, mm_encoder_outputs={"image": features})


def test_gradients_reach_the_projector_through_merged_tokens():
    model = tiny_llava()
    with lightkv.compress(model, "visionzip", retention=0.5):
        out = model(**LlavaSuite().make_inputs(model, MIXED))
    out.logits[:, -1].logsumexp(-1).sum().backward()
    weight = model.model.multi_modal_projector.linear_1.weight
    assert bool(torch.isfinite(weight.grad).all())
    assert bool((weight.grad != 0).any())
