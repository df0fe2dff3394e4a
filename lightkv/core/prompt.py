"""Where the prompt (what is neither vision nor padding) stands in each row of a layout."""

from __future__ import annotations

import torch

from lightkv.core.attention import PromptIndex
from lightkv.core.contracts import StartInput
from lightkv.core.layout import VisionLayout
from lightkv.core.transfer import to_device


def prompt_index(layout: VisionLayout, device: torch.device) -> PromptIndex:
    """Prompt positions of each row of a layout, on `device`."""
    if layout.index is None:
        return layout.once(("prompt", device), lambda: _prompt_index(layout, device))
    return _prompt_index(layout, device)


def _prompt_index(layout: VisionLayout, device: torch.device) -> PromptIndex:
    places, valid = layout.once(("text", device), lambda: _text_places(layout, device))
    text = layout.token_index(device).text
    index = torch.zeros(valid.numel(), dtype=torch.long, device=device)
    index = index.scatter(0, places, text % layout.length).view(valid.shape)
    return PromptIndex(index, valid, layout.valid_mask(device), any(layout.pads))


def _text_places(layout: VisionLayout, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """`[T]` place of each text token in a rectangle of all rows; `[B, P]` which places are taken."""
    counts = layout.text_counts
    width = max(counts, default=0)
    places = torch.cat([row * width + torch.arange(count) for row, count in enumerate(counts)])
    valid = torch.arange(width)[None] < torch.tensor(counts, dtype=torch.long)[:, None]
    return to_device(places, device), to_device(valid, device)


def start_input(hidden_states: torch.Tensor, layout: VisionLayout, drafts: int = 0) -> StartInput:
    """What enters the decoder, for `Scorer.start`; the last `drafts` positions are no prompt."""
    device = hidden_states.device
    vision = layout.vision_mask(device)
    places = torch.arange(vision.shape[1], device=device)
    last = torch.where(vision, places, -1).amax(dim=1)
    prompt = prompt_index(layout, device)
    if drafts:
        prompt = prompt.without_last(drafts)
    return StartInput(hidden_states, vision, prompt, last)
