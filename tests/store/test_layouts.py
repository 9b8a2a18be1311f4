import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astrid_dist.errors import ConfigError
from astrid_dist.flags import Flag
from astrid_dist.store.layouts import (
    CHUNK,
    MESH_BOX,
    PRODUCTS,
    SHARD,
    TILE,
    Variable,
    complete_sizes,
    variable,
    variables,
)

EVERY = [(product, one) for product, there in PRODUCTS.items() for one in there.values()]
SIDES = st.integers(1, 10_000)


def _sizes(y: int, x: int) -> dict[str, int]:
    given_sizes = {"y": y, "x": x, "epoch": 3, "v": 31, "u": 31, "psf_term": 6, "candidate": 5, "object": 5}
    return complete_sizes(given_sizes | {"sample": 700, "visit": 2, "plane": 4, "host": 3})


@pytest.mark.parametrize(("product", "one"), EVERY, ids=[f"{product}-{one.name}" for product, one in EVERY])
def test_what_was_never_written_cannot_be_taken_for_data(product: str, one: Variable) -> None:
    if one.dtype[0] == "f":
        assert math.isnan(one.fill_value)
    elif one.dtype[0] == "i":
        assert one.fill_value == -1
    elif one.dtype == "string":
        assert one.fill_value == ""
    elif one.dtype == "bool":
        assert one.fill_value is False
    elif one.name == "mask":
        assert one.fill_value == Flag.NO_DATA
    else:  # beside coordinates that are NaN there, and a mask that says NO_DATA
        assert one.name in ("n_epochs", "star_flags", "target")
        assert one.fill_value == 0


@given(SIDES, SIDES)
def test_shards_are_whole_chunks_and_no_larger_than_the_image_needs(y: int, x: int) -> None:
    sizes = _sizes(y, x)
    for product, one in EVERY:
        units, chunks = one.units(sizes), one.chunks(sizes)
        assert all(unit % chunk == 0 for unit, chunk in zip(units, chunks, strict=True)), (product, one)
        if "y" in one.dims:
            assert max(units) <= SHARD
            assert all(unit < size + CHUNK for unit, size in zip(units[-2:], (y, x), strict=True))


@given(SIDES, SIDES)
def test_tiles_and_mesh_cells_are_cut_where_the_images_are(y: int, x: int) -> None:
    sizes = _sizes(y, x)
    image = variable("difference", "difference")
    for name, side, product in (("sigma_n", TILE, "difference"), ("background", MESH_BOX, "survey")):
        small = variable(product, name)
        for axis, pixels in (("y", y), ("x", x)):
            dim = f"{'tile' if side == TILE else 'mesh'}_{axis}"
            unit = small.units(sizes)[small.dims.index(dim)]
            image_unit = image.units(sizes)[image.dims.index(axis)]
            assert -(-pixels // image_unit) == -(-sizes[dim] // unit), "as many shards along both"
            assert unit * side >= min(image_unit, pixels)
            if image_unit < pixels:
                assert unit * side == image_unit, "a cell lies in one shard"


def test_every_variable_says_what_it_is() -> None:
    for _, one in EVERY:
        assert one.attributes["long_name"]
        assert one.dtype in ("string", "bool") or np.dtype(one.dtype)
    mask = variable("survey", "mask").attributes
    assert len(mask["flag_masks"]) == len(mask["flag_meanings"].split()) == len(Flag)


def test_an_unknown_name_is_answered_with_close_ones() -> None:
    with pytest.raises(ConfigError, match="'zeropoint'"):
        variable("survey", "zeropiont")
    with pytest.raises(ConfigError, match="'survey'"):
        variables("survy")
    with pytest.raises(ConfigError, match="no variable 'p_moving'"):
        variable("survey", "p_moving")
    assert variable("candidates", "p_moving").dtype == "f4"
