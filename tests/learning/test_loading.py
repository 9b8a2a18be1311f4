"""Batches from products: every sample once, the same in any number of threads, ranks and interruptions."""

import json
import multiprocessing
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from astrid_dist.errors import ConfigError, InputError, StorageError
from astrid_dist.learning.catalogue import Catalogue
from astrid_dist.learning.examples import Examples
from astrid_dist.learning.loading import Loader, SampleDataset
from astrid_dist.learning.sampling import Sampling
from astrid_dist.learning.stamps import StampReader
from astrid_dist.simulation.augmentation import Compose
from tests.learning.products import numbers, product

CHAIN = [{"flip": {}}, {"jitter": {"px": 0.5}}, {"noise": {"sigma": 0.5}}]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """1500 samples of ztf in six shards, 500 of hsc in two; five were not put in, three have no weight."""
    folder = tmp_path_factory.mktemp("products")
    injectable, weight = np.ones(1500, bool), np.ones(1500)
    injectable[100:105], weight[1400:1403] = False, 0
    return [
        product(folder, "ztf", 1500, columns={"injectable": injectable, "weight": weight}),
        product(folder, "hsc", 500, first=1500, bands=("i",)),
    ]


@pytest.fixture(scope="module")
def catalogue(sources: list[str]) -> Catalogue:
    return Catalogue.open(sources)


USABLE = sorted(set(range(2000)) - set(range(100, 105)) - set(range(1400, 1403)))


def drawn(batches: Iterable[Examples]) -> list[int]:
    return [int(number) for one in batches for number in numbers(one.pixels)]


def same(left: Iterable[Examples], right: Iterable[Examples]) -> bool:
    """Whether two runs of batches are equal in everything."""
    pairs = list(zip(left, right, strict=True))
    return bool(pairs) and all(
        torch.equal(one.nan_to_num(nan=-999), other.nan_to_num(nan=-999))
        for a, b in pairs
        for one, other in zip(vars(a).values(), vars(b).values(), strict=True)
    )


def test_an_epoch_has_every_usable_sample_once(catalogue: Catalogue) -> None:
    loader = Loader(catalogue, 16, seed=1)
    found = drawn(loader)
    assert len(found) == len(set(found)) == len(USABLE) // 16 * 16
    assert set(found) <= set(USABLE)
    # what was left over comes in another epoch
    assert set(drawn(loader)) | set(found) == set(USABLE)


def test_the_pixels_are_those_of_the_sample(catalogue: Catalogue) -> None:
    loader = Loader(catalogue, 32, seed=1)
    rows = loader.share[0].rows
    one = next(iter(loader))
    np.testing.assert_array_equal(numbers(one.pixels), rows)
    np.testing.assert_array_equal(one.pixels[:, 0, 0, 5, 5] * 8, rows)
    assert one.pixels[:, :, :, 0, 0].isnan().all()
    assert not one.pixels[:, :, :, 1:].isnan().any()
    assert one.target[:, 0, 4, 4].eq(2).all()
    assert int(one.target.sum()) == 2 * 32


def test_epochs_are_shuffled_across_shards_and_differ(catalogue: Catalogue) -> None:
    loader = Loader(catalogue, 16, seed=1, mixed=4)
    first, second = drawn(loader), drawn(loader)
    assert first != second
    shards = catalogue.shard[first]
    mixed = [len(set(shards[start : start + 64])) for start in range(0, len(shards) - 64, 64)]
    assert np.mean(mixed) > 3
    assert max(mixed) <= 2 * 4  # and no batch opens them all


def test_few_shards_are_open_at_a_time(tmp_path: Path) -> None:
    catalogue = Catalogue.open(product(tmp_path, samples=20 * 256))
    share = Loader(catalogue, 64, mixed=4, seed=5).share
    shards = [set(catalogue.shard[ticket.rows]) for ticket in share]
    first = {one: number for number, found in reversed(list(enumerate(shards))) for one in found}
    last = {one: number for number, found in enumerate(shards) for one in found}
    open_ = [sum(first[one] <= number <= last[one] for one in first) for number in range(len(share))]
    assert max(open_) <= 4 + 2


