"""Layout truth of cut pictures from the picture on: real processors, painted pictures."""

import pytest
import test_cohere2_vision
import test_ovis2
from releases import needs_class
from rows import check_truth
from test_processors import box_of, paint, picture, tokenizer
from transformers import AyaVisionProcessor, Ovis2Processor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil

from lightkv.adapters.families.cohere2_vision import AyaVisionAdapter
from lightkv.adapters.families.granite_docling import GraniteDoclingAdapter
from lightkv.adapters.families.ovis2 import Ovis2Adapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.testing.truth import points

SIZE = {"height": 48, "width": 48}


def aya_vision():
    tags = ["<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<image>", "TILE_GLOBAL"]
    words = tokenizer(*tags, *(f"TILE_{number}" for number in range(1, 7)))
    images = GotOcr2ImageProcessorPil(size=SIZE, crop_to_patches=True, max_patches=6)
    processor = AyaVisionProcessor(images, words, patch_size=8, img_size=48, downsample_factor=2)
    return test_cohere2_vision.TestAyaVision(), AyaVisionAdapter(), processor, "<|IMG_PATCH|>"


def ovis2():
    marks = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    words = tokenizer("<image>", "<IMG_ATOM>", *marks)
    images = Ovis2ImageProcessorPil(size=SIZE, crop_to_patches=True, max_patches=6)
    processor = Ovis2Processor(images, words, image_seq_length=9)
    suite = test_ovis2.TestOvis2()
    suite.indicators = words.convert_tokens_to_ids(marks)
    return suite, Ovis2Adapter(), processor, "<IMG_ATOM>"


def granite_docling():
    name = needs_class("GraniteDoclingProcessor")
    import test_granite_docling
    from transformers.models.granite_docling import image_processing_pil_granite_docling as pil

    tags = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    words = tokenizer("<image>", "<fake_token_around_image>", "<global-img>", *tags)
    images = pil.GraniteDoclingImageProcessorPil(size=SIZE, max_patches=6)
    suite = test_granite_docling.TestGraniteDocling()
    return suite, GraniteDoclingAdapter(), name(images, words, image_seq_len=9), "<image>"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("size", [(240, 100), (110, 230)], ids=["wide", "tall"])
@pytest.mark.parametrize("family", [aya_vision, ovis2, granite_docling])
def test_layout_truth(family, size):
    """Views of the whole picture move at the same place as the largest one."""
    suite, adapter, processor, word = family()
    model, clean = suite.make_model(), picture(*size)
    model.config.image_token_id = processor.tokenizer.convert_tokens_to_ids(word)

    def process(image):
        return dict(processor(images=[image], text=["what <image> is"], return_tensors="pt"))

    inputs = process(clean)
    layout = adapter.layout(model, read_inputs(model.model, (), inputs))
    views = layout.samples[0].views
    assert len(layout.samples[0].positions) == int(suite.vision_mask(model, inputs, ()).sum())
    assert len(views) == 2
    _, rows, columns = max(view.grid for view in views)
    for y, x in points(rows, columns):
        painted = process(paint(clean, *box_of((y, x), (rows, columns))))
        check_truth(adapter, model, inputs, painted, dict.fromkeys(range(2), (0, y, x)))
