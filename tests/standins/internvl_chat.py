"""A structural stand-in for InternVL2's own code: names, shapes and cache formats, tiny weights."""

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

TILE, PATCH = 48, 8


class InternLM2Attention(LegacyAttention):
    def __init__(self, config):
        super().__init__()
        self.num_heads, self.num_key_value_heads = 4, 2
        self.head_dim = config.hidden_size // self.num_heads
        packed = (self.num_heads + 2 * self.num_key_value_heads) * self.head_dim
        self.wqkv = nn.Linear(config.hidden_size, packed, bias=False)
        self.wo = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        scaling = config.rope_scaling["factor"]
        rows = config.max_position_embeddings
        self.rotary_emb = LegacyRotary(self.head_dim, rows, dynamic=scaling)

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        position_ids=None,
        past_key_value=None,
        output_attentions=False,
        use_cache=False,
        **kwargs,
    ):
        batch, queries, _ = hidden_states.shape
        groups = self.num_heads // self.num_key_value_heads
        packed = self.wqkv(hidden_states)
        packed = packed.view(batch, queries, self.num_key_value_heads, groups + 2, self.head_dim)
        query = packed[..., :groups, :].reshape(batch, queries, self.num_heads, self.head_dim)
        query, key, value = (
            t.transpose(1, 2) for t in (query, packed[..., -2, :], packed[..., -1, :])
        )
        out, weights, cache = self.finish(
            query, key, value, attention_mask, position_ids, past_key_value, use_cache
        )
        return self.wo(out), weights if output_attentions else None, cache


class InternLM2FlashAttention2(InternLM2Attention):
    """Published code chooses attention by class; this one never runs here."""


class InternLM2MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        wide, narrow = config.intermediate_size, config.hidden_size
        self.w1, self.w3 = (nn.Linear(narrow, wide, bias=False) for _ in range(2))
        self.w2 = nn.Linear(wide, narrow, bias=False)

    def forward(self, x):
        return self.w2(nn.functional.silu(self.w1(x)) * self.w3(x))


class InternLM2DecoderLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        kinds = {"eager": InternLM2Attention, "flash_attention_2": InternLM2FlashAttention2}
        self.attention = kinds[config.attn_implementation](config)
        self.feed_forward = InternLM2MLP(config)
        self.attention_norm, self.ffn_norm = (
            RMSNorm(config.hidden_size),
            RMSNorm(config.hidden_size),
        )

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        position_ids=None,
        past_key_value=None,
        output_attentions=False,
        use_cache=False,
        **kwargs,
    ):
        return residual_layer(
            hidden_states,
            self.attention,
            self.attention_norm,
            self.feed_forward,
            self.ffn_norm,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_value=past_key_value,
            output_attentions=output_attentions,
            use_cache=use_cache,
            **kwargs,
        )


