"""Growing the decoder during training leaves its function unchanged."""

import torch

from training.architecture import LAYERS, make_model
from training.deepen import PLACES, START_LAYERS, deepened, placed


def test_the_grown_decoder_computes_the_same() -> None:
    torch.manual_seed(0)
    shallow = make_model(START_LAYERS).eval()
    deep = deepened(shallow).eval()
    assert len(deep.model.language_model.layers) == LAYERS
    ids = torch.randint(5, 20, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(deep(input_ids=ids).logits, shallow(input_ids=ids).logits)


def test_new_layers_can_learn() -> None:
    torch.manual_seed(0)
    deep = deepened(make_model(START_LAYERS))
    deep(input_ids=torch.randint(5, 20, (2, 9))).logits.square().mean().backward()
    new = [i for i in range(LAYERS) if i not in PLACES]
    layers = deep.model.language_model.layers
    assert len(new) == LAYERS - START_LAYERS
    assert all(layers[i].mlp.down_proj.weight.grad.abs().sum() > 0 for i in new)


def test_places_of_the_shallow_layers() -> None:
    assert [placed(i, START_LAYERS) for i in range(START_LAYERS)] == list(range(START_LAYERS))
    assert [placed(i, LAYERS) for i in range(START_LAYERS)] == list(PLACES)
