"""The processor of the second bundled model without torchvision, which its video class would need.

Pictures and texts go through transformers' own `Qwen2_5_VLProcessor`. Frames of clips go through its
picture processor one by one, and are then put together in pairs, as its video processor would do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

FRAMES_PER_SECOND = 24
"""What transformers assumes of a clip that says nothing of its speed."""


class ClipFrames:
    """Clips ``[F, H, W, 3]`` to patches, by a picture processor."""

    model_input_names = ("pixel_values_videos", "video_grid_thw")

    def __init__(self, pictures: Qwen2VLImageProcessorPil) -> None:
        """`pictures` says how frames are resized and normalised."""
        self.pictures = pictures
        self.merge_size = pictures.merge_size
        self.temporal_patch_size = pictures.temporal_patch_size

    def __call__(self, videos: Any, **options: Any) -> dict[str, torch.Tensor]:
        """Clips to ``pixel_values_videos`` ``[patches, values]`` and ``video_grid_thw`` ``[N, 3]``; the
        last frame of an odd number counts twice."""
        made, grids = [], []
        for clip in flat(videos):
            frames = [np.asarray(frame) for frame in clip]
            frames += frames[-1:] * (-len(frames) % self.temporal_patch_size)
            out = self.pictures(frames, return_tensors="pt")
            _, rows, cols = out["image_grid_thw"][0].tolist()
            steps = len(frames) // self.temporal_patch_size
            values = out[
                "pixel_values"
            ].view(  # each frame stands there `temporal_patch_size` times
                steps, self.temporal_patch_size, rows * cols, 3, self.temporal_patch_size, -1
            )
            values = values[..., 0, :].permute(0, 2, 3, 1, 4)
            made.append(values.reshape(steps * rows * cols, -1))
            grids.append([steps, rows, cols])
        return {"pixel_values_videos": torch.cat(made), "video_grid_thw": torch.tensor(grids)}


def flat(videos: Any) -> list[Any]:
    """A clip, clips, or clips for each text, as a list of clips."""
    if isinstance(videos, np.ndarray | torch.Tensor):
        return list(videos) if videos.ndim == 5 else [videos]
    first = videos[0]
    if isinstance(first, np.ndarray | torch.Tensor) and first.ndim == 4:
        return list(videos)
    if isinstance(first, list | tuple):
        return [clip for one in videos for clip in flat(one)]
    return [videos]  # a list of frames


class ClipProcessor(Qwen2_5_VLProcessor):
    """`Qwen2_5_VLProcessor` whose clips need no torchvision."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> type:
        """As of transformers, but frames may be taken apart by `ClipFrames`."""
        if isinstance(argument, ClipFrames):
            return ClipFrames
        return super().check_argument_for_proper_class(argument_name, argument)  # type: ignore[no-any-return]

    def _process_videos(self, videos: Any, **kwargs: Any) -> tuple[dict[str, Any], list[str]]:
        processed: dict[str, Any] = self.video_processor(videos)
        grids = processed["video_grid_thw"]
        words = [self.replace_video_token(processed, index) for index in range(len(grids))]
        seconds = self.video_processor.temporal_patch_size / FRAMES_PER_SECOND
        processed["second_per_grid_ts"] = torch.full((len(grids),), seconds)
        return processed, words


def make_processor(pictures: Qwen2VLImageProcessorPil, tokenizer: Any) -> ClipProcessor:
    """A processor of its parts; the chat template is the tokenizer's."""
    return ClipProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        video_processor=ClipFrames(pictures),
        chat_template=tokenizer.chat_template,
    )


def load_processor(folder: Path) -> ClipProcessor:
    """The processor of a checkpoint."""
    pictures = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return make_processor(pictures, tokenizer)
