"""Attackers of obfuscated samples: exact laws of codes, several obfuscators, repeats, keys, the worst of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from privet.attacks.blind_key import BlindKey
from privet.attacks.contract import Reconstruction
from privet.attacks.contrastive import Contrastive
from privet.attacks.feature_inversion import FeatureInversion
from privet.attacks.fresh_inverse import FreshInverse
from privet.attacks.keys import Cloud, put_back, turned_back
from privet.attacks.known_release import KnownRelease
from privet.attacks.likelihoods import Channel, likelihoods
from privet.attacks.linear_inverse import Pairs
from privet.attacks.material import material
from privet.attacks.neighbours import equals, looked_up
from privet.attacks.repeats import Repeats
from privet.attacks.views import MOST_VIEWS, jittered
from privet.engines.view import View
from privet.errors import InputError
from privet.evidence.audit import Finding, clopper_pearson, judge_reconstruction
from privet.evidence.obfuscation import worst
from privet.parts import build
from privet.randomness import seeded

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE, CLASSES, SEEN, OWN = (1, 10, 10), 3, 150, 400
Release = Callable[[Tensor], Tensor]


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Returns images (count, 1, 10, 10): the template of a class and six skewed patterns that vary by record."""
    template = torch.rand(CLASSES, *SHAPE, generator=torch.Generator().manual_seed(1))
    patterns = torch.randn(6, 10, 10, generator=torch.Generator().manual_seed(2))
    mine = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=mine)
    weights = torch.rand(count, 6, generator=mine).log().neg() - 1
    return (template[labels] + 0.1 * torch.einsum("nk,kxy->nxy", weights, patterns)[:, None]).clamp(0, 1), labels


def attacked(
    seen: Release, known: Release | None = None, release: Release | None = None, labelled: bool = True
) -> tuple[View, Tensor, Tensor]:
    """Returns a view of what ``seen`` makes of records, the records and their labels."""
    (truth, labels), (own, own_labels) = images(SEEN, 3), images(OWN, 4)
    view = View(
        "coordinator",
        {"features": seen(truth)} | ({"labels": labels} if labelled else {}),
        {"inputs": own, "features": (known or seen)(own)} | ({"labels": own_labels} if labelled else {}),
        release=release,
        shape=SHAPE,
        classes=CLASSES,
    )
    return view, truth, labels


def judged(attack: object, case: tuple[View, Tensor, Tensor]) -> Finding:
    view, truth, labels = case
    return judge_reconstruction("x", view, attack(view, seeded(0)), truth, labels)  # type: ignore[operator]


def mixing(width: int, seed: int = 5) -> Tensor:
    return torch.randn(100, width, generator=torch.Generator().manual_seed(seed)) / 3


def coded(codes: int) -> Release:
    """Returns a release of one of some codes, each a vector of seven numbers."""
    book = torch.rand(codes, 7, generator=torch.Generator().manual_seed(8))
    return lambda rows: book[((rows.flatten(1) - 0.5) @ mixing(codes)).argmax(1)]


@pytest.mark.parametrize("codes", [2, 12, 40])
def test_of_a_deterministic_code_rank_one_is_exactly_the_distinct_outputs_over_the_records(codes: int) -> None:
    release = coded(codes)
    case = attacked(release, release=release)
    found, outputs = judged(KnownRelease(), case), release(case[1])
    assert found.metrics["reidentified_by_release"] == len(outputs.unique(dim=0)) / SEEN
    both = torch.cat((outputs, case[2][:, None].float()), 1)
    assert found.metrics["reidentified_in_class"] == len(both.unique(dim=0)) / SEEN
    # The bounds that are derived from the number of codes; an interval has no business above them.
    assert found.metrics["reidentified_low"] <= codes / SEEN
    assert found.metrics["reidentified_in_class_low"] <= codes * CLASSES / SEEN


@pytest.mark.parametrize("attack", [FreshInverse(architecture="nearest"), Contrastive(steps=60), Repeats(views=1)])
def test_no_attacker_of_a_code_gets_past_its_bound(attack: object) -> None:
    release = coded(4)
    found = judged(attack, attacked(release, release=release))
    assert found.metrics["reidentified_low"] <= 4 / SEEN
    assert found.metrics["reidentified_in_class_low"] <= 4 * CLASSES / SEEN


