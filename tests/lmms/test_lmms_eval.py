"""lightkv inside lmms-eval itself: `make lmms-eval` runs this in an environment of its own."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("lmms_eval", reason="needs lightkv[lmms-eval]: `make lmms-eval` runs it")

from lmms_eval.api.instance import Instance, unwrap_generation_output
from lmms_eval.models import get_model, get_model_manifest

from lightkv.core.errors import LightKVError, ModelError, UnknownNameError
from lightkv.demo.scenes import held_out_scenes
from lightkv.integrations.lmms_eval import LightKVChat, LightKVModel

HOME = Path(__file__).parents[2] / "benchmarks" / "lmms_scenes"
SCENES = 12
BASE = "pretrained=demo,dtype=float32,device=cpu"
COMPRESSED = f"{BASE},strategy=lightkv,retention=0.55"
OPTIONS = {"max_new_tokens": 2, "until": ["\n\n"], "do_sample": False}


def load_script():
    spec = importlib.util.spec_from_file_location("lmms_scenes_run", HOME / "run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


scripts = load_script()


@pytest.fixture(scope="module")
def samples():
    return held_out_scenes(SCENES, 2026)


@pytest.fixture(scope="module")
def task(tmp_path_factory, samples):
    folder = tmp_path_factory.mktemp("scenes") / "task"
    return folder, scripts.write_task(folder, samples)


# -- through the command line ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "model"),
    [("none", "lightkv"), ("lightkv", "lightkv"), ("lightkv@demo", "lightkv_chat")],
)
def test_every_answer_is_the_demos(task, samples, tmp_path, strategy, model):
    folder, ids = task
    source, retention = scripts.source_of(strategy, 0.55, tmp_path)
    args = scripts.model_args(source, retention)
    logged, achieved = scripts.run_harness(
        folder, tmp_path / "out", args, batch_size=7, model=model
    )
    found = scripts.compare(logged, ids, scripts.run_demo(samples, source, retention))
    assert found["questions"] == sum(len(questions) for _, questions in samples)
    assert found["lmms_eval"] == found["demo"] > 0.9
    assert found["other_answers"] == found["other_scores"] == 0
    assert achieved == (1.0 if strategy == "none" else pytest.approx(0.55, abs=0.03))


def test_choices_are_scored_on_the_compressed_cache(samples, tmp_path):
    folder = tmp_path / "task"
    scripts.write_task(folder, samples[:5])
    args = scripts.model_args("lightkv", 0.55)
    logged, achieved = scripts.run_harness(
        folder, tmp_path / "out", args, ("scenes_choice",), batch_size=20
    )
    right = [sample["acc"] for sample in logged["scenes_choice"].values()]
    assert sum(right) / len(right) > 0.9  # chance is between 0.1 and 0.5
    assert achieved < 0.6


# -- in this process ------------------------------------------------------------------------------


@pytest.fixture
def model(request):
    made = get_model("lightkv").create_from_arg_string(request.param, {"batch_size": 3})
    yield made
    made.clean()


def serve(model, docs):
    """Requests of a task `t` for docs of pictures, question and (for scores) answer."""
    model.task_dict = {"t": {"test": docs}}
    return [
        Instance(
            request_type="generate_until",
            arguments=(doc["question"], doc.get("answer", OPTIONS), visuals, i, "t", "test"),
            idx=0,
            metadata={"task": "t", "doc_id": i, "repeats": 1},
        )
        for i, doc in enumerate(docs)
    ]


def visuals(doc):
    return doc["images"]


def test_the_entry_point_registers_both_classes():
    assert get_model("lightkv") is LightKVModel
    assert get_model("lightkv_chat") is LightKVChat
    assert get_model_manifest("lightkv").chat_class_path is None


@pytest.mark.parametrize("model", [BASE, COMPRESSED], indirect=True)
def test_text_one_picture_and_several_share_a_batch(model, samples):
    images = [scene.image for scene, _ in samples[:2]]
    docs = [
        {"images": images[:1], "question": "how many digits there ?"},
        {"images": [], "question": "is digit 4 there ?"},
        {"images": images, "question": "how many digits there ?"},
        {"images": None, "question": "how many digits there ?"},
        {"images": images[1:], "question": "how many digits there ?"},
    ]
    together = model.generate_until(serve(model, docs))
    alone = [model.generate_until(serve(model, [doc]))[0] for doc in docs]
    assert [result.text for result in together] == [result.text for result in alone]
    assert together[0].text.strip() == str(len(samples[0][0].digits))
    assert together[4].text.strip() == str(len(samples[1][0].digits))
    counts = [result.token_counts.input_tokens for result in together]
    assert counts[2] - counts[0] == counts[0] - counts[3] > 100  # vision tokens of one picture
    assert model.totals.rows == (0 if model.session is None else 6)


@pytest.mark.parametrize("model", [BASE, COMPRESSED], indirect=True)
def test_losses_do_not_depend_on_the_batch(model, samples):
    scene, questions = samples[0]
    short = [q for q in questions if q.kind != "list"]
    docs = [{"images": [scene.image], "question": q.text, "answer": q.answer} for q in short]
    docs.append({"images": [], "question": short[0].text, "answer": "7 red"})

    def scored(docs):
        return [unwrap_generation_output(x)[0] for x in model.loglikelihood(serve(model, docs))]

    together = scored(docs)
    alone = [scored([doc])[0] for doc in docs]
    assert [greedy for _, greedy in together] == [greedy for _, greedy in alone]
    assert [loss for loss, _ in together] == pytest.approx([loss for loss, _ in alone], abs=1e-4)
    assert all(greedy for _, greedy in together[:-1])


@pytest.mark.parametrize("model", [COMPRESSED], indirect=True)
def test_what_cannot_be_served_is_said(model, samples):
    with pytest.raises(ModelError, match="several rounds"):
        model.generate_until_multi_round([])
    pair = Instance("loglikelihood", ("", "red"), 0, {"task": "t", "doc_id": 0, "repeats": 1})
    with pytest.raises(ModelError, match="acc_mutual_info"):
        model.loglikelihood([pair])
    with pytest.raises(ModelError, match=r"film\.mp4"):
        model.generate_until(serve(model, [{"images": ["film.mp4"], "question": "what ?"}]))


def test_the_session_ends_with_the_run():
    made = get_model("lightkv").create_from_arg_string(COMPRESSED)
    session = made.session
    assert session.active
    made.clean()
    assert not session.active


def test_table_1_names_tasks_and_metrics_that_exist():
    import yaml
    from lmms_eval import tasks
    from lmms_eval.utils import load_yaml_config

    grid = yaml.safe_load((HOME.parent / "table1" / "grid.yaml").read_text())
    index = tasks.TaskManager()._task_index
    for task, columns in grid["tasks"].items():
        config = load_yaml_config(index[task]["yaml_path"], mode="simple")
        assert config["output_type" if "output_type" in config else "include"]
        known = {entry["metric"] for entry in config["metric_list"]}
        assert {column["metric"] for column in columns} <= known, task


def test_mistakes_are_typed_errors():
    create = get_model("lightkv").create_from_arg_string
    with pytest.raises(UnknownNameError, match="Did you mean 'lightkv'"):
        create(f"{BASE},strategy=lihgtkv")
    with pytest.raises(LightKVError, match="retention"):
        create(f"{BASE},strategy=lightkv,retention=1.5")
    with pytest.raises(LightKVError, match="no model to evaluate"):
        create("strategy=lightkv")
