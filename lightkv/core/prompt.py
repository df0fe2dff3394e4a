"""Where the prompt (what is neither vision nor padding) stands in each row of a layout."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from lightkv.core.layout import VisionLayout
from lightkv.core.transfer import to_device


@dataclass(frozen=True)
class PromptIndex:
    """Prompt (non-vision, non-padding) positions of each row, padded to the longest.

    Attributes:
        index: `[B, P]` positions; padding repeats position 0.
        valid: `[B, P]` false at padding.
        query_valid: `[B, N]` false at left padding of the sequence.
        padded: False where the host knows that `query_valid` is true everywhere.
    """

    index: torch.Tensor
    valid: torch.Tensor
    query_valid: torch.Tensor
    padded: bool = True

    def without_last(self, count: int) -> PromptIndex:
        """The same prompt without the last `count` positions, as if they were padding."""
        end = self.query_valid.shape[1] - count
        before = torch.arange(self.query_valid.shape[1], device=self.index.device) < end
        return replace(
            self,
            valid=self.valid & (self.index < end),
            query_valid=self.query_valid & before,
            padded=True,
        )


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


def given_prompt(layout: VisionLayout, device: torch.device) -> PromptIndex:
    """As `prompt_index`, without the drafts at the end, which are guesses of what comes after it."""
    prompt = prompt_index(layout, device)
    return prompt.without_last(layout.drafts) if layout.drafts else prompt