def test_a_code_computed_in_another_precision_is_the_same_code() -> None:
    release = coded(12)
    ways = [judged(each, attacked(release, release=lambda rows: release(rows).double())).metrics
            for each in (KnownRelease(), Repeats(views=1))]  # fmt: skip
    exact = len(release(images(SEEN, 3)[0]).unique(dim=0)) / SEEN
    assert ways[0]["reidentified_by_release"] == ways[1]["reidentified_by_views"] == exact


def test_outputs_that_differ_in_the_last_bits_only_are_distinct_outputs() -> None:
    def release(rows: Tensor) -> Tensor:
        steps = 1 + torch.arange(len(rows)) % 4  # in units of the last place: no matrix product tells them apart
        return torch.ones(len(rows), 70) + steps[:, None] * 2.0**-23

    assert judged(KnownRelease(), attacked(release, release=release)).metrics["reidentified_by_release"] == 4 / SEEN


def test_without_pairs_of_its_own_the_coordinator_makes_them() -> None:
    def release(rows: Tensor) -> Tensor:
        return torch.tanh(rows.flatten(1) @ mixing(3))

    view, truth, labels = attacked(release, release=release)
    bare = dataclasses.replace(view, knows={key: view.knows[key] for key in ("inputs", "labels")})
    assert judged(KnownRelease(), (bare, truth, labels)).metrics["reidentified"] == 1
    twice = dataclasses.replace(bare, seen=bare.seen | {"features": bare.seen["features"][:, None].expand(-1, 2, -1)})
    assert judged(KnownRelease(), (twice, truth, labels)).metrics["reidentified"] == 1
    for attack in (KnownRelease(), Repeats()):
        with pytest.raises(InputError, match="no release"):
            attack(dataclasses.replace(view, release=None), seeded(0))
        with pytest.raises(InputError, match="'inputs'"):
            attack(dataclasses.replace(view, knows={}), seeded(0))


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("attack", [KnownRelease(), Repeats(views=1), FeatureInversion(epochs=1, width=8)])
def test_not_knowing_which_of_several_obfuscators_was_picked_does_not_help(attack: object, noise: float) -> None:
    def every(rows: Tensor) -> Tensor:
        return torch.stack([torch.tanh(rows.flatten(1) @ mixing(30, seed)) for seed in range(5)], 1)

    def one(rows: Tensor) -> Tensor:
        picked = torch.arange(len(rows)) * 7 % 5
        drawn = noise * torch.randn(len(rows), 30, generator=torch.Generator().manual_seed(len(rows)))
        return every(rows)[torch.arange(len(rows)), picked] + drawn

    ways = judged(attack, attacked(one, release=every)).metrics
    assert max(ways.get(f"reidentified_by_{way}", 0) for way in ("release", "views", "likelihood")) > 0.95


def responded(truthful: float, codes: int = 12, releases: int = 1) -> Release:
    """Returns a fresh randomised response on a code, one-hot, so many times."""

    def release(rows: Tensor) -> Tensor:
        mine = torch.Generator().manual_seed(len(rows))
        code = coded_index(rows, codes)[:, None].expand(-1, releases)
        other = torch.randint(codes, code.shape, generator=mine)
        kept = torch.rand(code.shape, generator=mine) < truthful
        return F.one_hot(torch.where(kept, code, other), codes).float()

    return release


def coded_index(rows: Tensor, codes: int) -> Tensor:
    return ((rows.flatten(1) - 0.5) @ mixing(codes)).argmax(1)


