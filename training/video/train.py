"""Train the second bundled model: ``python -m training.video.train --out DIR [--resume] [--seed N]``.

Three steps, as for the first model (`training.train`): the tower alone learns what each token shows;
a decoder of 8 layers learns the task with the tower frozen, from two digits up to all; then it is grown
to 12 layers and goes on. Each update takes pictures, clips and pairs, each of one random size.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformers import Qwen2_5_VLForConditionalGeneration

from lightkv.demo import clips, native, scenes
from training.augment import augmented
from training.deepen import START_LAYERS, grow
from training.run import (
    Run,
    RunProgress,
    RunSettings,
    adamw,
    add_settings,
    begun,
    format_accuracy,
    muon,
    save_checkpoint,
)
from training.segments import NO_LABEL
from training.tower import cosine_with_warmup
from training.video import tower
from training.video.architecture import LAYERS, WIDTH, make_model, save_processor
from training.video.looking import (
    ASKED_WEIGHT,
    KNOWS_PAST,
    Knowing,
    asked_loss,
    looking_loss,
    observed,
)
from training.video.packing import (
    GROUPS,
    Batch,
    Frame,
    Group,
    Shape,
    frame_of,
    kind_of_word,
    make_batch,
    packed_forward,
    vision_features,
)

MASTERED = 0.85
AUGMENTED_COPIES = 100
MOST: dict[Group, int] = {
    "picture": scenes.MAX_DIGITS,
    "clip": clips.MAX_DIGITS,
    "pair": native.MAX_PAIR_DIGITS,
}
KEY_KINDS: dict[Group, tuple[str, ...]] = {
    "picture": ("color_to_digit", "digit_to_color"),
    "clip": ("color_to_digit", "digit_to_color"),
    "pair": ("second_color",),
}
"""Questions that must be mastered before more digits come."""
LIVELY_SHARE = 0.6
"""Of clips, those with more motion."""
WORDS: dict[Group, float] = {"picture": 1.0, "clip": 1.5, "pair": 0.6}
"""Positions of a group in an update, as a part of `Settings.words`."""
PATIENCE = 250
"""Updates after which one more digit comes anyway."""


@dataclass(frozen=True)
class Settings(RunSettings):
    """Everything that a run depends on."""

    tower_steps: int = 6000
    deepen_at: int = 2300
    steps: int = 3300
    words: int = 3000
    """Positions of a group in an update, vision tokens included; `WORDS` weighs the groups."""
    save_every: int = 50
    test_every: int = 200


@dataclass
class Progress(RunProgress):
    """Where a run stands; goes into the saved state."""

    most: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GROUPS, 2))
    mastery: dict[str, float] = field(default_factory=lambda: dict.fromkeys(GROUPS, 0.0))
    held_since: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GROUPS, 0))


class Trainer(Run):
    """One training run; `run` drives it from wherever it stands."""

    layers = LAYERS

    def __init__(self, settings: Settings, out: Path) -> None:
        """Set up a run from the start; its files go to the folder `out`."""
        super().__init__(settings, out)
        self.reading, self.knowing = tower.Reading(), Knowing(WIDTH)
        self.adopt(make_model(START_LAYERS))
        self.progress = Progress()
        self.bank = augmented(np.random.default_rng([settings.seed, 0]), AUGMENTED_COPIES)

    def make_model(self, layers: int) -> Qwen2_5_VLForConditionalGeneration:
        """The untrained model with a decoder of so many layers."""
        return make_model(layers)

    def adopt(self, model: Qwen2_5_VLForConditionalGeneration) -> None:  # type: ignore[override]
        """Train `model` from now on, with fresh moments: the matrices of its layers by Muon."""
        self.model = model
        self.modules = {"model": model, "knowing": self.knowing}
        decoder, decay = model.model.language_model, self.settings.weight_decay
        matrices = [x for x in decoder.layers.parameters() if x.ndim == 2]
        known = {id(matrix) for matrix in matrices}
        others = [*decoder.parameters(), *self.knowing.parameters()]
        others = [x for x in others if id(x) not in known]
        self.trained = [*matrices, *others]
        self.optimizers = [muon(matrices, decay), adamw(others, decay)]

    def deepen(self) -> None:
        """Go on with a deeper decoder that computes the same."""
        torch.manual_seed(self.settings.seed + 1)
        self.adopt(grow(self.model, make_model(LAYERS)))
        self.progress.layers = LAYERS
        self.log(f"decoder grown to {LAYERS} layers")

    def run(self, minutes: float | None = None) -> None:
        """Train to the end and export the checkpoint; or for `minutes`, and save."""
        settings, progress = self.settings, self.progress
        until = None if minutes is None else self.elapsed() + 60 * minutes
        if not progress.tower_done:
            tower.train_tower(
                self.model, self.reading, self.bank, settings.seed, settings.tower_steps, self.log
            )
            progress.tower_done = True
            self.save()
        self.model.model.visual.requires_grad_(False)
        rates = list(cosine_with_warmup(settings.steps, 150))
        while progress.updates < settings.steps:
            if progress.layers < LAYERS and progress.updates >= settings.deepen_at:
                self.deepen()
            self.update(settings.learning_rate * rates[progress.updates] * self.warm())
            progress.updates += 1
            if progress.updates % settings.test_every == 0:
                self.log(f"test {format_accuracy(self.test_accuracy())}")
            stop = until is not None and self.elapsed() > until
            if progress.updates % settings.save_every == 0 or stop:
                self.save()
            if stop:
                self.log(f"stopped at update {progress.updates}; go on with --resume")
                return
        self.export(self.out / "checkpoint")

    def shape(self, group: Group, rng: np.random.Generator) -> Shape:
        """A random size of a group; small ones first, and more often throughout. Never one size
        alone: a model that knows one answers with nothing at others."""
        wide = min(1.0, 0.25 + 1.5 * self.progress.updates / self.settings.steps)

        def side(low: int, high: int) -> int:
            return low + int((high - low) * wide * rng.random() ** 1.5 + 0.5)

        if group == "clip":
            steps, least, most = (clips.MIN_STEPS, clips.MAX_STEPS), clips.MIN_SIDE, clips.MAX_SIDE
            return Shape(group, ((side(*steps), side(least, most), side(least, most)),))
        if group == "pair":
            both = [side(native.MIN_SIDE, native.MAX_PAIR_SIDE) for _ in range(4)]
            return Shape(group, ((1, both[0], both[1]), (1, both[2], both[3])))
        rows, cols = (side(native.MIN_SIDE, native.MAX_SIDE) for _ in range(2))
        return Shape(group, ((1, rows, min(cols, native.MAX_PATCHES // rows)),))

    def update(self, learning_rate: float) -> None:
        """One optimizer step, a function of seed and step number."""
        settings, progress = self.settings, self.progress
        rng = np.random.default_rng([settings.seed, 2, progress.updates])
        lines = []
        for group in GROUPS:
            shape = self.shape(group, rng)
            frame = frame_of(shape, self.model)
            size = max(2, int(settings.words * WORDS[group]) // frame.mask.shape[-1])
            most = progress.most[group]
            batch = make_batch(rng, shape, size, most, "train", frame, self.bank, LIVELY_SHARE)
            losses, accuracy = self.losses(batch, frame)
            help_share = 1 - 0.8 * progress.updates / settings.steps
            answer, look, know, read = losses
            (answer + help_share * (0.5 * look + 0.3 * know + 0.3 * read)).backward()
            self.grow(group, accuracy)
            parts = " ".join(f"{x.item():.2f}" for x in losses)
            lines.append(f"{group} {most} [{parts}] {format_accuracy(accuracy)}")
        self.step(learning_rate)
        if (progress.updates + 1) % 25 == 0:
            self.log(f"{progress.updates + 1} " + " | ".join(lines))

    def losses(self, batch: Batch, frame: Frame) -> tuple[list[torch.Tensor], dict[str, float]]:
        """Losses of answers, of looking, knowing and reading; accuracy by kind."""
        with torch.no_grad():
            image = vision_features(self.model, batch)
        with observed(self.model.model.language_model) as (captured, states):
            with torch.autocast("cpu", torch.bfloat16):
                hidden = packed_forward(self.model, batch, frame, image)
            look = looking_loss(captured, batch.looks, frame)
            know = self.knowing(states, batch, frame)
        words = self.model.get_input_embeddings().weight
        know = know + ASKED_WEIGHT * asked_loss(states[KNOWS_PAST], words, batch, frame)
        answer, accuracy = self.answer_loss(hidden, batch)
        read = self.reading(image, words, batch.labels)
        return [answer, look, know, read], accuracy

    def answer_loss(
        self, hidden: torch.Tensor, batch: Batch
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss on answers and accuracy by kind; the head runs on labelled positions only."""
        sample, word = (batch.targets != NO_LABEL).nonzero(as_tuple=True)
        logits = self.model.lm_head(hidden[sample, word].float())
        targets, weights = batch.targets[sample, word], batch.weights[sample, word]
        loss = functional.cross_entropy(logits, targets, reduction="none")
        right = (logits.argmax(-1) == targets).float()
        real = weights > 0.2  # leave <eos> out, it is easy
        kinds = kind_of_word(batch.shape)
        accuracy = {}
        for kind in dict.fromkeys(kinds):
            mine = real & torch.tensor([kinds[i] == kind for i in word.tolist()])
            if bool(mine.any()):
                accuracy[kind] = right[mine].mean().item()
        return (loss * weights).sum() / weights.sum(), accuracy

    def grow(self, group: Group, accuracy: dict[str, float]) -> None:
        """Allow one more digit once the running accuracy says that the present ones are known."""
        progress = self.progress
        now = min(accuracy.get(kind, 0.0) for kind in KEY_KINDS[group])
        progress.mastery[group] = 0.9 * progress.mastery[group] + 0.1 * now
        held = progress.updates - progress.held_since[group]
        enough = held >= 30 and progress.mastery[group] > MASTERED
        if progress.most[group] < MOST[group] and (enough or held >= PATIENCE):
            progress.most[group] += 1
            progress.held_since[group] = progress.updates
            self.log(f"{progress.updates} up to {progress.most[group]} digits: {group}")

    @torch.no_grad()
    def test_accuracy(self, batches: int = 8) -> dict[str, float]:
        """Accuracy on scenes of test scans of the present sizes and all numbers of digits; lists word
        by word, given the right words before."""
        rng, sums = np.random.default_rng(3), {}
        for group in GROUPS:
            for _ in range(batches):
                shape = self.shape(group, rng)
                frame = frame_of(shape, self.model)
                size = max(2, 4000 // frame.mask.shape[-1])
                batch = make_batch(rng, shape, size, MOST[group], "test", frame)
                hidden = packed_forward(
                    self.model, batch, frame, vision_features(self.model, batch)
                )
                for kind, value in self.answer_loss(hidden, batch)[1].items():
                    sums.setdefault(f"{group}/{kind}", []).append(value)
        return {kind: float(np.mean(values)) for kind, values in sums.items()}

    def export(self, folder: Path) -> None:
        """Write the checkpoint: a fresh model of the same config, nothing of the training."""
        clean = make_model(self.progress.layers)
        clean.load_state_dict(self.model.state_dict())
        clean.generation_config.do_sample = False
        clean.generation_config.max_new_tokens = 2 * scenes.MAX_DIGITS + 2
        save_checkpoint(clean, folder)
        save_processor(folder)
        self.log(f"checkpoint written to {folder}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_settings(parser, Settings)
    parser.add_argument("--minutes", type=float, help="stop and save after so many")
    given = vars(parser.parse_args())
    out, resume, minutes = (given.pop(name) for name in ("out", "resume", "minutes"))
    begun(Trainer, Settings(**given), out, resume).run(minutes)


if __name__ == "__main__":
    main()
