"""The contract of MiniCPM-V 4.7: as 4.6, with three rotary axes on a canvas."""

from minicpm import BREAK, CLOSE, CUT, END_CUT, OPEN, MiniCPM
from transformers import MiniCPMV4_7Config, MiniCPMV4_7ForConditionalGeneration

from lightkv.testing import AdapterSuite


class TestMiniCPM47(MiniCPM, AdapterSuite):
    config, model, typed = MiniCPMV4_7Config, MiniCPMV4_7ForConditionalGeneration, True
    cannot = {
        **MiniCPM.cannot,
        "later image": "in a later turn transformers gives a picture no positions on a canvas",
    }
    extra = {
        "image_start_id": OPEN,
        "image_end_id": CLOSE,
        "slice_start_id": CUT,
        "slice_end_id": END_CUT,
        "newline_id": BREAK,
    }