def test_a_channel_is_counted_and_its_likelihood_is_that_of_the_slow_twin() -> None:
    respond = responded(0.6, 5, releases=3)
    view, truth, _ = attacked(respond)
    given = material(view)
    own, theirs = (F.one_hot(coded_index(rows, 5), 5).float() for rows in (given.inputs, truth))
    channel = Channel.learn(given, own, theirs)
    assert channel is not None
    torch.testing.assert_close(channel.table.sum(1), torch.ones(5, dtype=torch.float64))
    scores = likelihoods(given, own, theirs)
    often = [int((own == each).all(1).sum()) for each in torch.eye(5)]
    for row in range(0, SEEN, 17):
        for column in range(0, SEEN, 13):
            alike, slow = (own == theirs[column]).all(1), 0.0
            for each in given.seen[row]:
                times = sum(int((alike & (given.known[:, r] == each).all(1)).sum()) for r in range(3))
                slow += float(torch.tensor(max(times, 1e-9) / (3 * int(alike.sum()))).log())
            if often[int(theirs[column].argmax())] > 40:  # one count of what is expected is added: little beside these
                assert float(scores[row, column]) == pytest.approx(slow, abs=0.1)
    assert sum(times > 40 for times in often) >= 2


def test_releases_that_look_like_codes_at_first_and_are_not_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privet.attacks.likelihoods._MOST_CODES", 3)
    view, truth, _ = attacked(lambda rows: (torch.arange(len(rows)) // 100)[:, None].float())
    given, many = material(view), torch.arange(len(truth))[:, None].float()
    assert Channel.learn(given, given.known[:, 0], many) is None
    assert Channel.learn(given, given.known[:, 0], many[:1]) is None  # four codes, the first seven rows of one
    few = dataclasses.replace(given, known=given.known.clamp(max=2))
    assert Channel.learn(few, few.known[:, 0], many[:1]) is not None


def test_fresh_randomised_response_falls_to_repeats_and_ends_at_its_code() -> None:
    def clean(rows: Tensor) -> Tensor:
        return F.one_hot(coded_index(rows, 12), 12).float()

    found = {}
    for releases in (1, 4, 60):
        case = attacked(responded(0.4, releases=releases), release=clean)
        found[releases] = judged(Repeats(views=1), case).metrics["reidentified_by_views"]
    exact = len(clean(images(SEEN, 3)[0]).unique(dim=0)) / SEEN
    assert found[1] < exact
    assert found[60] == exact


def test_repeated_releases_of_slightly_different_views_tell_more_than_the_code() -> None:
    release, found = coded(12), {}
    for count in (1, 16):

        def repeated(rows: Tensor, count: int = count) -> Tensor:
            views = jittered(rows, count, seeded(len(rows)))
            return release(views.flatten(0, 1)).unflatten(0, (len(rows), count))

        found[count] = judged(Repeats(), attacked(repeated, release=release)).metrics["reidentified_by_views"]
    assert found[1] <= 12 / SEEN + 0.05
    assert found[16] > 0.3


def test_a_sampled_symbol_tells_little_once_and_nearly_all_when_it_is_drawn_again_and_again() -> None:
    def chances(rows: Tensor) -> Tensor:
        return (rows.flatten(1) @ mixing(6)).softmax(1)

    found = {}
    for releases in (1, 500):

        def sampled(rows: Tensor, releases: int = releases) -> Tensor:
            drawn = chances(rows).multinomial(releases, True, generator=torch.Generator().manual_seed(len(rows)))
            return F.one_hot(drawn, 6).float()

        case = attacked(sampled, release=chances)
        found[releases] = judged(KnownRelease(), case).metrics["reidentified_by_release"]
    assert found[1] < 0.12
    assert found[500] > 0.4


def test_noise_on_a_wide_release_averages_out_over_views() -> None:
    def clean(rows: Tensor) -> Tensor:
        return torch.tanh(rows.flatten(1) @ mixing(20))

    found = {}
    for releases in (1, 12):

        def noised(rows: Tensor, releases: int = releases) -> Tensor:
            views = jittered(rows, releases, seeded(len(rows), "views"))
            exact = clean(views.flatten(0, 1)).unflatten(0, (len(rows), releases))
            return exact + 0.7 * seeded(len(rows), "noise").normal(tuple(exact.shape))

        found[releases] = judged(Repeats(), attacked(noised, release=clean)).metrics
    assert found[1]["reidentified_by_views"] < 0.5 < found[12]["reidentified_by_views"]
    assert found[12]["reidentified_by_views"] >= found[12]["reidentified_by_average"]


@pytest.mark.parametrize(
    "table",
    [
        *(
            {"name": "fresh-inverse", "architecture": each, "steps": 30}
            for each in ("mlp", "convolutional", "maps", "nearest")
        ),
        {"name": "contrastive", "steps": 30},
        {"name": "known-release"},
        {"name": "repeats"},
        {"name": "blind-key"},
        {"name": "blind-key", "key": "permutation"},
    ],
    ids=lambda table: "-".join(map(str, table.values())),
)
@pytest.mark.parametrize("kind", ["zeros", "noise"])
def test_a_release_that_holds_nothing_leaves_every_attacker_at_the_floor(table: dict[str, object], kind: str) -> None:
    def nothing(rows: Tensor) -> Tensor:
        return torch.zeros(len(rows), 100)

    def noise(rows: Tensor) -> Tensor:
        return torch.randn(len(rows), 100, generator=torch.Generator().manual_seed(len(rows)))

    case = attacked(nothing if kind == "zeros" else noise, release=nothing)
    found = judged(build("attacks", table), case)
    assert found.metrics["reidentified_low"] <= found.floor["reidentified_label"]
    assert found.metrics["reidentified_in_class_low"] <= found.floor["reidentified_in_class"]
    assert found.metrics["ssim"] < found.floor["ssim_class_mean"] + 0.03


@pytest.mark.parametrize(
    ("architecture", "width"),
    [("mlp", 100), ("residual", 100), ("convolutional", 100), ("maps", 100), ("residual", 1100)],
)
def test_every_architecture_undoes_what_can_be_undone(architecture: str, width: int) -> None:
    def release(rows: Tensor) -> Tensor:
        return rows.flatten(1) if width == 100 else torch.relu(rows.flatten(1) @ mixing(width))

    attack = build("attacks", {"name": "fresh-inverse", "architecture": architecture, "steps": 120, "width": 64})
    found = judged(attack, attacked(release))
    assert found.metrics["ssim_low"] > found.floor["ssim_class_mean"] + 0.08
    assert found.metrics["reidentified_low"] > 10 * found.floor["reidentified_label"]


@pytest.mark.parametrize("attack", [FreshInverse(steps=300, width=64), Contrastive(steps=200, width=64)])
def test_rows_of_a_table_are_attacked_in_their_own_units(attack: object) -> None:
    units = torch.tensor([1000.0, 1.0, 0.01, 0.0])
    rows = torch.randn(700, 4, generator=torch.Generator().manual_seed(0)) * units + 5
    made = torch.tanh((rows - 5) / units.clamp_min(1e-3) @ mixing(12)[:4])
    view = View("outsider", {"features": made[:100]}, {"inputs": rows[100:], "features": made[100:]}, shape=(4,))
    found = judge_reconstruction("x", view, attack(view, seeded(0)), rows[:100], torch.zeros(100))  # type: ignore[operator]
    assert found.metrics["error"] < 0.45
    assert found.metrics["reidentified"] > 0.7
    assert "reidentified_in_class" not in found.metrics
    for architecture in ("convolutional", "maps"):
        with pytest.raises(InputError, match="draws images"):
            FreshInverse(architecture=architecture)(view, seeded(0))


def test_equal_releases_answer_with_the_mean_of_their_inputs() -> None:
    values = torch.tensor([[1.0], [3.0], [8.0], [20.0]]).double()
    codes = torch.tensor([[0.0], [0.0], [5.0], [0.0]]).double()
    decode = equals(Pairs(values, torch.tensor([0, 0, 0, 1]), codes, 2))
    seen, labels = torch.tensor([[0.1], [4.0], [5.0]]).double(), torch.tensor([0, 0, 1])
    assert decode(seen, labels).flatten().tolist() == [2.0, 8.0, 20.0]


def test_looking_up_falls_back_on_the_mean_where_releases_say_nothing() -> None:
    mine = torch.Generator().manual_seed(0)
    values, noise = (torch.randn(500, 3, generator=mine, dtype=torch.float64) for _ in range(2))
    decode = looked_up(Pairs(values, torch.zeros(500, dtype=torch.int64), noise, 1), (3,), seeded(0))
    assert float(decode(noise[:9], torch.zeros(9, dtype=torch.int64)).std(0).max()) < 0.5


def test_views_of_an_image_start_with_itself_and_shift_it() -> None:
    pictures = torch.rand(4, 2, 6, 5)
    views = jittered(pictures, MOST_VIEWS)
    assert views.shape == (4, 25, 2, 6, 5)
    assert torch.equal(views[:, 0], pictures)
    assert len(views[0].flatten(1).unique(dim=0)) == 25
    inner = {tuple(view[0, 2:4, 2].tolist()) for view in views[0, :9]}
    assert inner == {tuple(pictures[0, 0, 2 + down : 4 + down, 2 + right].tolist())
                     for down in (-1, 0, 1) for right in (-1, 0, 1)}  # fmt: skip
    drawn = jittered(pictures, 40, seeded(1))
    assert torch.equal(drawn, jittered(pictures, 40, seeded(1)))
    for image in range(4):
        near = views[image, :9].flatten(1)
        assert all((near == each).all(1).any() for each in drawn[image].flatten(1))
    assert torch.equal(jittered(torch.ones(3, 7), 5), torch.ones(3, 5, 7))
    for count, rng in ((0, None), (26, None), (0, seeded(0))):
        with pytest.raises(InputError, match="views"):
            jittered(pictures, count, rng)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_permutation_is_recovered_from_its_releases_alone(labelled: bool) -> None:
    order = torch.randperm(100, generator=torch.Generator().manual_seed(3))
    case = attacked(lambda rows: rows.flatten(1)[:, order], labelled=labelled)
    blind = dataclasses.replace(case[0], knows={k: v for k, v in case[0].knows.items() if k != "features"})
    found = judged(BlindKey(key="permutation"), (blind, *case[1:]))
    assert found.metrics["ssim"] > 0.9
    assert found.metrics["reidentified"] > 0.97


def test_a_turn_is_recovered_from_repeated_releases_too_and_of_three_numbers() -> None:
    key = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).Q
    mine = torch.Generator().manual_seed(1)
    rows = torch.rand(2500, 3, generator=mine).log().neg() * torch.tensor([1.0, 2.0, 4.0])
    turned = (rows[:500] @ key)[:, None].expand(-1, 2, -1)
    view = View("outsider", {"features": turned}, {"inputs": rows[500:]}, shape=(3,))
    guess = BlindKey()(view, seeded(0)).inputs
    assert float((guess - rows[:500]).square().mean() / rows.var()) < 0.01


def test_a_key_needs_releases_as_long_as_inputs_and_more_than_one() -> None:
    view, _, _ = attacked(lambda rows: rows.flatten(1) @ mixing(100))
    short = dataclasses.replace(view, seen=view.seen | {"features": view.seen["features"][:, :99]})
    with pytest.raises(InputError, match="100 numbers"):
        BlindKey()(short, seeded(0))
    with pytest.raises(InputError, match="shape"):
        BlindKey()(dataclasses.replace(view, shape=(1, 20, 5)), seeded(0))
    one = {key: value[:1] for key, value in view.seen.items()}
    with pytest.raises(InputError, match="no spread"):
        BlindKey()(dataclasses.replace(view, seen=one), seeded(0))


def test_few_rows_and_rare_labels_are_no_reason_to_fail() -> None:
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 0, 0, 0, 1])
    known, seen = Cloud(rows, labels), Cloud(rows.flip(0), labels.flip(0))
    for guess in (turned_back(known, seen, 2, seeded(0)), put_back(known, seen, 2)):
        assert guess.shape == (6, 4)
        assert torch.isfinite(guess).all()