@pytest.mark.parametrize("train", [True, False])
def test_the_same_in_any_number_of_threads(catalogue: Catalogue, train: bool) -> None:
    runs = [
        Loader(catalogue, 64, augment=Compose.read(CHAIN), seed=4, train=train, threads=threads, ahead=ahead)
        for threads, ahead in [(1, 1), (2, 8), (5, 3)]
    ]
    first = list(runs[0])
    assert all(same(first, other) for other in runs[1:])


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_share_the_samples_evenly(catalogue: Catalogue, ranks: int) -> None:
    loaders = [Loader(catalogue, 32, seed=2, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert len({len(loader) for loader in loaders}) == 1
    found = [drawn(loader) for loader in loaders]
    together = list(chain.from_iterable(found))
    assert len(together) == len(set(together))
    assert len(together) > len(USABLE) - 32 * ranks - ranks
    # each shard is read by one rank, but for those at the ends of a run
    read = [set(catalogue.shard[one]) for one in found]
    assert sum(map(len, read)) <= 8 + ranks - 1


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_validation_leaves_nothing_out(catalogue: Catalogue, ranks: int) -> None:
    loaders = [Loader(catalogue, 64, rank=rank, ranks=ranks, train=False) for rank in range(ranks)]
    assert len({len(loader) for loader in loaders}) == 1
    assert sorted(chain.from_iterable(drawn(loader) for loader in loaders)) == USABLE
    assert same(list(loaders[0]), list(loaders[0]))


@pytest.mark.parametrize("stop", [0, 1, 17, 33, 34, 50])
def test_an_interrupted_run_goes_on_with_the_same_batches(catalogue: Catalogue, stop: int) -> None:
    def loader() -> Loader:
        return Loader(catalogue, 64, Sampling(balance=("class",), repeats=2), Compose.read(CHAIN), seed=9)

    def epochs(one: Loader, upto: int) -> Iterable[Examples]:
        while one.epoch < upto:
            yield from one

    whole = list(epochs(loader(), 3))
    interrupted, state = loader(), loader().state_dict()
    for number, _ in enumerate(epochs(interrupted, 3)):
        if number == stop:
            break
        state = json.loads(json.dumps(interrupted.state_dict()))
    resumed = loader()
    resumed.load_state_dict(state)
    assert same(list(epochs(resumed, 3)), whole[stop:])


def test_a_state_of_other_samples_is_refused(catalogue: Catalogue, sources: list[str]) -> None:
    state = Loader(catalogue, 64, seed=1).state_dict()
    for other in (
        Loader(catalogue, 64, seed=2),
        Loader(catalogue, 32, seed=1),
        Loader(catalogue, 64, Sampling(balance=("class",)), seed=1),
        Loader(Catalogue.open(sources[:1]), 64, seed=1),
    ):
        with pytest.raises(ConfigError, match="taken with other samples"):
            other.load_state_dict(state)


def test_another_number_of_ranks_begins_the_epoch_anew(catalogue: Catalogue) -> None:
    loader = Loader(catalogue, 64, seed=1)
    list(loader)
    next(iter(loader))
    other = Loader(catalogue, 64, seed=1, rank=1, ranks=2)
    other.load_state_dict(loader.state_dict())
    assert (other.epoch, other.position) == (1, 0)


def test_what_is_trained_on_is_augmented_and_what_is_validated_on_is_not(catalogue: Catalogue) -> None:
    changes = Compose.read(CHAIN)
    augmented = list(Loader(catalogue, 64, augment=changes, seed=4))
    plain = list(Loader(catalogue, 64, seed=4))
    assert [a.class_code.tolist() for a in augmented] == [b.class_code.tolist() for b in plain]
    assert not any(torch.equal(a.x, b.x) for a, b in zip(augmented, plain, strict=True))
    validation = list(Loader(catalogue, 64, augment=changes, seed=4, train=False))
    assert same(validation, list(Loader(catalogue, 64, train=False)))


def test_augmentation_differs_by_epoch_and_copy(tmp_path: Path) -> None:
    kinds = np.zeros(256, int)
    kinds[:3] = 10  # three samples of another kind, in many copies
    few = Catalogue.open(product(tmp_path, samples=256, columns={"kind": kinds}))
    sampling = Sampling(balance=("kind",), repeats=40)
    loader = Loader(few, 16, sampling, Compose.read([{"jitter": {}}]), seed=1, ahead=2)
    found: dict[int, list[float]] = {}
    for epoch in range(2):
        share = loader.share
        for ticket, examples in zip(share, loader, strict=True):
            for row, x in zip(ticket.rows.tolist(), examples.x.tolist(), strict=True):
                found.setdefault(row, []).append(x)
        assert loader.epoch == epoch + 1
    assert all(len(found[row]) >= 2 * 38 for row in range(3))
    assert all(len(set(values)) == len(values) for values in found.values())


def test_groups_with_fewer_visits_and_planes_are_filled_up(tmp_path: Path) -> None:
    three = product(tmp_path, "ztf", 300, visits=3)
    one = product(tmp_path, "old", 200, first=300, planes=("science", "difference"), bands=("r",))
    changes = Compose.read([*CHAIN, {"width": {}}, {"gain": {}}, {"background": {}}, {"no_data": {}}])
    for augment in (None, changes):
        for batch in Loader(Catalogue.open([three, one]), 50, augment=augment, seed=1):
            old = batch.survey == 1
            assert torch.equal(batch.seen[old], torch.tensor([True, False, False]).expand(int(old.sum()), 3))
            assert batch.seen[~old].all()
            assert batch.pixels[old][:, 1:].isnan().all()
            assert batch.pixels[old][:, 0, [1, 3]].isnan().all()
            assert batch.flux[old][:, 1:].isnan().all()
            assert batch.snr[old][:, 1:].isnan().all()
            assert not batch.target[old][:, 1:].any()
            assert not batch.band[old][:, 1:].any()
            assert (batch.days[old] == 0).all()
            assert (batch.days[~old].diff(dim=1) > 0).all()
            for values in (batch.x, batch.y, batch.days, batch.weight, batch.pixels[~old][:, :, 2, 4, 4]):
                assert values.isfinite().all()


def test_bands_and_surveys_are_those_of_the_run(sources: list[str]) -> None:
    known = Catalogue.open(sources, surveys=["lsst", "ztf"], bands=["lsst/g", "ztf/r"])
    surveys, bands = set(), set()
    for batch in Loader(known, 64, train=False):
        surveys |= {
            (int(n) >= 1500, int(s)) for n, s in zip(numbers(batch.pixels), batch.survey, strict=True)
        }
        bands |= set(batch.band.flatten().tolist())
    assert surveys == {(False, 2), (True, 0)}
    assert bands == {0, 2}
    assert Catalogue.open(sources).bands == ("hsc/i", "ztf/g", "ztf/r")


def test_random_access_and_processes_give_the_same_batches(catalogue: Catalogue) -> None:
    loader = Loader(catalogue, 256, augment=Compose.read(CHAIN), seed=4)
    plain = SampleDataset(StampReader(catalogue))
    assert len(plain) == 2000
    np.testing.assert_array_equal(numbers(plain.__getitems__([1900, 7]).pixels), [7, 1900])
    assert numbers(plain[1501].pixels).tolist() == [1501]
    dataset = SampleDataset(StampReader(catalogue, Compose.read(CHAIN), 4))
    tickets = list(loader.share)
    batches = DataLoader(
        dataset,
        batch_sampler=tickets,  # type: ignore[arg-type]
        collate_fn=_as_it_is,
        num_workers=2,
        multiprocessing_context=multiprocessing.get_context("spawn"),
    )
    assert same(list(batches), list(loader))


def _as_it_is(examples: Examples) -> Examples:
    return examples


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    source = product(tmp_path, samples=600)
    damaged = tmp_path / "ztf.zarr" / "ztf/train/pixels/c/1/0/0/0/0"
    damaged.write_bytes(damaged.read_bytes()[:-200])
    with pytest.raises(StorageError, match=r"ztf/train/pixels.*astrid verify"):
        list(Loader(Catalogue.open(source), 64))


def test_one_sample(tmp_path: Path) -> None:
    single = Catalogue.open(product(tmp_path, samples=1))
    assert drawn(Loader(single, 1)) == [0]
    assert drawn(Loader(single, 256, train=False)) == [0]
    with pytest.raises(InputError, match="1 samples make no batch of 64 on 1 ranks: choose a smaller batch"):
        list(Loader(single, 64))
    with pytest.raises(InputError, match="1 usable samples cannot be shared by 2 ranks"):
        list(Loader(single, 64, train=False, ranks=2))


def test_bad_settings_are_refused(catalogue: Catalogue) -> None:
    with pytest.raises(ConfigError, match="rank 2 of 2"):
        Loader(catalogue, 64, rank=2, ranks=2)
    with pytest.raises(ConfigError, match="threads is 0"):
        Loader(catalogue, 64, threads=0)
