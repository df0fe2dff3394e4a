"""Layout truth from the picture on: real processors of transformers, pixels painted before them."""

import numpy as np
import pytest
import test_glm4v
import test_idefics3
import test_internvl
import test_llava_next
import test_llava_onevision
import test_mistral3
import test_paligemma
import torch
from PIL import Image
from rows import check_truth
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, pipeline
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    GotOcr2ImageProcessorPil,
    get_optimal_tiled_canvas,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.paligemma.processing_paligemma import PaliGemmaProcessor
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from lightkv.adapters.inputs import read_inputs
from lightkv.adapters.tiles import arrangement
from lightkv.testing.truth import points

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "\n", "\n\n", "what", "is", "here"]


def tokenizer(*special):
    """Words, line breaks and the special tokens of a family; spaces separate words."""
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    pattern = Regex(r"\n+|[^\s]+")
    core.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="removed", invert=True)
    out = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    out.add_special_tokens({"additional_special_tokens": list(special)})
    return out


class Expanded:
    """A real image processor; ids as many as the model makes features, which is its own truth.

    The processors of these families cannot be built without torchvision: those with videos check the
    class of a video processor, Pixtral's imports it.
    """

    def __init__(self, suite, images, write=None):
        self.model, self.images, self.write = suite.make_model(), images, write
        self.image_token_id = self.model.config.image_token_id

    def __call__(self, images, text, return_tensors):
        out = dict(self.images(images, return_tensors=return_tensors))
        out.pop("num_patches", None)
        with torch.no_grad():
            features = self.model.model.get_image_features(**out).pooler_output
        count = sum(feature.reshape(-1, 64).shape[0] for feature in features)
        written = self.write(out) if self.write else [self.image_token_id] * count
        ids = torch.tensor([[50, *written, 51, 52]])
        assert int((ids == self.image_token_id).sum()) == count
        if "image_grid_thw" in out:
            out["mm_token_type_ids"] = (ids == self.image_token_id).long()
        return {**out, "input_ids": ids}


def rows_of(step):
    def write(out):
        height, width = out["image_sizes"][0]
        return test_mistral3.block(int(height) // step, int(width) // step)

    return write


def mistral3():
    suite = test_mistral3.TestMistral3()
    images = PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size=8)
    return suite, Expanded(suite, images, rows_of(8)), ""


def pixtral():
    suite = test_mistral3.TestPixtral()
    images = PixtralImageProcessorPil(size={"longest_edge": 32}, patch_size=4)
    return suite, Expanded(suite, images, rows_of(4)), ""


def idefics3():
    tags = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    words = tokenizer("<image>", "<fake_token_around_image>", "<global-img>", *tags)
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 144}, max_image_size={"longest_edge": 48}
    )
    return test_idefics3.TestIdefics3(), Idefics3Processor(images, words, 9), "what <image> is"


def internvl():
    suite = test_internvl.TestInternVL()
    size = {"height": 48, "width": 48}
    images = GotOcr2ImageProcessorPil(size=size, crop_to_patches=True, min_patches=1, max_patches=6)
    return suite, Expanded(suite, images), ""


def llava_onevision():
    suite = test_llava_onevision.TestImages()
    size, pinpoints = {"height": 48, "width": 48}, test_llava_onevision.PINPOINTS
    images = LlavaOnevisionImageProcessorPil(size=size, image_grid_pinpoints=pinpoints)
    return suite, Expanded(suite, images), ""


def glm4v():
    suite = test_glm4v.TestImages()
    size = {"shortest_edge": 16 * 16, "longest_edge": 2 * 48 * 48}
    return suite, Expanded(suite, Glm4vImageProcessorPil(patch_size=4, merge_size=2, size=size)), ""


def paligemma():
    images = SiglipImageProcessorPil(size={"height": 48, "width": 48})
    images.image_seq_length = 36
    words = tokenizer("<image>")
    return test_paligemma.TestPaliGemma(), PaliGemmaProcessor(images, words), "<image> what"


