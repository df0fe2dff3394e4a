"""The memory of a conversion: a few buffers, however large the checkpoint and its files are."""

import subprocess
import sys

from standins.chat_checkpoint import write_hollow

CONVERT = """
import resource, sys
import torch, transformers
from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast, Qwen2Tokenizer
from lightkv.checkpoints.convert import convert_internvl2
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
done = convert_internvl2(sys.argv[1], sys.argv[2])
print(done.bytes, before, peak())
"""


def converted(source, out):
    """Bytes of the weights, peak of resident memory before and after, of a process of its own."""
    ran = subprocess.run(
        [sys.executable, "-c", CONVERT, source, out], capture_output=True, text=True, check=True
    )
    return (int(word) for word in ran.stdout.split()[-3:])


def test_memory_does_not_grow_with_the_checkpoint(tmp_path):
    size = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 16}
    write_hollow(tmp_path / "source", 12, text={**size, "num_attention_heads": 8})
    weight, before, after = converted(tmp_path / "source", tmp_path / "out")
    assert weight > 4e8
    assert after - before < 1e8
