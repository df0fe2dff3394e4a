"""What the page asks for, checked before a model sees any of it."""

from __future__ import annotations

from lightkv.core.errors import ConfigError, check_least
from lightkv.core.strict import Strict

LONGEST_QUESTION = 4000
"""Characters."""
MOST_NEW_TOKENS = 512


class Asked(Strict):
    """One comparison.

    Attributes:
        model: one of those that the playground offers, by name.
        picture: a PNG, JPEG or WebP file in base64.
        question: about it.
        strategies: one or two of those that are offered, by name.
        retention: mean share of vision KV over all layers, of each strategy.
        uncompressed: run the model without compression, too.
        max_new_tokens: of each answer.
    """

    model: str
    picture: str = ""
    question: str = ""
    strategies: tuple[str, ...]
    retention: float
    uncompressed: bool = True
    max_new_tokens: int = 64

    def check(self) -> None:
        """Refuse what is wrong without a model and without the picture's pixels.

        Raises:
            ConfigError: no picture, no question or one that is too long, no strategy or more than two,
                a retention out of (0, 1], no tokens or too many of them.
        """
        if not self.picture:
            raise ConfigError(
                "there is no picture",
                field="picture",
                remedy="choose a file, or take a digit scene",
            )
        if not self.question.strip():
            raise ConfigError("there is no question", field="question", remedy="ask something")
        if len(self.question) > LONGEST_QUESTION:
            raise ConfigError(
                f"the question is longer than {LONGEST_QUESTION:,} characters",
                field="question",
                value=len(self.question),
            )
        if not 1 <= len(self.strategies) <= 2:
            raise ConfigError(
                "one or two strategies are compared",
                field="strategies",
                value=len(self.strategies),
            )
        if not 0 < self.retention <= 1:
            raise ConfigError(
                "must be above 0 and at most 1",
                field="retention",
                value=self.retention,
                remedy="1 keeps all vision tokens; 0.55 keeps 55 % of them on average over the layers",
            )
        check_least("max_new_tokens", self.max_new_tokens)
        if self.max_new_tokens > MOST_NEW_TOKENS:
            raise ConfigError(
                f"must be at most {MOST_NEW_TOKENS}",
                field="max_new_tokens",
                value=self.max_new_tokens,
            )
