"""A decoder as modelling code for transformers 4 builds it, for the stand-in of InternVL2.

Nothing here is a copy of published code; its formulas were held against it.
"""

from types import SimpleNamespace

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPast


class RMSNorm(nn.Module):
    def __init__(self, size, eps=1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x):
        wide = x.float()
        return self.weight * (wide * (wide.square().mean(-1, True) + self.eps).rsqrt()).to(x.dtype)


class LegacyRotary(nn.Module):
    """Tables that are cut to `seq_len` rows: an index beyond them is an IndexError."""

    slower = 1.0

    def __init__(self, dim, max_position_embeddings=2048, base=10000):
        super().__init__()
        self.dim, self.base, self.max_position_embeddings = dim, base, max_position_embeddings
        self._set_frequencies(base)
        self._set_cos_sin_cache(max_position_embeddings, self.inv_freq.device, torch.float32)

    def _set_frequencies(self, base):
        frequencies = 1.0 / base ** (torch.arange(0, self.dim, 2).float() / self.dim)
        self.register_buffer("inv_freq", frequencies, persistent=False)

    def _set_cos_sin_cache(self, seq_len, device, dtype):
        self.max_seq_len_cached = seq_len
        places = torch.arange(seq_len).float() / self.slower
        angles = (places[:, None] * self.inv_freq).repeat(1, 2)
        self.register_buffer("cos_cached", angles.cos().to(dtype), persistent=False)
        self.register_buffer("sin_cached", angles.sin().to(dtype), persistent=False)

    def forward(self, x, seq_len=None):
        if seq_len > self.max_seq_len_cached:
            self._set_cos_sin_cache(seq_len, x.device, torch.float32)
        return self.cos_cached[:seq_len].to(x.dtype), self.sin_cached[:seq_len].to(x.dtype)


class LinearRotary(LegacyRotary):
    def __init__(self, dim, max_position_embeddings=2048, base=10000, scaling_factor=1.0):
        self.slower = scaling_factor
        super().__init__(dim, max_position_embeddings, base)


class DynamicRotary(LegacyRotary):
    """Its base changes once a sequence is longer than the table was."""

    def __init__(self, dim, max_position_embeddings=2048, base=10000, scaling_factor=1.0):
        self.scaling_factor = scaling_factor
        super().__init__(dim, max_position_embeddings, base)

    def _set_cos_sin_cache(self, seq_len, device, dtype):
        if seq_len > self.max_position_embeddings:
            longer = self.scaling_factor * seq_len / self.max_position_embeddings
            grown = longer - (self.scaling_factor - 1)
            self._set_frequencies(self.base * grown ** (self.dim / (self.dim - 2)))
        super()._set_cos_sin_cache(seq_len, device, dtype)


def apply_rotary(states, tables, position_ids):
    cos, sin = (t.reshape(-1, t.shape[-1])[position_ids].unsqueeze(1) for t in tables)
    half = states.shape[-1] // 2
    turned = torch.cat((-states[..., half:], states[..., :half]), dim=-1)
    return (states * cos) + (turned * sin)


def attend(query, key, value, attention_mask):
    """Eager attention; the size of the mask is checked strictly."""
    batch, heads, queries, dim = query.shape
    groups = heads // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    weights = query @ key.transpose(2, 3) / dim**0.5
    if attention_mask is not None:
        wanted = (batch, 1, queries, key.shape[2])
        if attention_mask.shape != wanted:
            raise ValueError(
                f"Attention mask should be of size {wanted}, but is {attention_mask.shape}"
            )
        weights = weights + attention_mask
    weights = weights.float().softmax(-1).to(query.dtype)
    return (weights @ value).transpose(1, 2).reshape(batch, queries, heads * dim), weights


class LegacyAttention(nn.Module):
    """Everything after the projections."""

    def finish(self, query, key, value, mask, position_ids, past_key_value, use_cache):
        entries = key.shape[2] + (past_key_value[0].shape[2] if past_key_value is not None else 0)
        tables = self.rotary_emb(value, seq_len=entries)
        query = apply_rotary(query, tables, position_ids)
        key = apply_rotary(key, tables, position_ids)
        if past_key_value is not None:
            key = torch.cat([past_key_value[0], key], dim=2)
            value = torch.cat([past_key_value[1], value], dim=2)
        out, weights = attend(query, key, value, mask)
        return out, weights, (key, value) if use_cache else None


