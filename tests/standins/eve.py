"""A structural stand-in for EVE's own code: names, shapes and cache formats, tiny weights."""

from types import SimpleNamespace

import torch
from torch import nn
from transformers.modeling_outputs import CausalLMOutputWithPast

from standins.legacy import (
    LegacyAttention,
    LegacyDecoder,
    LegacyRotary,
    RMSNorm,
    greedy,
    residual_layer,
)

IMAGE_TOKEN_INDEX = -200
PATCH_STRIDE, CONV_STRIDE = 4, 2
CELL = PATCH_STRIDE * CONV_STRIDE
"""Pixels of one vision token's side."""


class VisionTokenizer(nn.Module):
    """Patches → pooled cells, a class token of all of them first, a split token after each row."""

    def __init__(self, width=32):
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, width, PATCH_STRIDE, PATCH_STRIDE)
        self.pool = nn.Linear(width, width)
        self.query = nn.Parameter(torch.randn(width))
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.split_embedding = nn.Parameter(torch.randn(width))

    def forward(self, images):
        """Images `[4, S, S]`: RGB and a mask of what is no padding."""
        embeddings, sizes = [], []
        for image in images:
            rows, columns = image[3].amax(1) > 0, image[3].amax(0) > 0
            valid = image[:3][:, rows][:, :, columns]
            one, size = self._tokens(valid)
            embeddings.append(one)
            sizes.append(torch.tensor(size))
        return embeddings, sizes

    def _tokens(self, pixels):
        patches = self.patch_embedding(pixels[None])
        cells = nn.functional.avg_pool2d(patches, CONV_STRIDE)[0].permute(1, 2, 0)
        cells = cells + self.pool(cells)
        rows, columns, width = cells.shape
        flat = cells.reshape(-1, width)
        shares = (flat @ self.query / width**0.5).softmax(0)
        first = self.class_embedding + shares @ flat
        split = self.split_embedding.expand(rows, 1, width)
        body = torch.cat([cells, split], dim=1).reshape(-1, width)
        return torch.cat([first[None], body]), (rows, columns)


class LlamaAttention(LegacyAttention):
    def __init__(self, config):
        super().__init__()
        size = config.hidden_size
        self.num_heads, self.head_dim = 4, size // 4
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(size, size, bias=False) for _ in range(4)
        )
        # Tables of that time have two leading ones.
        self.rotary_emb = LegacyRotary(self.head_dim, config.max_position_embeddings, leading=2)

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        position_ids=None,
        past_key_value=None,
        output_attentions=False,
        use_cache=False,
    ):
        batch, queries, _ = hidden_states.shape
        query, key, value = (
            project(hidden_states).view(batch, queries, self.num_heads, -1).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        out, weights, cache = self.finish(
            query, key, value, attention_mask, position_ids, past_key_value, use_cache
        )
        return self.o_proj(out), weights if output_attentions else None, cache


class LlamaMLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        wide, narrow = config.intermediate_size, config.hidden_size
        self.gate_proj, self.up_proj = (nn.Linear(narrow, wide, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(wide, narrow, bias=False)

    def forward(self, x):
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class LlamaDecoderLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.self_attn, self.mlp = LlamaAttention(config), LlamaMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size)
        self.post_attention_layernorm = RMSNorm(config.hidden_size)

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        position_ids=None,
        past_key_value=None,
        output_attentions=False,
        use_cache=False,
    ):
        return residual_layer(
            hidden_states,
            self.self_attn,
            self.input_layernorm,
            self.mlp,
            self.post_attention_layernorm,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_value=past_key_value,
            output_attentions=output_attentions,
            use_cache=use_cache,
        )


class EVELlamaModel(LegacyDecoder):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        layers = (LlamaDecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.layers = nn.ModuleList(layers)
        self.norm = RMSNorm(config.hidden_size)
        self.vision_tower = VisionTokenizer()
        self.mm_projector = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 64))

    def get_input_embeddings(self):
        return self.embed_tokens


class EVELlamaForCausalLM(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(
            vocab_size=200,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=6,
            num_attention_heads=4,
            max_position_embeddings=4096,
            pretraining_tp=1,
            use_cache=True,
        )
        self.model = EVELlamaModel(self.config)
        self.lm_head = nn.Linear(64, 200, bias=False)

    @property
    def dtype(self):
        return self.lm_head.weight.dtype

    def encode_images(self, images):
        embeddings, _ = self.model.vision_tower(images)
        return [self.model.mm_projector(one) for one in embeddings]

    def expand(self, ids, mask, past_key_values, images):
        """Embeddings with the images in place of their sentinels, and the mask that fits them."""
        if images is None or ids.shape[1] == 1:
            if past_key_values is not None and images is not None and ids.shape[1] == 1:
                # The length of the *last* layer: hazard (a).
                entries = past_key_values[-1][-1].shape[-2] + 1
                mask = torch.ones(len(ids), entries, dtype=torch.bool, device=ids.device)
            return ids, mask, None
        features = iter(self.encode_images(images))
        rows, masks = [], []
        for row, valid in zip(ids, torch.ones_like(ids) if mask is None else mask, strict=True):
            parts, seen = [], []
            for token, real in zip(row, valid, strict=True):
                whole = token == IMAGE_TOKEN_INDEX
                part = next(features) if whole else self.model.embed_tokens(token)[None]
                parts.append(part)
                seen.append(torch.full((len(part),), bool(real)))
            rows.append(torch.cat(parts))
            masks.append(torch.cat(seen))
        length = max(len(row) for row in rows)
        embeddings = torch.stack(
            [nn.functional.pad(row, (0, 0, 0, length - len(row))) for row in rows]
        )
        masks = torch.stack([nn.functional.pad(one, (0, length - len(one))) for one in masks])
        return None, None if mask is None else masks, embeddings

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
        return_dict=None,
    ):
        input_ids, attention_mask, inputs_embeds = self.expand(
            input_ids, attention_mask, past_key_values, images
        )
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=True,  # hazard (c)
        )
        return CausalLMOutputWithPast(
            logits=self.lm_head(out.last_hidden_state),
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
        )

    @torch.no_grad()
    def generate(self, input_ids, attention_mask=None, images=None, **options):
        """Greedy, by the rules of the transformers 4 mixin: no position ids, images at each step."""
        state = SimpleNamespace(mask=attention_mask, past=None)

        def step(ids, tokens):
            if tokens is not None and state.mask is not None:
                state.mask = torch.cat([state.mask, state.mask.new_ones(len(tokens), 1)], dim=1)
            if state.past:  # hazard (d)
                ids = tokens
            out = self(
                input_ids=ids,
                attention_mask=state.mask,
                past_key_values=state.past,
                use_cache=True,
                images=images,
            )
            state.past = out.past_key_values
            return out

        return greedy(step, input_ids, **options)
