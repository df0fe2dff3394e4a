"""What `lightkv show` draws in a cell is what the cell's token sees: paint it, and that token moves."""

import numpy as np
import pytest
import torch
from test_processors import (
    box_of,
    glm4v,
    idefics3,
    internvl,
    llava_next,
    llava_onevision,
    mistral3,
    paint,
    paligemma,
    pixtral,
    prepared,
)

from lightkv.adapters.hf.inputs import read_inputs
from lightkv.lab.pictures.views import shown_views
from lightkv.testing.truth import decoder_inputs, moved

SOURCES = {
    "llava_next": ["encoder", "encoder"],
    "paligemma": ["encoder"],
    "mistral3": ["encoder"],
    "pixtral": ["encoder"],
}
"""What each view shows; everything else is the whole picture, stretched."""


def cells_that_changed(before, after):
    """`[rows, columns]` how much the pixels of each cell of a view differ."""
    size = (before.columns * 16, before.rows * 16)
    one, other = (np.asarray(v.pixels.resize(size)).astype(float) for v in (before, after))
    far = np.abs(one - other).mean(axis=-1)
    return far.reshape(before.rows, 16, before.columns, 16).mean(axis=(1, 3))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("size", [(240, 100), (110, 230)], ids=["wide", "tall"])
@pytest.mark.parametrize(
    "family",
    [mistral3, pixtral, idefics3, internvl, llava_onevision, glm4v, paligemma, llava_next],
    ids=lambda family: family.__name__,
)
def test_the_painted_cell_is_that_of_the_token_that_moves(family, size):
    model, adapter, clean, process, inputs, views = prepared(family, size)
    _, rows, columns = max((view.grid for view in views), key=np.prod)
    decoder = adapter.decoder(model)
    layout = adapter.layout(model, read_inputs(adapter.input_module(model), (), inputs))
    maker = type("Processor", (), {"image_processor": image_processor(process)})

    def shown(image, made):
        return shown_views(layout, [image], made, maker, model.config)

    before, drawn = decoder_inputs(model, decoder, inputs)[0], shown(clean, inputs)
    wanted = SOURCES.get(family.__name__, ["stretched"] * len(views))
    assert [view.source for view in drawn] == wanted
    places = torch.as_tensor(layout.samples[0].positions)
    for row, column in ((rows // 2, columns // 3), (rows - 2, columns - 2)):
        point = ((row + 0.5) / rows, (column + 0.5) / columns)
        image = paint(clean, *box_of(point, (rows, columns)))
        made = process(image)
        far = moved(before, decoder_inputs(model, decoder, made)[0])[places]
        for one, other in zip(drawn, shown(image, made), strict=True):
            change = cells_that_changed(one, other)
            seen = far[torch.as_tensor(one.tokens)].numpy()
            # A painted box may cover two cells alike; the token's cell is then one of them.
            cell = np.unravel_index(int(seen.argmax()), seen.shape)
            assert change[cell] >= 0.6 * change.max(), (one.title, cell, change.argmax())


def image_processor(process):
    """The image processor inside `prepared`'s closure."""
    [processor] = [
        cell.cell_contents
        for cell in process.__closure__
        if callable(cell.cell_contents) and not isinstance(cell.cell_contents, str)
    ]
    return getattr(processor, "image_processor", None) or processor.images
