"""What is kept of what was made lately."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkv.core.recent import Recent


@given(most=st.integers(1, 5), asked=st.lists(st.integers(0, 7), max_size=40))
def test_it_makes_what_was_not_among_the_last_that_were_asked_for(most, asked):
    recent, made, order = Recent(most), [], []
    for key in asked:
        known = key in order[-most:]
        assert (key in recent) == known
        assert recent.get(key, lambda key=key: made.append(key) or -key) == -key
        assert bool(made and made.pop() == key) != known
        order = [each for each in order if each != key] + [key]


def test_what_cannot_be_made_is_not_kept():
    recent = Recent(2)

    def failing():
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            recent.get("a", failing)
    assert "a" not in recent
