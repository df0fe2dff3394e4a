"""Train the demo model: ``python -m training.train --out DIR [--resume] [--seed N]``.

Two steps: the vision tower alone learns what each patch shows (`tower`), then projector and decoder
learn the task with the tower frozen (trained along at the decoder's rate it forgets). The number of
digits in a scene grows as the model masters fewer.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

from lightkv.demo.scenes import KINDS, MAX_DIGITS
from training import pointer, tower
from training.architecture import LAYERS, WIDTH, make_model, make_processor
from training.augment import augmented
from training.deepen import START_LAYERS, deepened
from training.packing import (
    Batch,
    kind_of_position,
    make_batch,
    packed_forward,
    packed_mask,
    packed_positions,
)
from training.run import (
    Run,
    RunProgress,
    RunSettings,
    adamw,
    add_settings,
    begun,
    format_accuracy,
    save_checkpoint,
)
from training.segments import NO_LABEL

CURRICULUM_KINDS = ("color_to_digit", "digit_to_color")
START_DIGITS = 2
MASTERED = 0.85
AUGMENTED_COPIES = 100


@dataclass(frozen=True)
class Settings(RunSettings):
    """Everything that a run depends on."""

    batch_size: int = 32


@dataclass
class Progress(RunProgress):
    """Where a run stands; goes into the saved state."""

    max_digits: int = START_DIGITS
    mastery: float = 0.0
    held_since: int = 0


class Trainer(Run):
    """One training run; `run` drives it from wherever it stands."""

    layers = LAYERS

    def __init__(self, settings: Settings, out: Path) -> None:
        """Set up a run from the start; its files go to the folder `out`."""
        super().__init__(settings, out)
        self.heads = tower.PatchHeads(WIDTH)
        self.grounding = pointer.Grounding(WIDTH)
        self.adopt(make_model(START_LAYERS))
        self.progress = Progress()
        self.mask, self.positions = packed_mask(), packed_positions()
        self.kinds = kind_of_position()
        self.bank = augmented(np.random.default_rng([settings.seed, 0]), AUGMENTED_COPIES)

    def make_model(self, layers: int) -> LlavaForConditionalGeneration:
        """The untrained model with a decoder of so many layers."""
        return make_model(layers)

    def adopt(self, model: LlavaForConditionalGeneration) -> None:  # type: ignore[override]
        """Train `model` from now on, with fresh moments."""
        self.model = model
        self.modules = {"model": model, "heads": self.heads, "grounding": self.grounding}
        self.vision = model.model.vision_tower
        frozen = {id(parameter) for parameter in self.vision.parameters()}
        decoder = [x for x in model.parameters() if id(x) not in frozen]
        self.trained = [*decoder, *self.grounding.parameters()]
        self.optimizers = [adamw(self.trained, self.settings.weight_decay)]

    def deepen(self) -> None:
        """Go on with a deeper decoder that computes the same."""
        torch.manual_seed(self.settings.seed + 1)
        self.adopt(deepened(self.model))
        self.vision.requires_grad_(False)
        self.progress.layers = LAYERS
        self.log(f"decoder grown to {LAYERS} layers; test {format_accuracy(self.test_accuracy())}")

    def run(self) -> None:
        """Train to the end and export the checkpoint."""
        settings = self.settings
        if not self.progress.tower_done:
            tower.train_tower(
                self.vision, self.heads, self.bank, settings.seed, settings.tower_steps, self.log
            )
            self.progress.tower_done = True
            self.save()
        self.vision.requires_grad_(False)
        rates = list(tower.cosine_with_warmup(settings.steps, 150))
        while self.progress.updates < settings.steps:
            if self.progress.layers < LAYERS and self.progress.updates >= settings.deepen_at:
                self.deepen()
                self.save()
            done = self.progress.updates / settings.steps
            rate = settings.learning_rate * rates[self.progress.updates] * self.warm()
            accuracy = self.update(rate, done)
            self.progress.updates += 1
            self.grow(accuracy)
            step = self.progress.updates
            if step % settings.save_every == 0 or step == settings.steps:
                self.log(f"test {format_accuracy(self.test_accuracy())}")
                self.save()
        self.export(self.out / "checkpoint")

    def digit_counts(self, rng: np.random.Generator) -> list[int]:
        """Numbers of digits of a batch's scenes, the largest allowed most often."""
        largest = self.progress.max_digits
        counts = rng.integers(1, largest + 1, self.settings.batch_size)
        crowded = rng.random(len(counts)) < 0.35
        return [largest if full else int(n) for full, n in zip(crowded, counts, strict=True)]

    def update(self, learning_rate: float, done: float) -> dict[str, float]:
        """One optimizer step, a function of seed and step number; the batch's accuracy."""
        rng = np.random.default_rng([self.settings.seed, 2, self.progress.updates])
        batch = make_batch(rng, self.digit_counts(rng), "train", self.bank)
        with pointer.pointing(self.model.model.language_model) as captured:
            with torch.autocast("cpu", torch.bfloat16):
                hidden, image = packed_forward(self.model, batch, self.mask, self.positions)
            look = pointer.pointer_loss(captured, batch, self.mask)
        answer, accuracy = self.answer_loss(hidden, batch)
        words = self.model.get_input_embeddings().weight
        ground = self.grounding(image, words, batch.patches)
        loss = answer + (1 - 0.8 * done) * (0.5 * look + 0.3 * ground)
        loss.backward()
        self.step(learning_rate)
        if (self.progress.updates + 1) % 25 == 0:
            parts = f"answer {answer:.3f} look {look:.3f} ground {ground:.3f}"
            digits = f"digits {self.progress.max_digits}"
            text = f"{self.progress.updates + 1} {parts} {digits} {format_accuracy(accuracy)}"
            self.log(text)
        return accuracy

    def answer_loss(
        self, hidden: torch.Tensor, batch: Batch
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss on answers and accuracy by kind; the head runs on labelled positions only."""
        sample, word = (batch.labels != NO_LABEL).nonzero(as_tuple=True)
        logits = self.model.lm_head(hidden[sample, word].float())
        labels, weights = batch.labels[sample, word], batch.weights[sample, word]
        loss = functional.cross_entropy(logits, labels, reduction="none")
        with torch.no_grad():
            real = weights > 0.2  # leave <eos> out, it is easy
            right, kinds = (logits.argmax(-1) == labels)[real].float(), self.kinds[word][real]
            accuracy: dict[str, float] = {
                kind: right[kinds == index].mean().item()
                for index, kind in enumerate(KINDS)
                if bool((kinds == index).any())
            }
        return (loss * weights).sum() / weights.sum(), accuracy

    def grow(self, accuracy: dict[str, float]) -> None:
        """Allow one more digit once the running accuracy says that the present ones are known."""
        progress = self.progress
        now = min(accuracy[kind] for kind in CURRICULUM_KINDS)
        progress.mastery = 0.9 * progress.mastery + 0.1 * now
        enough = progress.updates - progress.held_since >= 30 and progress.mastery > MASTERED
        if enough and progress.max_digits < MAX_DIGITS:
            progress.max_digits += 1
            progress.held_since = progress.updates
            self.log(f"{progress.updates} up to {progress.max_digits} digits")

    @torch.no_grad()
    def test_accuracy(self, batches: int = 6) -> dict[str, float]:
        """Accuracy on scenes of test scans with 1 to 7 digits; lists word by word, given the
        right words before."""
        rng, sums = np.random.default_rng(3), []
        for _ in range(batches):
            counts: NDArray[np.int64] = rng.integers(1, MAX_DIGITS + 1, 32)
            batch = make_batch(rng, counts.tolist(), "test")
            hidden, _ = packed_forward(self.model, batch, self.mask, self.positions)
            sums.append(self.answer_loss(hidden, batch)[1])
        return {kind: float(np.mean([x[kind] for x in sums])) for kind in KINDS}

    def export(self, folder: Path) -> None:
        """Write the checkpoint: a fresh model of the same config, nothing of the training."""
        clean = make_model(self.progress.layers)
        clean.load_state_dict(self.model.state_dict())
        clean.generation_config.do_sample = False
        clean.generation_config.max_new_tokens = 2 * MAX_DIGITS + 2
        save_checkpoint(clean, folder)
        make_processor().save_pretrained(folder)
        self.log(f"checkpoint written to {folder}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_settings(parser, Settings)
    given = vars(parser.parse_args())
    out, resume = given.pop("out"), given.pop("resume")
    begun(Trainer, Settings(**given), out, resume).run()


if __name__ == "__main__":
    main()
