"""Groups that are counted without vLLM against those that vLLM makes."""

from __future__ import annotations

import itertools
import random

import pytest

vllm = pytest.importorskip("vllm")

import torch  # noqa: E402
from vllm.config import VllmConfig  # noqa: E402
from vllm.v1.core.kv_cache_utils import (  # noqa: E402
    get_kv_cache_config_from_groups,
    get_kv_cache_groups,
)

from lightkv.integrations.vllm.blocks import RequestBlocks  # noqa: E402
from lightkv.integrations.vllm.cache import SegmentSpec  # noqa: E402
from lightkv.integrations.vllm.groups import group_layers  # noqa: E402


@pytest.fixture(scope="module", params=["LBNHC", "BLNHC"])
def config(request):
    """For caches with the layers outermost, and with the blocks outermost."""
    found = VllmConfig()
    found.cache_config.kv_cache_layout = request.param
    return found


def vllm_groups(config, sizes):
    """The groups that vLLM makes of segments of these sizes."""
    of_layer = [number for number, size in enumerate(sizes) for _ in range(size)]
    specs = {
        f"layers.{layer}": SegmentSpec(
            block_size=16, num_kv_heads=2, head_size=32, dtype=torch.float16, segment=number
        )
        for layer, number in enumerate(of_layer)
    }
    return get_kv_cache_groups(config, specs)


def layers_of(group):
    """(segment, layers) of a group."""
    layers = tuple(int(name.split(".")[1]) for name in group.layer_names)
    return group.kv_cache_spec.segment, layers


def several_sizes():
    """All small ones, and a fixed draw of large ones."""
    yield from itertools.product(range(1, 8), repeat=2)
    yield from itertools.product((1, 2, 3, 4, 6, 9), repeat=3)
    draw = random.Random(0)
    for _ in range(300):
        yield tuple(draw.randint(1, 40) for _ in range(draw.randint(1, 6)))


def test_groups_are_those_of_vllm(config):
    for sizes in several_sizes():
        starts = [0, *itertools.accumulate(sizes)]
        segments = [range(first, end) for first, end in itertools.pairwise(starts)]
        counted, made = group_layers(segments), vllm_groups(config, sizes)
        expected = [layers_of(group) for group in made]
        assert [(group.segment, group.layers) for group in counted.groups] == expected, sizes
        # As many blocks fit into a cache as with the bytes that are counted for a block.
        page = RequestBlocks(counted, (), 1, 16, 2 * 2 * 32 * 2).page_bytes
        pool = get_kv_cache_config_from_groups(config, made, 1000 * page + page - 1)
        assert pool.num_blocks == 1000, sizes


def test_a_single_segment_is_one_group_as_in_a_plain_engine(config):
    (group,) = vllm_groups(config, (12,))
    assert layers_of(group) == (0, tuple(range(12)))