def float_mask(mask, batch, queries, past, dtype, device):
    """`[B, 1, Q, K]` from a 2-D mask of all entries of *layer 0*."""
    keys = past + queries
    lowest = torch.finfo(dtype).min
    if mask.shape != (batch, keys):
        raise RuntimeError(f"mask {tuple(mask.shape)} does not fit {keys} entries of layer 0")
    causal = torch.full((queries, queries), lowest, dtype=dtype, device=device).triu(1)
    causal = torch.cat([causal.new_zeros(queries, past), causal], dim=1)
    hidden = (mask[:, None, None, :] == 0).expand(batch, 1, queries, keys)
    return causal.expand(batch, 1, -1, -1).masked_fill(hidden, lowest)


class LegacyDecoder(nn.Module):
    """A layer loop with tuple caches. Subclasses have `layers`, `norm` and an embedding.

    With `by_place` the arguments of a layer have no names, as under gradient checkpointing.
    """

    by_place = False

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
    ):
        use_cache = self.config.use_cache if use_cache is None else use_cache
        hidden = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        batch, queries = hidden.shape[:2]
        past = 0 if past_key_values is None else past_key_values[0][0].shape[2]
        if position_ids is None:
            position_ids = torch.arange(past, past + queries, device=hidden.device)[None]
        if attention_mask is None:
            attention_mask = torch.ones(batch, past + queries, dtype=torch.bool)
        mask = float_mask(attention_mask, batch, queries, past, hidden.dtype, hidden.device)
        cache, states, weights = (), (), ()
        for number, layer in enumerate(self.layers):
            states += (hidden,) if output_hidden_states else ()
            arguments = {
                "attention_mask": mask,
                "position_ids": position_ids,
                "past_key_value": None if past_key_values is None else past_key_values[number],
                "output_attentions": bool(output_attentions),
                "use_cache": use_cache,
            }
            if self.by_place:
                outputs = layer(hidden, *arguments.values())
            else:
                outputs = layer(hidden, **arguments)
            assert isinstance(outputs, tuple)
            hidden = outputs[0]
            weights += (outputs[1],) if output_attentions else ()
            cache += (outputs[2 if output_attentions else 1],) if use_cache else ()
        hidden = self.norm(hidden)
        return BaseModelOutputWithPast(
            last_hidden_state=hidden,
            past_key_values=cache if use_cache else None,
            hidden_states=(*states, hidden) if output_hidden_states else None,
            attentions=weights or None,
        )


def residual_layer(hidden, attention, norm, mlp, mlp_norm, **arguments):
    """One decoder layer of that time, whatever its parts are called."""
    out, weights, cache = attention(hidden_states=norm(hidden), **arguments)
    hidden = hidden + out
    hidden = hidden + mlp(mlp_norm(hidden))
    return layer_outputs(
        hidden, weights, cache, arguments["output_attentions"], arguments["use_cache"]
    )


def layer_outputs(hidden, weights, cache, output_attentions, use_cache):
    return (hidden, *((weights,) if output_attentions else ()), *((cache,) if use_cache else ()))


def greedy(step, first, max_new_tokens, suppress_tokens=None, **_):
    """Greedy decoding by `step(model_inputs, tokens)`, which gives the next model output."""
    logits, tokens, out = [], [], step(first, None)
    for number in range(max_new_tokens):
        logits.append(out.logits[:, -1].float())
        scores = logits[-1].clone()
        scores[:, list(suppress_tokens or ())] = -torch.inf
        tokens.append(scores.argmax(-1, keepdim=True))
        if number + 1 < max_new_tokens:
            out = step(None, tokens[-1])
    return SimpleNamespace(
        sequences=torch.cat(tokens, dim=1),
        logits=tuple(logits),
        past_key_values=out.past_key_values,
    )
