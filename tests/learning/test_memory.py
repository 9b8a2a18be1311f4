"""Memory is used again, but never while anybody can see it."""

import gc

import numpy as np
import torch

from astrid_dist.learning.memory import Memory


def address(array: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]") -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_of_an_array_that_is_gone_is_used_again() -> None:
    memory = Memory()
    first = memory.array((10, 20), "f4")
    at = address(first)
    del first
    assert address(memory.array((200,), "f4")) == at


def test_memory_that_is_held_is_not() -> None:
    memory = Memory()
    held: list[object] = []
    for hold in (
        lambda array: array,
        lambda array: array[3:, ::2].T,
        lambda array: torch.from_numpy(array.reshape(5, 40))[1:].view(-1),
        lambda array: array.view("u4")[None],
        lambda array: memoryview(array),
    ):
        array = memory.array((10, 20), "f4")
        array[:] = len(held)
        held.append(hold(array))
        del array
    gc.collect()
    assert [np.unique(np.asarray(one).view("f4")).tolist() for one in held[:3]] == [[0], [1], [2]]
    assert np.unique(np.asarray(held[3]).view("f4")).tolist() == [3]
    assert np.unique(np.asarray(held[4])).tolist() == [4]