class InternLM2Model(LegacyDecoder):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        layers = (InternLM2DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.layers = nn.ModuleList(layers)
        self.norm = RMSNorm(config.hidden_size)

    def get_input_embeddings(self):
        return self.tok_embeddings


class InternLM2ForCausalLM(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.model = InternLM2Model(config)
        self.output = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def get_input_embeddings(self):
        return self.model.tok_embeddings

    def forward(self, input_ids=None, labels=None, **kwargs):
        out = self.model(input_ids=input_ids, **kwargs)
        return CausalLMOutputWithPast(
            logits=self.output(out.last_hidden_state).float(),
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
        )

    def generate(
        self,
        inputs_embeds=None,
        attention_mask=None,
        use_cache=True,
        num_return_sequences=1,
        **options,
    ):
        """Greedy, by the rules of the transformers 4 mixin: position ids come from the mask."""
        inputs_embeds, attention_mask = (
            given.repeat_interleave(num_return_sequences, dim=0)
            for given in (inputs_embeds, attention_mask)
        )
        state = SimpleNamespace(mask=attention_mask, past=None)

        def step(embeddings, tokens):
            if tokens is not None:
                state.mask = torch.cat([state.mask, state.mask.new_ones(len(tokens), 1)], dim=1)
            positions = (state.mask.long().cumsum(-1) - 1).masked_fill(state.mask == 0, 1)
            new = 1 if tokens is not None else embeddings.shape[1]
            out = self(
                **{"inputs_embeds": embeddings} if tokens is None else {"input_ids": tokens},
                attention_mask=state.mask,
                position_ids=positions[:, -new:],
                past_key_values=state.past,
                use_cache=use_cache,
            )
            state.past = out.past_key_values
            return out

        return greedy(step, inputs_embeds, **options)


class InternVisionModel(nn.Module):
    """Patches and a class token first; a little of everything leaks everywhere, as attention does."""

    def __init__(self, width=32):
        super().__init__()
        self.patches = nn.Conv2d(3, width, PATCH, PATCH)
        self.class_embedding = nn.Parameter(torch.randn(1, 1, width))

    def forward(self, pixel_values):
        patches = self.patches(pixel_values).flatten(2).transpose(1, 2)
        states = torch.cat([self.class_embedding.expand(len(patches), -1, -1), patches], dim=1)
        return SimpleNamespace(last_hidden_state=states + 0.1 * states.mean(1, keepdim=True))


class InternVLChatModel(nn.Module):
    def __init__(self, attn_implementation="eager", ps_version="v2", **changes):
        super().__init__()
        text = SimpleNamespace(
            vocab_size=200,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            rope_scaling={"type": "dynamic", "factor": 2.0},
            attn_implementation=attn_implementation,
            use_cache=True,
        )
        vars(text).update(changes)
        self.config = SimpleNamespace(
            model_type="internvl_chat",
            llm_config=text,
            vision_config=SimpleNamespace(image_size=TILE, patch_size=PATCH),
            downsample_ratio=0.5,
            ps_version=ps_version,
            use_thumbnail=True,
        )
        self.downsample_ratio, self.ps_version = 0.5, ps_version
        self.num_image_token = int((TILE // PATCH) ** 2 * 0.5**2)
        self.img_context_token_id = None
        self.vision_model = InternVisionModel()
        self.language_model = InternLM2ForCausalLM(text)
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(128), nn.Linear(128, 64), nn.GELU(), nn.Linear(64, 64)
        )

    @property
    def dtype(self):
        return self.mlp1[1].weight.dtype

    def pixel_shuffle(self, x):
        """`[n, h, w, c]` → `[n, h / 2, w / 2, 4c]`; "v1" leaves rows and columns exchanged."""
        n, height, width, channels = x.shape
        blocks = x.view(n, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 2, 4, 5)
        out = blocks.reshape(n, height // 2, width // 2, 4 * channels)
        return out.transpose(1, 2) if self.ps_version == "v1" else out

    def extract_feature(self, pixel_values):
        states = self.vision_model(pixel_values=pixel_values).last_hidden_state[:, 1:]
        side = int(states.shape[1] ** 0.5)
        states = self.pixel_shuffle(states.reshape(len(states), side, side, -1))
        return self.mlp1(states.reshape(len(states), -1, states.shape[-1]))

    def _embeddings(self, input_ids, features):
        embeddings = self.language_model.get_input_embeddings()(input_ids)
        selected = (input_ids == self.img_context_token_id)[..., None]
        return embeddings.masked_scatter(selected, features.to(embeddings.dtype))

    def forward(
        self,
        pixel_values,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        image_flags=None,
        past_key_values=None,
        labels=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
    ):
        features = self.extract_feature(pixel_values)[image_flags.squeeze(-1) == 1]
        return self.language_model(
            inputs_embeds=self._embeddings(input_ids, features),
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )

    @torch.no_grad()
    def generate(
        self,
        pixel_values=None,
        input_ids=None,
        attention_mask=None,
        visual_features=None,
        generation_config=None,
        output_hidden_states=None,
        **generate_kwargs,
    ):
        assert self.img_context_token_id is not None
        if pixel_values is None:
            embeddings = self.language_model.get_input_embeddings()(input_ids)
        else:
            features = visual_features
            features = self.extract_feature(pixel_values) if features is None else features
            embeddings = self._embeddings(input_ids, features)
        return self.language_model.generate(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            use_cache=True,
            **generate_kwargs,
        )

    def chat(self, token_ids, pixel_values, generation_config, context_id):
        """Takes ids where the published method takes a tokenizer, which a stand-in has not."""
        self.img_context_token_id = context_id
        mask = torch.ones_like(token_ids)
        return self.generate(
            pixel_values=pixel_values,
            input_ids=token_ids,
            attention_mask=mask,
            **generation_config,
        )
