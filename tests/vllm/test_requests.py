"""Requests that cannot be served are refused where they come in, and the engine goes on."""

from __future__ import annotations

import os

import pytest
import torch

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("vllm.config")

import tiny_checkpoints as tiny
from vllm import LLM, SamplingParams
from vllm.config import ModelConfig
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.exceptions import VLLMClientError
from vllm.multimodal import MULTIMODAL_REGISTRY

from lightkv.core.errors import LayoutError, LightKVError
from lightkv.integrations.vllm import engine_args
from lightkv.integrations.vllm.engine_args import CLASSES
from lightkv.integrations.vllm.families import FAMILIES

STAGE = [{"after_layer": 3, "ratio": 0.5, "windows": 1}]


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava") / "checkpoint"
    tiny.llava(folder)
    made = LLM(
        **engine_args(folder, "tome", schedule=STAGE),
        dtype="float32",
        enforce_eager=True,
        block_size=32,
        max_model_len=512,
        max_num_seqs=4,
        enable_mm_embeds=True,
    )
    yield made
    made.llm_engine.engine_core.shutdown()
    cleanup_dist_env_and_memory()


def ask(llm, rows):
    embeds = torch.randn(1, rows, 128, generator=torch.Generator().manual_seed(rows))
    given = {"prompt": "w1 <image> w2", "multi_modal_data": {"image": embeds}}
    [found] = llm.generate([given], SamplingParams(max_tokens=3, ignore_eos=True), use_tqdm=False)
    return found.outputs[0].token_ids


def test_features_of_another_grid(llm):
    """Features may be given in place of a picture, as many as its grid has cells."""
    with pytest.raises(LightKVError, match="60 image placeholders") as error:
        ask(llm, 60)
    assert isinstance(error.value, VLLMClientError)  # a server answers with status 400
    assert isinstance(error.value.__cause__, LayoutError)
    assert not llm.llm_engine.has_unfinished_requests()
    assert len(ask(llm, 64)) == 3


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.model_type)
def test_vllm_takes_the_kinds_of_pictures_that_are_mapped(family, tmp_path):
    tiny.FAMILIES[family.model_type](tmp_path)
    overrides = {"architectures": [CLASSES[family.architecture]]}
    config = ModelConfig(model=str(tmp_path), hf_overrides=overrides, dtype="float32")
    limits = MULTIMODAL_REGISTRY.get_processing_info(config).get_supported_mm_limits()
    assert set(limits) == set(family.modalities)
