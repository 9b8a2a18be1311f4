"""Keys are names: they survive as strings, sort, and are never held in numbers."""

import itertools
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astrid_dist.engine.keys import KeyBlock, KeyGrid, ShardKey
from astrid_dist.errors import ConfigError

segments = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,8}", fullmatch=True)
groups = st.lists(segments, min_size=1, max_size=3).map("/".join)


@given(groups, st.integers(-1, 10**8), st.integers(0, 200), st.integers(0, 200))
def test_a_key_comes_back_from_its_string(group: str, epoch: int, row: int, column: int) -> None:
    try:
        key = ShardKey(group, epoch, row, column)
    except ConfigError:
        assert group.split("/")[-1].startswith("e")
        return
    assert ShardKey.parse(str(key)) == key


@given(st.text(max_size=30))
def test_any_other_string_is_refused_or_is_that_key(text: str) -> None:
    try:
        key = ShardKey.parse(text)
    except ConfigError:
        return
    assert str(key) == text


@pytest.mark.parametrize(
    "group", ["", "/g", "f/", "a//b", "..", "a b", "f/é", "f0001/e000017", "a%2f", "../g", "a\\b", "f#1"]
)
def test_a_group_that_a_store_would_change_or_that_looks_like_an_epoch_is_refused(group: str) -> None:
    with pytest.raises(ConfigError, match="group"):
        ShardKey(group, 0)


def test_a_key_without_epoch_has_none_in_its_name() -> None:
    assert str(ShardKey("f0423/g", -1, 0, 1)) == "f0423/g/y00x01"
    assert str(ShardKey("f0423/g", 17, 0, 1)) == "f0423/g/e000017/y00x01"
    assert ShardKey("a/g", 2) < ShardKey("a/g", 10) < ShardKey("b/g", 0)


@given(
    st.lists(
        st.builds(
            KeyBlock,
            groups.filter(lambda group: not group.split("/")[-1].startswith("e")),
            st.lists(st.integers(0, 99), max_size=4, unique=True),
            st.integers(1, 3),
            st.integers(1, 3),
        ),
        max_size=4,
    )
)
def test_a_grid_of_keys_is_the_list_it_stands_for(blocks: list[KeyBlock]) -> None:
    listed = [
        ShardKey(block.group, *place)
        for block in blocks
        for place in itertools.product(block.epochs, range(block.rows), range(block.columns))
    ]
    grid = KeyGrid(blocks)
    assert list(grid) == listed
    assert [grid[i] for i in range(len(grid))] == listed
    assert grid[1:-1] == listed[1:-1]
    assert [grid[-1 - i] for i in range(len(grid))] == listed[::-1]


def test_a_billion_keys_cost_nothing() -> None:
    grid = KeyGrid([KeyBlock("f0001/g", range(10**9), 4, 4)])
    assert len(grid) == 16 * 10**9
    assert str(grid[-1]) == "f0001/g/e999999999/y03x03"
    assert sum(sys.getsizeof(value) for value in vars(grid).values()) < 1000
    with pytest.raises(IndexError):
        grid[len(grid)]
