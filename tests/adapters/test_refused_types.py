"""Model types that cannot be compressed: the reason comes before anything is done to the model."""

import types
import warnings

import pytest
import torch
import transformers
from releases import before

import lightkv
from lightkv.adapters.families.refused import REFUSED
from lightkv.adapters.hf.contact import empty_model
from lightkv.core.errors import ModelError
from lightkv.core.hookspecs import hookimpl
from lightkv.core.plugins import Registry
from lightkv.core.run import adapter as adapters
from lightkv.core.run.adapter import Adapter, find_adapter, standing_of
from lightkv.core.run.refusal import Refusal
from lightkv.plugin import HFAdapter, RefusingAdapter


class Stranger(torch.nn.Module):
    """A module with a config of a type, and nothing else."""

    def __init__(self, model_type):
        super().__init__()
        self.config = types.SimpleNamespace(model_type=model_type)


@pytest.fixture
def with_plugin(monkeypatch):
    """Registers adapters as a stranger's plugin does, behind the built-in ones."""

    def register(*found):
        class Plugin:
            @hookimpl
            def lightkv_adapters(self, register):
                for each in found:
                    register(each)

        filled = Registry()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            filled.load_entry_points()
        filled.register(Plugin(), name="theirs", package="strange-package")
        monkeypatch.setattr(adapters, "registry", lambda: filled)

    return register


@pytest.mark.parametrize("model_type", sorted(REFUSED))
def test_each_has_a_reason_and_a_remedy(model_type):
    with pytest.raises(ModelError) as error:
        find_adapter(Stranger(model_type))
    assert error.value.field == "model"
    assert error.value.value == "Stranger"
    assert error.value.message == REFUSED[model_type].reason
    assert error.value.remedy == REFUSED[model_type].remedy
    name, standing = standing_of(model_type)
    assert (name, standing.how, standing.note) == ("refusals", "refused", error.value.message)


@pytest.mark.parametrize(
    ("model_type", "why"), [("mllama", "cross-attention"), ("idefics", "cross-attention")]
)
def test_a_real_class(model_type, why):
    model = empty_model(model_type)
    with pytest.raises(ModelError, match=why), lightkv.compress(model, "fastv"):
        pass


def test_a_wrapper_says_what_to_compress():
    with pytest.raises(ModelError, match="thinker") as error:
        find_adapter(Stranger("qwen2_5_omni"))
    assert "model.thinker" in error.value.remedy


def test_the_reasons_are_for_types_of_transformers():
    known = set(transformers.CONFIG_MAPPING)
    assert set(REFUSED) - known <= ({"nemo_speechlm"} if before("5.24") else set())


def test_asked_for_by_name_it_says_what_it_is():
    with pytest.raises(ModelError, match="only says which models"):
        lightkv.attach(Stranger("llava"), "fastv", adapter="refusals")


def test_a_plugin_refuses_in_the_same_way(with_plugin):
    reason = Refusal("its layers are private", "ask its authors")
    with_plugin(RefusingAdapter("theirs", {"private": reason, "llava": reason}))
    for model_type in ("private", "llava"):
        with pytest.raises(ModelError, match=r"its layers are private\. ask its authors"):
            find_adapter(Stranger(model_type))
        assert standing_of(model_type)[0] == "theirs"
    with pytest.raises(ModelError, match="cross-attention"):
        find_adapter(Stranger("mllama"))


def test_a_plugin_serves_what_is_refused_here(with_plugin):
    class Theirs(HFAdapter):
        name = "theirs"
        model_types = ("mllama",)
        geometry = "strip"

    with_plugin(Theirs())
    assert find_adapter(Stranger("mllama")).name == "theirs"
    assert standing_of("mllama")[1].how == "strip"


def test_a_family_refuses_some_of_its_models(with_plugin):
    """For instance those of a size that it was not written for."""

    class Picky(HFAdapter):
        name = "picky"
        model_types = ("llava",)

        def refusal(self, model):
            return Refusal("it is too large", "take a smaller one") if model.training else None

    with_plugin(Picky())
    assert find_adapter(Stranger("llava").eval()).name == "picky"
    with pytest.raises(ModelError, match="it is too large"):
        find_adapter(Stranger("llava"))


def test_an_adapter_that_says_nothing_refuses_nothing():
    assert Adapter.refusal(lightkv, Stranger("llava")) is None
