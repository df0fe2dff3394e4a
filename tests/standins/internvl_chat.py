"""A stand-in for InternVL2's own code: names, signatures, formulas and cache formats, tiny weights.

Its formulas were held against the published code line by line (docs/models.md says which state).
"""

from types import SimpleNamespace

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from standins.legacy import (
    DynamicRotary,
    LegacyAttention,
    LegacyDecoder,
    LegacyRotary,
    LinearRotary,
    RMSNorm,
    greedy,
    residual_layer,
)

TILE, PATCH = 48, 8
KINDS = {
    "internlm2": "InternLM2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
}


def chat_config(decoder="internlm2", *, vision=None, text=None, **changes):
    """`config.json` of a tiny model, with the fields that published ones have."""
    own = {"bias": False, "attn_implementation": "eager", "rope_scaling": ROTARY}
    return {
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"},
        "model_type": "internvl_chat",
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": TILE,
        "max_dynamic_patch": 6,
        "min_dynamic_patch": 1,
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5" if decoder == "qwen2" else "internlm2-chat",
        "torch_dtype": "float32",
        "transformers_version": "4.37.2",
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": True,
        "llm_config": {
            "architectures": [KINDS[decoder]],
            "model_type": decoder,
            "vocab_size": 200,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "use_cache": True,
            "num_beams": 1,
            **(own if decoder == "internlm2" else {}),
            **(text or {}),
        },
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "model_type": "intern_vit_6b",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_channels": 3,
            "image_size": TILE,
            "patch_size": PATCH,
            "qkv_bias": True,
            "qk_normalization": False,
            "norm_type": "layer_norm",
            "layer_norm_eps": 1e-6,
            "hidden_act": "gelu",
            "initializer_factor": 0.1,
            "drop_path_rate": 0.1,
            "use_flash_attn": True,
            "num_experts": 8,
            "use_moe": False,
            **(vision or {}),
        },
        **changes,
    }


ROTARY = {"type": "dynamic", "factor": 2.0}


def spaced(config):
    """The same with names in place of keys, the scaling of angles left as it is."""
    inner = {
        name: spaced(value) if name.endswith("_config") else value for name, value in config.items()
    }
    return SimpleNamespace(**inner)


def rotary_of(config, dim):
    kinds = {"linear": LinearRotary, "dynamic": DynamicRotary}
    scaling, sizes = config.rope_scaling, (dim, config.max_position_embeddings, config.rope_theta)
    if scaling is None:
        return LegacyRotary(*sizes)
    return kinds[scaling["type"]](*sizes, scaling["factor"])


class InternLM2Attention(LegacyAttention):
    def __init__(self, config):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.num_key_value_heads = config.num_key_value_heads
        self.head_dim = config.hidden_size // self.num_heads
        packed = (self.num_heads + 2 * self.num_key_value_heads) * self.head_dim
        self.wqkv = nn.Linear(config.hidden_size, packed, bias=config.bias)
        self.wo = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.rotary_emb = rotary_of(config, self.head_dim)

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
            RMSNorm(config.hidden_size, config.rms_norm_eps) for _ in range(2)
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
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

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


class InternVisionEmbeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, self.side = config.hidden_size, config.image_size // config.patch_size
        self.class_embedding = nn.Parameter(torch.randn(1, 1, width))
        self.patch_embedding = nn.Conv2d(3, width, config.patch_size, config.patch_size)
        self.position_embedding = nn.Parameter(torch.randn(1, self.side**2 + 1, width))

    def forward(self, pixel_values):
        patches = self.patch_embedding(pixel_values)
        size = patches.shape[-2:]
        patches = patches.flatten(2).transpose(1, 2)
        states = torch.cat([self.class_embedding.expand(len(patches), -1, -1), patches], dim=1)
        first, places = self.position_embedding[:, :1], self.position_embedding[:, 1:]
        places = places.reshape(1, self.side, self.side, -1).permute(0, 3, 1, 2)
        places = nn.functional.interpolate(places, size, mode="bicubic", align_corners=False)
        return states + torch.cat([first, places.flatten(2).transpose(1, 2)], dim=1)