def llava_next():
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 48},
        crop_size={"height": 48, "width": 48},
        image_grid_pinpoints=test_llava_next.PINPOINTS,
    )
    processor = LlavaNextProcessor(
        images,
        tokenizer("<image>"),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    )
    return test_llava_next.TestLlavaNext(), processor, "what <image> is"


# Fuyu's needs torchvision, too: its PIL variant fails on its own tensors.
FAMILIES = [mistral3, pixtral, idefics3, internvl, llava_onevision, glm4v, paligemma]


def picture(width, height):
    """Large structures and a little noise, as in a photograph."""
    random = np.random.default_rng(1)
    coarse = Image.fromarray(random.integers(60, 190, (4, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noisy = smooth + random.integers(-12, 13, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def paint(image, y, x, rows, columns):
    """Black and white over most of one cell of a grid of rows × columns."""
    pixels = np.array(image)
    height, width = pixels.shape[:2]
    top, bottom = (int((y + shift / rows) * height) for shift in (-0.35, 0.35))
    left, right = (int((x + shift / columns) * width) for shift in (-0.35, 0.35))
    pixels[top:bottom, left:right] = 255 * (pixels[top:bottom, left:right] < 128)
    return Image.fromarray(pixels)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("size", [(240, 100), (110, 230)], ids=["wide", "tall"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_layout_truth(family, size):
    suite, processor, text = family()
    model, clean = suite.make_model(), picture(*size)
    model.config.image_token_id = processor.image_token_id
    adapter = suite.options(model, ())["adapter"]

    def process(image):
        return dict(processor(images=[image], text=[text], return_tensors="pt"))

    inputs = process(clean)
    layout = adapter.layout(model, read_inputs(adapter.input_module(model), (), inputs))
    views = layout.samples[0].views
    _, rows, columns = max((view.grid for view in views), key=np.prod)
    assert len(layout.samples[0].positions) == int(suite.vision_mask(model, inputs, ()).sum())
    for y, x in points(rows, columns):
        painted = process(paint(clean, y, x, rows, columns))
        with torch.no_grad():
            check_truth(
                adapter, model, inputs, painted, dict.fromkeys(range(len(views)), (0, y, x))
            )


@pytest.mark.parametrize(
    "size", [(100, 900), (300, 290), (500, 210), (640, 480), (400, 610), (880, 130)]
)
def test_tiles_lie_as_the_image_processor_cut_them(size):
    """Up to twelve tiles, of a photograph and of a page with lines of text."""
    cut = GotOcr2ImageProcessorPil(
        size={"height": 112, "width": 112}, crop_to_patches=True, min_patches=1, max_patches=12
    )
    width, height = size
    columns, rows = get_optimal_tiled_canvas((height, width), (112, 112), 1, 12)
    page = np.full((height, width, 3), 255, dtype=np.uint8)
    for number, top in enumerate(range(10, height - 10, 18)):
        page[top : top + 6, 10 : width * (3 + number % 5) // 8] = 20
    for image in (picture(width, height), Image.fromarray(page)):
        tiles = cut([image], return_tensors="pt")["pixel_values"]
        assert arrangement(tiles[:-1], tiles[-1]) == (rows, columns)


@pytest.mark.parametrize("family", [idefics3, paligemma, llava_next], ids=lambda f: f.__name__)
def test_the_pipeline_of_transformers_runs_compressed(family):
    """Families whose whole processor can be built here; LLaVA's is in test_serving.py."""
    suite, processor, text = family()
    model = suite.make_model()
    model.config.image_token_id = processor.image_token_id
    ask = pipeline("image-text-to-text", model=model, processor=processor)
    with suite.session(model, ()) as run:
        out = ask(picture(240, 100), text=text, max_new_tokens=3, return_full_text=False)
    assert isinstance(out[0]["generated_text"], str)
    assert run.last.samples[0].original >= 36
    assert run.last.retention < 0.7
