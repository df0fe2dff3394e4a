"""Tokenizers of whole words: what both bundled models read and write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
GROUND_WORD = "ground"
"""The word that patches without a digit are taught to stand for; no question or answer has it."""


def word_tokenizer(
    word_id: Mapping[str, int], placeholders: Sequence[str], chat_template: str, length: int
) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words; it puts ``<bos>`` in front by itself.

    Args:
        word_id: the vocabulary, `PAD`, `BOS`, `EOS` and `UNK` in it.
        placeholders: words of pictures, which need no blanks around them.
        chat_template: how a conversation is written.
        length: the most tokens that the model takes.
    """
    core = Tokenizer(models.WordLevel(dict(word_id), unk_token=UNK))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, word_id[BOS])]
    )
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        additional_special_tokens=list(placeholders),
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=length,
    )
    tokenizer.chat_template = chat_template
    return tokenizer
