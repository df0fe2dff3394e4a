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
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
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

from lightkv.adapters.hf.inputs import read_inputs
from lightkv.adapters.pictures.tiles import arrangement
from lightkv.testing.truth import cell_at, decoder_inputs, moved, points

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
    suite = test_mistral3.Pixtral()
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
WHOLE = ((0.0, 1.0), (0.0, 1.0))
"""(start, length) by axis of a picture in a view that shows all of it, and nothing else."""


def frame(size, grid):
    """The same for the tiles of LLaVA-NeXT.

    The resized picture stands in the middle of a canvas of tiles. Of the padding only whole rows (or
    columns) are cut off, as many on both sides, so that up to a row of padding is left on each: the
    first row may show the picture in its lower half only. Painting a cell as if the picture filled
    the rows would paint half of the next one.
    """
    width, height = size
    canvas = select_best_resolution((height, width), test_llava_next.PINPOINTS)
    pixels = np.zeros((height, width, 3))
    resized = get_patch_output_size(pixels, canvas, input_data_format="channels_last")
    return tuple(
        ((cells * 8 - short) / 2 / (cells * 8), short / (cells * 8))
        for cells, short in zip(grid, resized, strict=True)
    )


def picture(width, height):
    """Large structures and a little noise, as in a photograph."""
    random = np.random.default_rng(1)
    coarse = Image.fromarray(random.integers(60, 190, (4, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noisy = smooth + random.integers(-12, 13, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def paint(image, top, bottom, left, right):
    """Black and white over most of what the picture holds of a box, in shares of the picture."""
    pixels = np.array(image)
    spans = []
    for low, high, size in ((top, bottom, pixels.shape[0]), (left, right, pixels.shape[1])):
        low, high = max(low, 0.0), min(high, 1.0)
        middle, reach = (low + high) / 2, 0.35 * (high - low)
        spans.append(slice(int((middle - reach) * size), int((middle + reach) * size)))
    pixels[tuple(spans)] = 255 * (pixels[tuple(spans)] < 128)
    return Image.fromarray(pixels)


def prepared(family, size):
    """Model, adapter, clean picture, what makes inputs of a picture, the clean inputs, views."""
    suite, processor, text = family()
    model, clean = suite.make_model(), picture(*size)
    model.config.image_token_id = processor.image_token_id
    adapter = suite.options(model, ())["adapter"]

    def process(image):
        return dict(processor(images=[image], text=[text], return_tensors="pt"))

    inputs = process(clean)
    layout = adapter.layout(model, read_inputs(adapter.input_module(model), (), inputs))
    [sample] = layout.samples
    assert len(sample.positions) == int(suite.vision_mask(model, inputs, ()).sum())
    return model, adapter, clean, process, inputs, sample.views


def box_of(point, grid, frame=WHOLE):
    """Edges of the cell of a view at a point, in shares of the picture: y, y, x, x."""
    return [
        (centre + side / 2 / cells - start) / length
        for centre, cells, (start, length) in zip(point, grid, frame, strict=True)
        for side in (-1, 1)
    ]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("size", [(240, 100), (110, 230)], ids=["wide", "tall"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_layout_truth(family, size):
    """Views of the whole picture move at the same place as the largest one."""
    model, adapter, clean, process, inputs, views = prepared(family, size)
    _, *grid = max((view.grid for view in views), key=np.prod)
    for y, x in points(*grid):
        painted = process(paint(clean, *box_of((y, x), grid)))
        with torch.no_grad():
            check_truth(
                adapter, model, inputs, painted, dict.fromkeys(range(len(views)), (0, y, x))
            )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    "size",
    [(240, 100), (110, 230), (500, 333), (333, 500), (100, 240), (150, 140), (300, 90), (70, 300)],
)
def test_layout_truth_of_llava_next(size):
    """What a cell of either view shows is painted; `frame` says where the tiles show the picture.

    The cells of its two views do not lie on one another, so each is aimed at for itself.
    """
    model, adapter, clean, process, inputs, views = prepared(llava_next, size)
    base, tiles = views
    decoder = adapter.decoder(model)
    before = decoder_inputs(model, decoder, inputs)[0]
    for view, shown in ((base, WHOLE), (tiles, frame(size, tiles.grid[1:]))):
        grid = view.grid[1:]
        for y, x in points(*grid):
            painted = process(paint(clean, *box_of((y, x), grid, shown)))
            far = moved(before, decoder_inputs(model, decoder, painted)[0])
            found = view.cells[int(far[torch.as_tensor(view.positions)].argmax())]
            assert found == cell_at(view, (0, y, x)), (view.grid, y, x)


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
