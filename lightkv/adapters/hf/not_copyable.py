"""What a session hangs into a model belongs to that model and is not copied with it."""

from __future__ import annotations

from typing import Any, NoReturn, SupportsIndex

from lightkv.core.errors import SessionError


class NotCopyable:
    """Base of everything that hooks hold: `copy.deepcopy` and pickling of the model are refused.

    A copy would be half in the session: its hooks and wrapped methods would run the other model's.
    """

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        _refuse()

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        _refuse()


def _refuse() -> NoReturn:
    raise SessionError(
        "a model that is in a session cannot be copied or pickled: the hooks of the copy would be those "
        "of the session",
        field="model",
        remedy="copy or save it before the session or after it (lightkv.detach(model)); "
        "model.state_dict() and model.save_pretrained(…) work at any time",
    )
