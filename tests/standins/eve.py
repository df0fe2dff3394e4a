"""A stand-in for EVE's own code: names, signatures and formulas, on the installed Llama.

Its formulas were held against the published code line by line (docs/models.md says which state).
"""

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.modeling_outputs import CausalLMOutputWithPast

IMAGE_TOKEN_INDEX = -200
PATCH_STRIDE, CONV_STRIDE = 4, 2
CELL = PATCH_STRIDE * CONV_STRIDE
"""Pixels of one vision token's side."""


class EVEConfig(LlamaConfig):
    model_type = "eve"


class CrossAttention(nn.Module):
    """Queries that each look at states of their own."""

    def __init__(self, width, heads=8):
        super().__init__()
        self.heads, self.scale = heads, width**-0.5
        self.q, self.kv = (
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, times * width, bias=False))
            for times in (1, 2)
        )
        self.proj = nn.Linear(width, width)

    def looked(self, queries, states):
        """Queries `[N, D]`, states `[N, K, D]` → `[N, D]`."""
        query = self.q(queries).unflatten(-1, (self.heads, -1))[:, None]
        key, value = self.kv(states).chunk(2, dim=-1)
        key, value = (t.unflatten(-1, (self.heads, -1)) for t in (key, value))
        shares = (query * self.scale * key).sum(-1).softmax(1)
        return self.proj((shares[..., None] * value).sum(1).flatten(1))


class LocalAttention(CrossAttention):
    def forward(self, patches):
        """Patches `[D, H, W]` → a cell for each 2 × 2 of them, `[h, w, D]`."""
        width, stride = len(patches), CONV_STRIDE
        cells = nn.functional.avg_pool2d(patches[None], stride)[0].permute(1, 2, 0)
        size = cells.shape[:2]
        blocks = patches.unfold(1, stride, stride).unfold(2, stride, stride)
        blocks = blocks.permute(1, 2, 3, 4, 0).reshape(-1, stride**2, width)
        flat = cells.flatten(0, 1)
        return (flat + self.looked(flat, blocks)).view(*size, width)


class GlobalAttention(CrossAttention):
    def forward(self, first, cells):
        """The class token `[1, D]` after it looked at all cells `[n, D]`."""
        return first + self.looked(first, cells[None])


class VisionTokenizer(nn.Module):
    """Patches → pooled cells, a class token of all of them first, a split token after each row."""

    def __init__(self, input_size, output_size, vision_tower_name):
        super().__init__()
        self.is_loaded, self.hidden_size = True, input_size
        self.patch_stride, self.conv_stride = PATCH_STRIDE, CONV_STRIDE
        self.patch_embedding = nn.Conv2d(3, input_size, PATCH_STRIDE, PATCH_STRIDE, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(input_size))
        self.split_embedding = nn.Parameter(torch.randn(input_size))
        self.local_attention = LocalAttention(input_size)
        self.global_attention = GlobalAttention(input_size)

    def forward(self, pixel_values, modules):
        """Images `[n, 4, S, S]` and the projector: embeddings of each, rows and columns of each."""
        pixels, real = pixel_values[:, :-1], pixel_values[:, -1:]
        patches = self.patch_embedding(pixels.to(self.patch_embedding.weight.dtype))
        masks = nn.functional.avg_pool2d(real, PATCH_STRIDE)
        assert not (masks % 1).any()
        embeddings, sizes = [], []
        for own, mask in zip(patches, masks[:, 0], strict=True):
            places = torch.nonzero(mask)
            if len(places):
                (top, left), (bottom, right) = places[0], places[-1]
                own = own[:, top : bottom + 1, left : right + 1]
            else:
                own = own[:, :16, :16]
            cells = self.local_attention(own)
            first = self.global_attention(self.class_embedding[None], cells.flatten(0, 1))
            split = self.split_embedding.expand(len(cells), 1, -1)
            body = torch.cat([cells, split], dim=1).flatten(0, 1)
            embeddings.append(modules(torch.cat([first, body])))
            sizes.append(torch.tensor(cells.shape[:2]))
        return embeddings, sizes


class EVELlamaModel(LlamaModel):
    config_class = EVEConfig

    def __init__(self, config):
        super().__init__(config)
        self.vision_tower = VisionTokenizer(
            config.mm_hidden_size, config.hidden_size, config.mm_vision_tower
        )
        self.mm_projector = nn.Sequential(
            nn.Linear(config.mm_hidden_size, config.hidden_size),
            nn.GELU(),
            nn.Linear(config.hidden_size, config.hidden_size),
        )


class EVELlamaForCausalLM(LlamaForCausalLM):
    config_class = EVEConfig

    def __init__(self, config):
        super(LlamaForCausalLM, self).__init__(config)
        self.model = EVELlamaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def encode_images(self, images):
        return self.model.vision_tower(images, self.model.mm_projector)

    def expand(self, ids, mask, past_key_values, images):
        """Embeddings with the images in place of their sentinels, and the lengthened mask."""
        if images is None or ids.shape[1] == 1:
            if past_key_values is not None and images is not None and ids.shape[1] == 1:
                # Sized by the *last* layer; caches of transformers 5 have no places to index.
                entries = past_key_values[-1][-1].shape[-2] + 1
                mask = torch.ones(len(mask), entries, dtype=mask.dtype, device=mask.device)
            return ids, mask, None
        if isinstance(images, list) or images.ndim == 5:
            raise SystemExit(0)
        features, _ = self.encode_images(images)
        features, rows = iter(features), []
        for row in ids:
            parts = [
                next(features)
                if token == IMAGE_TOKEN_INDEX
                else self.model.embed_tokens(token)[None]
                for token in row
            ]
            if IMAGE_TOKEN_INDEX not in row:
                next(features)  # a row without an image has one all the same
            rows.append(torch.cat(parts))
        length = max(len(row) for row in rows)
        rows = [nn.functional.pad(row, (0, 0, 0, length - len(row))) for row in rows]
        if mask is not None:
            mask = torch.cat([mask.new_ones(len(mask), length - ids.shape[1]), mask], dim=1)
        return None, mask, torch.stack(rows)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        images=None,
        images_clip=None,
        return_dict=None,
    ):
        input_ids, attention_mask, inputs_embeds = self.expand(
            input_ids, attention_mask, past_key_values, images
        )
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=True,
            return_dict=return_dict,
        )
        return CausalLMOutputWithPast(
            logits=self.lm_head(outputs[0]),
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def prepare_inputs_for_generation(
        self, input_ids, past_key_values=None, attention_mask=None, inputs_embeds=None, **kwargs
    ):
        if past_key_values:  # transformers 5 hands over an empty cache, which is true
            input_ids = input_ids[:, -1:]
        if inputs_embeds is not None and past_key_values is None:
            model_inputs = {"inputs_embeds": inputs_embeds}
        else:
            model_inputs = {"input_ids": input_ids}
        return {
            **model_inputs,
            "past_key_values": past_key_values,
            "use_cache": kwargs.get("use_cache"),
            "attention_mask": attention_mask,
            "images": kwargs.get("images"),
        }


def eve_config(**changes):
    return EVEConfig(
        vocab_size=200,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=6,
        num_attention_heads=4,
        max_position_embeddings=4096,
        mm_hidden_size=32,
        mm_vision_tower="openai/eve-patch4",
        requires_cliploss=False,
        **changes,
    )
