"""Train the demo model: ``python -m training.train --out DIR [--resume] [--seed N]``.

Two steps: the vision tower alone learns what each patch shows (`tower`), then projector and decoder
learn the task with the tower frozen (trained along at the decoder's rate it forgets). The number of
digits in a scene grows as the model masters fewer.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

from lightkv.demo.scenes import KINDS, MAX_DIGITS
from training import pointer, state, tower
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
from training.run import Run, format_accuracy, save_checkpoint
from training.segments import NO_LABEL

CURRICULUM_KINDS = ("color_to_digit", "digit_to_color")
START_DIGITS = 2
MASTERED = 0.85
AUGMENTED_COPIES = 100


@dataclass(frozen=True)
class Settings:
    """Everything that a run depends on."""

    seed: int = 0
    tower_steps: int = 1800
    deepen_at: int = 1200
    steps: int = 1600
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    threads: int = 2
    save_every: int = 200


@dataclass
class Progress:
    """Where a run stands; goes into the saved state."""

    updates: int = 0
    max_digits: int = START_DIGITS
    mastery: float = 0.0
    held_since: int = 0
    seconds: float = 0.0
    tower_done: bool = False
    layers: int = START_LAYERS


class Trainer(Run):
    """One training run; `run` drives it from wherever it stands."""

    def __init__(self, settings: Settings, out: Path) -> None:
        """Set up a run from the start; its files go to the folder `out`."""
        super().__init__(out)
        self.settings = settings
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.threads)
        self.heads = tower.PatchHeads(WIDTH)
        self.grounding = pointer.Grounding(WIDTH)
        self.adopt(make_model(START_LAYERS))
        self.progress = Progress()
        self.mask, self.positions = packed_mask(), packed_positions()
        self.kinds = kind_of_position()
        self.bank = augmented(np.random.default_rng([settings.seed, 0]), AUGMENTED_COPIES)

    def adopt(self, model: LlavaForConditionalGeneration) -> None:
        """Train `model` from now on, with fresh moments."""
        self.model = model
        self.modules = {"model": model, "heads": self.heads, "grounding": self.grounding}
        self.vision = model.model.vision_tower
        frozen = {id(parameter) for parameter in self.vision.parameters()}
        decoder = [x for x in model.parameters() if id(x) not in frozen]
        self.trained = [*decoder, *self.grounding.parameters()]
        groups: list[dict[str, Any]] = [
            {"params": [x for x in self.trained if x.ndim > 1]},
            {"params": [x for x in self.trained if x.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=0.0, betas=(0.9, 0.98), weight_decay=self.settings.weight_decay
        )

    def deepen(self) -> None:
        """Go on with a deeper decoder that computes the same."""
        torch.manual_seed(self.settings.seed + 1)
        self.adopt(deepened(self.model))
        self.vision.requires_grad_(False)
        self.progress.layers = LAYERS
        self.log(f"decoder grown to {LAYERS} layers; test {format_accuracy(self.test_accuracy())}")

    def save(self) -> None:
        """Write the resumable state."""
        self.progress.seconds = self.elapsed()
        state.save_state(
            self.out / "state", self.modules, self.optimizer, dataclasses.asdict(self.progress)
        )

    def resume(self) -> None:
        """Go on from the saved state."""
        if state.read_progress(self.out / "state").get("layers", START_LAYERS) == LAYERS:
            self.adopt(make_model(LAYERS))
        progress = state.load_state(self.out / "state", self.modules, self.optimizer)
        self.progress = Progress(**progress)
        self.seconds = self.progress.seconds
        self.log(f"resumed at update {self.progress.updates}")

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
            # Fresh moments after growing: no full-size steps before they mean something.
            warm = min(1.0, max(0, self.progress.updates - settings.deepen_at) / 40)
            warm = warm if self.progress.layers == LAYERS else 1.0
            rate = settings.learning_rate * rates[self.progress.updates] * warm
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
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
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
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's state")
    for field in dataclasses.fields(Settings):
        kind = float if isinstance(field.default, float) else int
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(name, type=kind, default=field.default)
    arguments = vars(parser.parse_args())
    out, resume = arguments.pop("out"), arguments.pop("resume")
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(Settings(**arguments), out)
    (out / "settings.json").write_text(json.dumps(arguments, indent=1) + "\n")
    if resume:
        trainer.resume()
    trainer.run()


if __name__ == "__main__":
    main()