class InternAttention(nn.Module):
    """Queries, keys and values packed one kind after the other; norms over all heads at once."""

    def __init__(self, config):
        super().__init__()
        width, self.heads = config.hidden_size, config.num_attention_heads
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        self.proj = nn.Linear(width, width)
        self.normal = config.qk_normalization
        if self.normal:
            self.q_norm, self.k_norm = (RMSNorm(width, config.layer_norm_eps) for _ in range(2))

    def forward(self, x):
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        if self.normal:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key, value = (
            t.view(*t.shape[:2], self.heads, -1).transpose(1, 2) for t in (query, key, value)
        )
        weights = (query * query.shape[-1] ** -0.5 @ key.transpose(2, 3)).softmax(-1)
        return self.proj((weights @ value).transpose(1, 2).flatten(2))


class InternVisionEncoderLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, norm = config.hidden_size, {"layer_norm": nn.LayerNorm, "rms_norm": RMSNorm}
        self.attn = InternAttention(config)
        self.mlp = nn.ModuleDict(
            {
                "fc1": nn.Linear(width, config.intermediate_size),
                "fc2": nn.Linear(config.intermediate_size, width),
            }
        )
        self.norm1, self.norm2 = (
            norm[config.norm_type](width, config.layer_norm_eps) for _ in range(2)
        )
        self.ls1, self.ls2 = (
            nn.Parameter(config.initializer_factor * torch.ones(width)) for _ in range(2)
        )

    def forward(self, x):
        x = x + self.attn(self.norm1(x)) * self.ls1
        inner = nn.functional.gelu(self.mlp["fc1"](self.norm2(x)))
        return x + self.mlp["fc2"](inner) * self.ls2


class InternVisionModel(nn.Module):
    """States of all layers; nothing is normalised after the last."""

    def __init__(self, config):
        super().__init__()
        self.embeddings = InternVisionEmbeddings(config)
        layers = (InternVisionEncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(layers)})

    def forward(self, pixel_values=None, output_hidden_states=None, return_dict=None):
        states = [self.embeddings(pixel_values)]
        for layer in self.encoder["layers"]:
            states.append(layer(states[-1]))
        return SimpleNamespace(last_hidden_state=states[-1], hidden_states=tuple(states))


def decoder_of(config):
    """The decoder by the name in the config: InternLM2's own code, or a class of transformers."""
    kind = config.architectures[0]
    if kind == "InternLM2ForCausalLM":
        return InternLM2ForCausalLM(config)
    configs = {
        "LlamaForCausalLM": (LlamaConfig, LlamaForCausalLM),
        "Qwen2ForCausalLM": (Qwen2Config, Qwen2ForCausalLM),
    }
    make, model = configs[kind]
    inert = ("architectures", "model_type", "num_beams")
    return model(make(**{k: v for k, v in vars(config).items() if k not in inert}))


class InternVLChatModel(nn.Module):
    def __init__(self, config, vision_model=None, language_model=None):
        super().__init__()
        self.config = config
        text, vision = config.llm_config, config.vision_config
        self.select_layer = config.select_layer
        self.downsample_ratio, self.ps_version = config.downsample_ratio, config.ps_version
        side = (config.force_image_size or vision.image_size) // vision.patch_size
        self.num_image_token = int(side**2 * self.downsample_ratio**2)
        self.img_context_token_id = None
        self.vision_model = vision_model or InternVisionModel(vision)
        self.language_model = language_model or decoder_of(text)
        wide = vision.hidden_size * int(1 / self.downsample_ratio) ** 2
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(wide),
            nn.Linear(wide, text.hidden_size),
            nn.GELU(),
            nn.Linear(text.hidden_size, text.hidden_size),
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
        states = self.vision_model(pixel_values=pixel_values).hidden_states[self.select_layer][
            :, 1:
        ]
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
        return_dict=None,
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