def test_where_labels_were_seen_candidates_of_other_classes_are_ruled_out() -> None:
    truth, labels = torch.arange(6.0).reshape(6, 1), torch.tensor([0, 1, 0, 1, 0, 1])
    knows = {"inputs": truth, "labels": labels}
    # Row i is taken for its neighbour of the other class, and after that for itself; row 0 for row 2.
    scores = torch.eye(6) + 2 * torch.eye(6).roll(1, 1)
    scores[0, 2] = 1.5
    answer = Reconstruction(torch.full((6, 1), 2.4), matchers={"way": lambda candidates: scores})
    view = View("coordinator", {"labels": labels}, knows, shape=(1,), classes=2)
    found = judge_reconstruction("x", view, answer, truth, labels)
    assert found.metrics["reidentified_by_way"] == 0
    assert found.metrics["reidentified"] == 1 / 6  # by the guess, which is nearest to row 2
    assert found.metrics["reidentified_in_class"] == 5 / 6
    ends = clopper_pearson(5, 6, 1 - 0.05 / 2)
    assert (found.metrics["reidentified_in_class_low"], found.metrics["reidentified_in_class_high"]) == ends
    assert found.floor["reidentified_in_class"] == 2 / 6
    unseen = judge_reconstruction("x", dataclasses.replace(view, seen={}), answer, truth, labels)
    assert not any(key.startswith("reidentified_in_class") for key in unseen.metrics | unseen.floor)


