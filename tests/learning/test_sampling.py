"""What an epoch has: balanced, mixed, from strong to weak; a function of seed and epoch alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from astrid_dist.errors import InputError
from astrid_dist.learning.catalogue import Catalogue
from astrid_dist.learning.composition import composition, digests
from astrid_dist.learning.sampling import Draw, Sampling, value_at
from astrid_dist.learning.sharing import Plan
from astrid_dist.taxonomy import CLASSES, ORIGINS
from tests.learning.products import product


def of_classes(folder: Path, **counts: int) -> Catalogue:
    """So many samples of each class, in a mixed order."""
    codes = np.repeat([CLASSES.index(name) for name in counts], list(counts.values()))
    codes = np.random.default_rng(0).permutation(codes)
    return Catalogue.open(product(folder, samples=len(codes), columns={"class": codes}))


def counts(catalogue: Catalogue, rows: Any) -> dict[str, int]:
    found: dict[str, int] = composition(catalogue, rows)["class"]
    return found


def test_without_settings_each_usable_sample_comes_once(tmp_path: Path) -> None:
    catalogue = of_classes(tmp_path, transient=300, dipole=50)
    (one,) = Draw(catalogue, Sampling(), 1).streams(0)
    assert one.rows.tolist() == list(range(350))
    assert not one.copies.any()


def test_balanced_classes_come_equally_often_and_no_sample_twice(tmp_path: Path) -> None:
    catalogue = of_classes(tmp_path, transient=900, dipole=60, noise=100)
    draw = Draw(catalogue, Sampling(balance=("class",)), 1)
    (first,), (second,) = draw.streams(0), draw.streams(1)
    assert counts(catalogue, first.rows) == {"transient": 60, "dipole": 60, "noise": 60}
    assert len(set(first.rows)) == len(first.rows)
    # of what there is plenty, other samples come in other epochs
    common = set(first.rows) & set(second.rows)
    assert len(common) < 60 + 60 + 20
    seen = {row for epoch in range(60) for row in draw.streams(epoch)[0].rows}
    assert len(seen) > 0.97 * len(catalogue)


def test_scarce_samples_may_come_several_times(tmp_path: Path) -> None:
    catalogue = of_classes(tmp_path, transient=900, dipole=60, noise=140)
    (one,) = Draw(catalogue, Sampling(balance=("class",), repeats=4), 1).streams(0)
    assert counts(catalogue, one.rows) == {"transient": 240, "dipole": 240, "noise": 240}
    times = np.bincount(one.rows, minlength=1100)
    classes = catalogue.columns["class"]
    assert set(times[classes == CLASSES.index("dipole")]) == {4}
    assert set(times[classes == CLASSES.index("noise")]) == {1, 2}
    assert set(times[classes == CLASSES.index("transient")]) == {0, 1}
    assert len(set(zip(one.rows, one.copies, strict=True))) == len(one.rows)


def test_an_epoch_is_no_longer_than_the_samples(tmp_path: Path) -> None:
    catalogue = of_classes(tmp_path, transient=300, dipole=30)
    (one,) = Draw(catalogue, Sampling(balance=("class",), repeats=50), 1).streams(0)
    assert counts(catalogue, one.rows) == {"transient": 165, "dipole": 165}


def test_shares_are_weights_beside_one(tmp_path: Path) -> None:
    catalogue = of_classes(tmp_path, transient=900, dipole=100, noise=100, edge=100)
    sampling = Sampling(balance=("class",), shares={"transient": 3, "edge": 0})
    (one,) = Draw(catalogue, sampling, 1).streams(0)
    assert counts(catalogue, one.rows) == {"transient": 300, "dipole": 100, "noise": 100}


@pytest.mark.parametrize("by", ["kind", "origin", "survey", "band", "snr"])
def test_samples_can_be_balanced_by_any_trait(tmp_path: Path, by: str) -> None:
    origin = np.arange(600) % 7 % len(ORIGINS)
    sources = [
        product(tmp_path, "ztf", 600, bands=("g",), columns={"origin": origin}),
        product(tmp_path, "hsc", 300, bands=("i", "z")),
    ]
    catalogue = Catalogue.open(sources)
    (one,) = Draw(catalogue, Sampling(balance=(by,), repeats=9), 3).streams(0)
    found = composition(catalogue, one.rows)[by]
    assert set(found) == set(composition(catalogue)[by])
    assert max(found.values()) == min(found.values())


def test_samples_can_be_balanced_by_several_traits(tmp_path: Path) -> None:
    classes = np.arange(600) % 5 % 2
    sources = [product(tmp_path, name, 600, columns={"class": classes}) for name in ("ztf", "hsc")]
    catalogue = Catalogue.open(sources)
    sampling = Sampling(balance=("class", "survey"), shares={"variable, hsc": 0.5})
    (one,) = Draw(catalogue, sampling, 3).streams(0)
    pairs = zip(catalogue.columns["class"][one.rows], catalogue.columns["survey"][one.rows], strict=True)
    found = np.unique(list(pairs), axis=0, return_counts=True)[1].tolist()
    assert found == [240, 240, 120, 240]


def test_every_batch_has_its_share_of_real_samples(tmp_path: Path) -> None:
    origin = np.arange(3000) % 10 == 0
    catalogue = Catalogue.open(product(tmp_path, samples=3000, columns={"origin": 2 * origin}))
    sampling = Sampling(real=0.3, repeats=3)
    for rank in range(2):
        share = Plan(catalogue, sampling, 32, seed=1, ranks=2).training(0, rank)
        real = [int(origin[ticket.rows].sum()) for ticket in share]
        assert set(real) == {9, 10}
        assert abs(sum(real) - 0.3 * 32 * len(share)) < 1
    whole = Draw(catalogue, sampling, 1).streams(0)
    assert [len(one.rows) for one in whole] == [900, 2100]
    assert composition(catalogue, whole[0].rows)["synthetic"] == 0
    assert composition(catalogue, np.concatenate([one.rows for one in whole]))[
        "synthetic_to_real"
    ] == pytest.approx(7 / 3)


def test_real_and_synthetic_products_are_mixed_evenly_over_the_epoch(tmp_path: Path) -> None:
    real = product(tmp_path, "real", 300, columns={"origin": np.full(300, 2)})
    catalogue = Catalogue.open([product(tmp_path, "made", 3000), real])
    share = Plan(catalogue, Sampling(real=0.5), 20, seed=1).training(0)
    assert len(share) == 30
    assert all((ticket.rows >= 3000).sum() == 10 for ticket in share)


def test_the_ratio_can_change_with_the_epoch(tmp_path: Path) -> None:
    catalogue = Catalogue.open(product(tmp_path, samples=1000, columns={"origin": np.arange(1000) % 2}))
    plan = Plan(catalogue, Sampling(real=((0, 0.0), (4, 0.5))), 40)
    shares = [plan.training(epoch) for epoch in (0, 2, 4, 9)]
    assert [float((one.rows % 2).mean()) for one in shares] == pytest.approx([0, 0.25, 0.5, 0.5])


def test_a_curriculum_goes_from_strong_to_weak(tmp_path: Path) -> None:
    catalogue = Catalogue.open(product(tmp_path, samples=2000))
    strength = catalogue.strength[:, 0]
    draw = Draw(catalogue, Sampling(snr=((0, 50), (2, 10), (5, 0))), 1)
    for epoch, least in ((0, 50), (1, 30), (2, 10), (5, 0), (8, 0)):
        (one,) = draw.streams(epoch)
        assert one.rows.tolist() == np.flatnonzero(strength >= least).tolist()


def test_samples_without_signal_to_noise_are_in_every_epoch(tmp_path: Path) -> None:
    none = np.full((4, 1), np.nan)
    columns = {"snr": none, "peak": [[np.nan], [-60], [20], [100]]}
    catalogue = Catalogue.open(product(tmp_path, samples=4, columns=columns))
    assert Draw(catalogue, Sampling(snr=50), 1).streams(0)[0].rows.tolist() == [0, 1, 3]


def test_an_epoch_can_be_a_part_of_the_samples(tmp_path: Path) -> None:
    catalogue = Catalogue.open(product(tmp_path, samples=5000))
    plan = Plan(catalogue, Sampling(samples=1000), 50, seed=1)
    shares = [plan.training(epoch) for epoch in range(2)]
    assert [len(one) for one in shares] == [20, 20]
    assert all(len(np.unique(catalogue.shard[one.rows])) <= 5 for one in shares)
    assert set(catalogue.shard[shares[0].rows]) != set(catalogue.shard[shares[1].rows])


def test_the_draw_depends_on_the_seed_and_nothing_else(tmp_path: Path) -> None:
    catalogue = of_classes(tmp_path, transient=900, dipole=60)
    sampling = Sampling(balance=("class",))
    first, again, other = (Plan(catalogue, sampling, 8, seed).training(3) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.rows, again.rows)
    assert first.rows.tolist() != other.rows.tolist()


def test_a_class_of_which_nothing_is_usable(tmp_path: Path) -> None:
    classes = np.repeat([0, 3], [40, 10])
    put = np.repeat([True, False, True], [40, 7, 3])
    weight = np.repeat([1.0, 0.0], [47, 3])
    columns = {"class": classes, "injectable": put, "weight": weight}
    catalogue = Catalogue.open(product(tmp_path, samples=50, columns=columns))
    with pytest.raises(
        InputError,
        match=r"'dipole' has 10 samples in .*#ztf/train, none usable: 7 could not .*, 3 have weight 0",
    ):
        Draw(catalogue, Sampling(balance=("class",)), 1).streams(0)
    (one,) = Draw(catalogue, Sampling(balance=("class",), shares={"dipole": 0}), 1).streams(0)
    assert len(one.rows) == 40


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"balance": ("class",), "shares": {"ghost": 1}},
            r"stated for \['ghost'\], of which .* has no sample",
        ),
        ({"balance": ("class",), "shares": {"transient": 0, "dipole": 0}}, "left have no share"),
        ({"real": 0.3}, "30% of the samples are to be real, of which .* has none usable"),
        ({"snr": 1e6}, r"no sample has SNR 1e\+06, the strongest has"),
    ],
)
def test_what_the_samples_do_not_have_is_said(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    catalogue = of_classes(tmp_path, transient=40, dipole=40)
    with pytest.raises(InputError, match=message):
        Draw(catalogue, Sampling(**settings), 1).streams(0)


def test_nothing_usable(tmp_path: Path) -> None:
    catalogue = Catalogue.open(product(tmp_path, samples=5, columns={"injectable": np.zeros(5, bool)}))
    with pytest.raises(InputError, match="5 samples, none usable: 5 could not be put in"):
        Draw(catalogue, Sampling(), 1).streams(0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"balance": ("colour",)}, r"balance by \['colour'\] is not possible; there are class, kind"),
        ({"shares": {"dipole": 1}}, "say in `balance` of what"),
        ({"real": 1.5}, "lies between 0 and 1"),
        ({"real": ((0, 0.2), (3, 2.0))}, "lies between 0 and 1"),
        ({"snr": ((5, 10), (2, 0))}, "growing epochs"),
        ({"snr": ()}, "growing epochs"),
        ({"snr_edges": (10, 5)}, "do not grow"),
        ({"repeats": 0}, "greater than or equal to 1"),
        ({"balanced": ("class",)}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Sampling(**settings)


def test_a_schedule_is_linear_between_its_epochs() -> None:
    assert [value_at(((2, 10.0), (4, 0.0)), epoch) for epoch in (0, 2, 3, 4, 9)] == [10, 10, 5, 0, 0]
    assert value_at(3, 100) == 3


def test_composition_counts_what_is_trained_on(tmp_path: Path) -> None:
    origin, put = np.repeat([0, 1, 2], [60, 30, 10]), np.arange(100) != 5
    columns = {"origin": origin, "injectable": put, "class": np.repeat([0, 11], [60, 40])}
    catalogue = Catalogue.open(product(tmp_path, samples=100, columns=columns))
    found = composition(catalogue)
    assert found["samples"] == 99
    assert found["left_out"] == {"could not be put in": 1, "weight 0": 0}
    assert (found["synthetic"], found["real"]) == (59, 40)
    assert found["synthetic_to_real"] == pytest.approx(59 / 40)
    assert found["class"] == {"transient": 59, "unknown": 40}
    assert found["origin"] == {"synthetic": 59, "null detection": 30, "mined": 10}
    assert sum(found["band"].values()) == sum(found["snr"].values()) == 99
    assert composition(catalogue, np.array([0, 0, 1]))["class"] == {"transient": 3}
    assert composition(catalogue, np.array([0]))["synthetic_to_real"] is None


def test_without_a_ledger_there_is_no_digest_of_values(tmp_path: Path) -> None:
    (found,) = digests(Catalogue.open(product(tmp_path, samples=10)))
    assert found["digest"] is None
    assert found["inputs_digest"] == "ztf0"
    assert (found["group"], found["samples"]) == ("ztf/train", 10)
