"""What a tensor of an InternVL2 checkpoint is called in the native class, and which rows it becomes.

The decoder's blocks are those of a Llama in all three kinds. InternLM2 packs query, key and value in
one matrix by key head: the queries of a head's group, its key, its value, then the next head. The tower
packs them too, all queries first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lightkv.checkpoints.convert.shards import Part, Rows, Tensor
from lightkv.core.errors import ModelError

_TOWER, _DECODER = "vision_tower", "language_model.model"
_LAYER = r"(?P<layer>\d+)"
_KIND = r"(?P<kind>weight|bias)"

TOWER_NAMES = {
    r"vision_model\.embeddings\.class_embedding": f"{_TOWER}.embeddings.cls_token",
    r"vision_model\.embeddings\.position_embedding": f"{_TOWER}.embeddings.position_embeddings",
    rf"vision_model\.embeddings\.patch_embedding\.{_KIND}": (
        f"{_TOWER}.embeddings.patch_embeddings.projection.{{kind}}"
    ),
    **{
        rf"vision_model\.encoder\.layers\.{_LAYER}\.{old}": f"{_TOWER}.encoder.layer.{{layer}}.{new}"
        for old, new in {
            rf"attn\.proj\.{_KIND}": "attention.projection_layer.{kind}",
            r"attn\.q_norm\.weight": "attention.q_norm.weight",
            r"attn\.k_norm\.weight": "attention.k_norm.weight",
            rf"mlp\.fc1\.{_KIND}": "mlp.fc1.{kind}",
            rf"mlp\.fc2\.{_KIND}": "mlp.fc2.{kind}",
            rf"norm1\.{_KIND}": "layernorm_before.{kind}",
            rf"norm2\.{_KIND}": "layernorm_after.{kind}",
            r"ls1": "lambda_1",
            r"ls2": "lambda_2",
        }.items()
    },
    rf"mlp1\.0\.{_KIND}": "multi_modal_projector.layer_norm.{kind}",
    rf"mlp1\.1\.{_KIND}": "multi_modal_projector.linear_1.{kind}",
    rf"mlp1\.3\.{_KIND}": "multi_modal_projector.linear_2.{kind}",
}
INTERNLM2_NAMES = {
    r"language_model\.model\.tok_embeddings\.weight": f"{_DECODER}.embed_tokens.weight",
    r"language_model\.model\.norm\.weight": f"{_DECODER}.norm.weight",
    r"language_model\.output\.weight": "language_model.lm_head.weight",
    **{
        rf"language_model\.model\.layers\.{_LAYER}\.{old}": f"{_DECODER}.layers.{{layer}}.{new}"
        for old, new in {
            rf"attention\.wo\.{_KIND}": "self_attn.o_proj.{kind}",
            r"feed_forward\.w1\.weight": "mlp.gate_proj.weight",
            r"feed_forward\.w2\.weight": "mlp.down_proj.weight",
            r"feed_forward\.w3\.weight": "mlp.up_proj.weight",
            r"attention_norm\.weight": "input_layernorm.weight",
            r"ffn_norm\.weight": "post_attention_layernorm.weight",
        }.items()
    },
}
KEPT_NAMES = {
    r"(?P<name>language_model\.(model\.(embed_tokens|norm)|lm_head)\.weight)": "{name}",
    r"(?P<name>language_model\.model\.layers\.\d+\."
    r"(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj|input_layernorm|post_attention_layernorm)"
    r"\.(weight|bias))": "{name}",
}
"""Qwen2 and Llama have the names of transformers already."""

_TOWER_PACKED = re.compile(rf"vision_model\.encoder\.layers\.{_LAYER}\.attn\.qkv\.{_KIND}")
_INTERNLM2_PACKED = re.compile(
    rf"language_model\.model\.layers\.{_LAYER}\.attention\.wqkv\.{_KIND}"
)


@dataclass(frozen=True)
class Names:
    """The names of one kind of decoder.

    Attributes:
        decoder: regular expression → name, of the decoder's tensors.
        heads: of the decoder.
        kv_heads: the same, of keys.
    """

    decoder: Mapping[str, str]
    heads: int
    kv_heads: int

    def parts(self, name: str, tensor: Tensor) -> list[Part]:
        """What a source tensor becomes; all its rows, each once.

        Raises:
            ModelError: a name that no InternVL2 checkpoint with this decoder has, or packed rows that
                are not those of so many heads.
        """
        packed = _TOWER_PACKED.fullmatch(name)
        if packed is not None:
            stem = f"{_TOWER}.encoder.layer.{packed['layer']}.attention"
            return _packed_parts(name, tensor, stem, packed["kind"], self._tower_rows)
        packed = _INTERNLM2_PACKED.fullmatch(name) if self.decoder is INTERNLM2_NAMES else None
        if packed is not None:
            stem = f"{_DECODER}.layers.{packed['layer']}.self_attn"
            return _packed_parts(name, tensor, stem, packed["kind"], self._internlm2_rows)
        for pattern, new in {**TOWER_NAMES, **self.decoder}.items():
            found = re.fullmatch(pattern, name)
            if found is not None:
                return [Part(new.format(**found.groupdict()), name, tensor.all_rows)]
        raise ModelError(
            f"the checkpoint holds a tensor that is not known: {name}",
            field="checkpoint",
            value=list(tensor.shape),
            remedy="convert a checkpoint of InternVL2 or InternVL2.5 as published (weights of LoRA "
            "are merged first)",
        )

    @staticmethod
    def _tower_rows(rows: int) -> tuple[Rows, Rows, Rows] | None:
        if rows % 3:
            return None
        third = rows // 3
        return ((0, third),), ((third, 2 * third),), ((2 * third, rows),)

    def _internlm2_rows(self, rows: int) -> tuple[Rows, Rows, Rows] | None:
        slots = self.heads + 2 * self.kv_heads
        if rows % slots:
            return None
        width, group = rows // slots, self.heads // self.kv_heads
        starts = [head * (group + 2) * width for head in range(self.kv_heads)]
        return (
            tuple((start, start + group * width) for start in starts),
            tuple((start + group * width, start + (group + 1) * width) for start in starts),
            tuple((start + (group + 1) * width, start + (group + 2) * width) for start in starts),
        )


def _packed_parts(
    name: str,
    tensor: Tensor,
    stem: str,
    kind: str,
    split: Callable[[int], tuple[Rows, Rows, Rows] | None],
) -> list[Part]:
    rows = split(tensor.shape[0]) if tensor.shape else None
    if rows is None:
        raise ModelError(
            f"{name} has rows that are not query, key and value of the config's heads",
            field="checkpoint",
            value=list(tensor.shape),
            remedy="the config belongs to another checkpoint: get both from one place",
        )
    return [
        Part(f"{stem}.{letter}_proj.{kind}", name, of)
        for letter, of in zip("qkv", rows, strict=True)
    ]
