"""Model families, and what maps them onto the engine.

`families/` has one file for each family. They are registered here, through the hook that a stranger's
plugin uses. Of two that serve a model the later one is asked first.
"""

from __future__ import annotations

from collections.abc import Callable

from lightkv.adapters.families.apertus1p5 import Apertus1p5Adapter
from lightkv.adapters.families.aria import AriaAdapter
from lightkv.adapters.families.auto import AutoAdapter
from lightkv.adapters.families.cohere2_vision import AyaVisionAdapter, Cohere2VisionAdapter
from lightkv.adapters.families.deepseek_ocr2 import DeepseekOcr2Adapter
from lightkv.adapters.families.deepseek_vl import DeepseekVLAdapter
from lightkv.adapters.families.ernie4_5_vl import Ernie45VLAdapter
from lightkv.adapters.families.eve import EVEAdapter
from lightkv.adapters.families.exaone4_5 import Exaone45Adapter
from lightkv.adapters.families.fast_vlm import FastVLMAdapter
from lightkv.adapters.families.fun_asr_nano import FunAsrNanoAdapter
from lightkv.adapters.families.fuyu import FuyuAdapter
from lightkv.adapters.families.gemma3 import Gemma3Adapter
from lightkv.adapters.families.gemma4 import Gemma4Adapter
from lightkv.adapters.families.generic import GenericAdapter
from lightkv.adapters.families.glm4v import Glm4vAdapter
from lightkv.adapters.families.glmasr import GlmAsrAdapter
from lightkv.adapters.families.got_ocr2 import GotOcr2Adapter
from lightkv.adapters.families.granite4_vision import Granite4VisionAdapter
from lightkv.adapters.families.granite_docling import GraniteDoclingAdapter
from lightkv.adapters.families.granite_speech import GraniteSpeechAdapter
from lightkv.adapters.families.hunyuan_vl import HunYuanVLAdapter
from lightkv.adapters.families.idefics2 import Idefics2Adapter
from lightkv.adapters.families.idefics3 import Idefics3Adapter
from lightkv.adapters.families.internvl import InternVLAdapter
from lightkv.adapters.families.internvl_chat import InternVLChatAdapter
from lightkv.adapters.families.kimi_k25 import KimiK25Adapter
from lightkv.adapters.families.lfm2_vl import Lfm2VLAdapter
from lightkv.adapters.families.llama4 import Llama4Adapter
from lightkv.adapters.families.llava import LlavaAdapter
from lightkv.adapters.families.llava_next import LlavaNextAdapter
from lightkv.adapters.families.llava_next_video import LlavaNextVideoAdapter
from lightkv.adapters.families.llava_onevision import LlavaOnevisionAdapter
from lightkv.adapters.families.minicpm import MiniCPMAdapter
from lightkv.adapters.families.mistral3 import Mistral3Adapter
from lightkv.adapters.families.molmo2 import Molmo2Adapter
from lightkv.adapters.families.moss_transcribe import MossTranscribeAdapter
from lightkv.adapters.families.muse import MuseAdapter
from lightkv.adapters.families.ovis2 import Ovis2Adapter
from lightkv.adapters.families.paligemma import PaliGemmaAdapter
from lightkv.adapters.families.perception_lm import PerceptionLMAdapter
from lightkv.adapters.families.phi4_multimodal import Phi4MultimodalAdapter
from lightkv.adapters.families.qwen2_audio import Qwen2AudioAdapter
from lightkv.adapters.families.qwen3_asr import Qwen3ASRAdapter
from lightkv.adapters.families.qwen3_vl import Qwen3VLAdapter
from lightkv.adapters.families.qwen_omni import Qwen3OmniAdapter, QwenOmniAdapter
from lightkv.adapters.families.qwen_vl import QwenVLAdapter
from lightkv.adapters.families.refused import RefusedAdapter
from lightkv.adapters.families.step3p7 import Step3p7Adapter
from lightkv.adapters.families.vibevoice_asr import VibeVoiceAsrAdapter
from lightkv.adapters.families.video_llama_3 import VideoLlama3Adapter
from lightkv.adapters.families.video_llava import VideoLlavaAdapter
from lightkv.adapters.families.vipllava import VipLlavaAdapter
from lightkv.adapters.families.voxtral import VoxtralAdapter
from lightkv.core.hookspecs import hookimpl
from lightkv.core.run.adapter import Adapter

FAMILIES = (
    AutoAdapter,
    GenericAdapter,
    RefusedAdapter,
    LlavaAdapter,
    LlavaNextAdapter,
    QwenVLAdapter,
    InternVLAdapter,
    InternVLChatAdapter,
    EVEAdapter,
    Idefics3Adapter,
    Mistral3Adapter,
    Glm4vAdapter,
    FuyuAdapter,
    PaliGemmaAdapter,
    VideoLlavaAdapter,
    LlavaNextVideoAdapter,
    LlavaOnevisionAdapter,
    Gemma3Adapter,
    Qwen3VLAdapter,
    VipLlavaAdapter,
    # What layers are given, how they see, and what they share.
    Ernie45VLAdapter,
    Gemma4Adapter,
    KimiK25Adapter,
    Llama4Adapter,
    MuseAdapter,
    # Tiles, squares, sizes and latents.
    Cohere2VisionAdapter,
    AyaVisionAdapter,
    DeepseekVLAdapter,
    Molmo2Adapter,
    FastVLMAdapter,
    PerceptionLMAdapter,
    Apertus1p5Adapter,
    Step3p7Adapter,
    Granite4VisionAdapter,
    GraniteDoclingAdapter,
    Ovis2Adapter,
    Idefics2Adapter,
    GotOcr2Adapter,
    DeepseekOcr2Adapter,
    AriaAdapter,
    # Recurrent layers.
    Lfm2VLAdapter,
    MiniCPMAdapter,
    # Audio, and several modalities at once.
    FunAsrNanoAdapter,
    GlmAsrAdapter,
    GraniteSpeechAdapter,
    MossTranscribeAdapter,
    Phi4MultimodalAdapter,
    Qwen2AudioAdapter,
    Qwen3ASRAdapter,
    Qwen3OmniAdapter,
    QwenOmniAdapter,
    VibeVoiceAsrAdapter,
    VoxtralAdapter,
    # Dynamic grids.
    Exaone45Adapter,
    HunYuanVLAdapter,
    VideoLlama3Adapter,
)


@hookimpl
def lightkv_adapters(register: Callable[[Adapter], None]) -> None:
    for family in FAMILIES:
        register(family())
