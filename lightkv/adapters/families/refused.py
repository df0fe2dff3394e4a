"""Model types of transformers that cannot be compressed: one reason for each kind, and what would work.

What a session shortens is the sequence of vision tokens between the layers of one decoder. Most of these
types have no such sequence; of the last four lightkv does not know the layers yet.
"""

from __future__ import annotations

from lightkv.core.run.refusal import Refusal
from lightkv.core.run.refusing import RefusingAdapter

CROSS_ATTENTION = Refusal(
    "its decoder reads the picture through cross-attention, so no vision token stands in its "
    "sequence and none in its cache of text",
    "run it without lightkv; its cost grows with the text, not with the picture's tokens",
)
ENCODER_DECODER = Refusal(
    "it is an encoder-decoder: what it knows of the picture is the encoder's output, which the "
    "decoder reads through cross-attention",
    "run it without lightkv; there is no prefill over vision tokens to shorten",
)
DIFFUSION = Refusal(
    "it writes its answer in rounds of denoising over a whole block, not token after token "
    "behind a prefill",
    "run it without lightkv",
)
ACTIONS = Refusal(
    "it denoises actions with an expert that attends to every layer's prefix cache, and "
    "`generate` is none of its",
    "run it without lightkv",
)
TEXT_ONLY = Refusal(
    "it takes no pictures, so there are no vision tokens",
    "use its decoder behind a vision tower, or adapter='generic' with the spans of what shall be"
    " compressed (layout=VisionLayout.from_spans(…))",
)
CLASSIFIER = Refusal(
    "it classifies: its head reads the logits of the last position of one pass and generates "
    "nothing",
    "compress the `Gemma3ForConditionalGeneration` inside (model.model) if it shall generate",
)
QUERIES = Refusal(
    "learned queries stand for the whole picture: it is compressed before the decoder, and none "
    "of them has a place in it",
    "run it without lightkv; how many queries there are is fixed by its training",
)
PREFIX = Refusal(
    "its pictures are a prefix of the decoder that no placeholder of the prompt stands for",
    "give the spans yourself: adapter='generic', layout=VisionLayout.from_spans(…), on its decoder",
)
ID_PICTURES = Refusal(
    "its pictures are ids of a codebook in the vocabulary, read like words; merged ids mean "
    "nothing",
    "run it without lightkv, or try dropping alone: adapter='generic' with "
    "layout=VisionLayout.from_spans(…)",
)
ADDED_AUDIO = Refusal(
    "its sound is added to the embeddings of the text, frame by frame, so no token is one of "
    "sound alone",
    "run it without lightkv; a frame that goes would take a text token along",
)
WRAPPER = Refusal(
    "it wraps a thinker, which sees and hears, and a talker, which speaks from the thinker's "
    "hidden states, one for each position of the prompt",
    "compress the thinker: compress(model.thinker, …), and generate text with "
    "model.thinker.generate(…)",
)

STREAMS = Refusal(
    "its layers hand on several copies of the hidden states side by side, and a stage shortens one",
    "run it without lightkv; lightkv does not know such layers yet",
)
BLOCKS = Refusal(
    "each block of its decoder is one thing alone (mamba, attention, experts or an MLP), and a stage "
    "acts between layers of attention with an MLP",
    "run it without lightkv; lightkv does not know such blocks yet",
)

REFUSED: dict[str, Refusal] = {
    **dict.fromkeys(("mllama", "idefics", "evolla", "blip"), CROSS_ATTENTION),
    **dict.fromkeys(
        ("florence2", "udop", "pix2struct", "pp_formulanet", "t5gemma2", "vision-encoder-decoder"),
        ENCODER_DECODER,
    ),
    "diffusion_gemma": DIFFUSION,
    "pi0": ACTIONS,
    "mistral4": TEXT_ONLY,
    "shieldgemma2": CLASSIFIER,
    **dict.fromkeys(
        ("blip-2", "instructblip", "instructblipvideo", "kosmos-2", "kosmos-2.5"), QUERIES
    ),
    "git": PREFIX,
    **dict.fromkeys(("chameleon", "emu3"), ID_PICTURES),
    **dict.fromkeys(("kyutai_speech_to_text", "voxtral_realtime"), ADDED_AUDIO),
    **dict.fromkeys(("qwen2_5_omni", "qwen3_omni_moe"), WRAPPER),
    **dict.fromkeys(("gemma3n", "qwen4_exp"), STREAMS),
    **dict.fromkeys(("nemotron_h_omni", "nemo_speechlm"), BLOCKS),
}
"""Model type → why it is refused."""


class RefusedAdapter(RefusingAdapter):
    """The types of transformers that cannot be compressed."""

    def __init__(self) -> None:
        super().__init__("refusals", REFUSED)