def finding(name: str, share: float, ssim: float | None = None, records: int = 200, ways: int = 1) -> Finding:
    metrics = {"reidentified": share, "reidentified_in_class": min(2 * share, 1.0)}
    metrics |= {f"reidentified_by_{way}{end}": share for way in range(ways) for end in ("", "_low", "_high")}
    floor = {"reidentified": 1 / records, "ssim_mean": 0.1, "ssim_class_mean": 0.3}
    return Finding(name, "coordinator", metrics | ({} if ssim is None else {"ssim": ssim}), floor, "")


def test_the_worst_attacker_is_the_figure_and_its_interval_allows_for_all_that_were_tried() -> None:
    found = worst([finding("a", 0.02, 0.31), finding("b", 0.05, 0.29, ways=3), finding("c", 0.01, 0.35, records=5000)])
    assert (found.reidentified.value, found.reidentified.by, found.reidentified.records) == (0.05, "b", 200)
    low, high = clopper_pearson(10, 200, 1 - 0.05 / 5)  # one way, three and one
    assert (found.reidentified.low, found.reidentified.high) == (low, high)
    assert found.reidentified_in_class is not None
    assert found.reidentified_in_class.value == 0.1
    assert (found.ssim, found.ssim_by, found.ssim_floor) == (0.35, "c", 0.3)
    assert found.ssim_above_floor == pytest.approx(0.05)


