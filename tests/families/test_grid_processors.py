"""Layout truth of dynamic grids from the picture on: real image processors, painted pictures."""

from importlib import import_module

import pytest
import torch
from rows import check_truth
from test_processors import box_of, paint, picture

from lightkv.testing.truth import points

FAMILIES = {
    "cohere_compass": ("CohereCompass", "CohereCompassImageProcessorPil"),
    "cosmos3_edge": ("Cosmos3Edge", "Cosmos3EdgeImageProcessorPil"),
    "cosmos3_omni": ("Cosmos3Omni", "Qwen2VLImageProcessorPil"),
    "exaone4_5": ("Exaone45", "Qwen2VLImageProcessorPil"),
    "glm46v": ("Glm46v", "Glm46VImageProcessorPil"),
    "glm4v_moe": ("Glm4vMoe", "Glm4vImageProcessorPil"),
    "glm_ocr": ("GlmOcr", "Glm46VImageProcessorPil"),
    "hunyuan_vl": ("TestHunYuanVL", "HunYuanVLImageProcessorPil"),
    "hyperclovax_vision_v2": ("HyperClovaX", "Qwen2VLImageProcessorPil"),
    "paddleocr_vl": ("TestPaddleOcrVl", "PaddleOCRVLImageProcessorPil"),
    "qwen3_vl_moe": ("Qwen3VLMoe", "Qwen2VLImageProcessorPil"),
    "video_llama_3": ("VideoLlama3", "VideoLlama3ImageProcessorPil"),
}
"""Test file → its rows of ids, and the image processor that its checkpoints name."""
MODULES = {"Qwen2VL": "qwen2_vl", "Glm4v": "glm4v", "Glm46V": "glm46v"}


def prepared(family):
    """The suite, its model, and what makes inputs of a picture."""
    rows, name = FAMILIES[family]
    suite = getattr(import_module(f"test_{family}"), rows)()
    home = MODULES.get(name.removesuffix("ImageProcessorPil"), family)
    maker = import_module(f"transformers.models.{home}.image_processing_pil_{home}")
    size = {"shortest_edge": 16 * 16, "longest_edge": 2 * 48 * 48}
    processor = getattr(maker, name)(patch_size=4, merge_size=2, size=size)

    def process(image):
        out = dict(processor([image], return_tensors="pt"))
        ids = torch.tensor([[50, *suite.block(out["image_grid_thw"][0].tolist()), 51, 52]])
        if suite.typed:
            out["mm_token_type_ids"] = suite.kinds_of(ids)
        return {**out, "input_ids": ids}

    return suite, suite.make_model(), process


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("size", [(240, 100), (110, 230)], ids=["wide", "tall"])
@pytest.mark.parametrize("family", FAMILIES)
def test_layout_truth(family, size):
    suite, model, process = prepared(family)
    clean = picture(*size)
    inputs = process(clean)
    _, rows, columns = (int(side) // 2 for side in inputs["image_grid_thw"][0])
    assert (columns > rows) == (size[0] > size[1])
    for y, x in points(rows, columns):
        painted = process(paint(clean, *box_of((y, x), (rows, columns))))
        sample = check_truth(suite.adapter(), model, inputs, painted, {0: (0, y, x)})
    assert sample.views[0].grid == (1, rows, columns)