def test_what_an_attacker_learns_from_labels_alone_raises_the_floor_and_never_lowers_it() -> None:
    found = [finding("a", 0.02, 0.31), finding("b", 0.05, 0.36)]
    raised, same = worst(found, finding("label-only", 0.0, 0.34)), worst(found, finding("label-only", 0.0, 0.1))
    assert (raised.ssim_floor, same.ssim_floor) == (0.34, 0.3)
    assert raised.ssim_above_floor == pytest.approx(0.02)
    assert same.ssim_above_floor == pytest.approx(0.06)


def test_an_attacker_of_few_records_may_reach_further_up_than_the_one_that_found_most() -> None:
    found = worst([finding("many", 0.5, records=5000), finding("few", 0.4, records=10)])
    assert found.reidentified.by == "many"
    assert found.reidentified.high == clopper_pearson(4, 10, 1 - 0.05 / 2)[1]
    assert (found.ssim, found.ssim_by, found.ssim_floor, found.ssim_above_floor) == (None, None, None, None)


def test_the_worst_of_nothing_or_of_other_findings_is_refused() -> None:
    with pytest.raises(InputError, match="no attacker"):
        worst([])
    with pytest.raises(InputError, match="says nothing of re-identification"):
        worst([finding("a", 0.1), Finding("rmia", "anyone", {"auc": 0.5}, {"auc": 0.5}, "")])
    bare = dataclasses.replace(finding("a", 0.1), metrics={"reidentified": 0.1})
    assert worst([bare]).reidentified_in_class is None
