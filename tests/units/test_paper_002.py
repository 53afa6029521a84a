"""The verdicts on the document's figures follow from numbers, and the pages say what the numbers say."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "examples" / "paper_002")]

import hostile_home as hostile  # noqa: E402 - examples are no package
import paper_002_claims as claims  # noqa: E402

PICTURES = ROOT / "docs" / "figures"
POINTS = json.loads((PICTURES / "paper_002_points.json").read_text(encoding="utf-8"))


def made_up(accuracy):
    """Returns all points of the smaller schedule; ``accuracy`` maps technique, epsilon, batch, local, epoch."""
    points = {}
    for technique in (claims.BOUNDED, claims.BATCH):
        for epsilon in (None, *claims.EPSILONS):
            for batch in claims.BATCHES:
                for local in {claims.LOCAL, *claims.LOCAL_EPOCHS}:
                    rounds = [accuracy(technique, epsilon, batch, local, epoch) for epoch in (1, 2, 3, 4)]
                    name = claims.key(technique, epsilon, batch, local)
                    points[name] = {"accuracy": rounds, "accuracy_with_noise": rounds}
    return points


def as_the_document_says(technique, epsilon, batch, local, epoch):
    if epsilon is None:
        return 0.99 - batch / 4000 + 0.02 * (technique == claims.BATCH)
    best = 0.97 + epsilon / 500 - batch / 2000 - 0.2 * (technique == claims.BATCH) * (11 - epsilon) / 10
    few = 0.03 * (local < max(claims.LOCAL_EPOCHS))
    return best - few - 0.03 * max(0, 2 - epoch) - 0.02 * max(0, epoch - 2)


def test_figures_as_in_the_document_are_reproduced():
    points = made_up(as_the_document_says)
    assert {make(points).number: make(points).verdict for make in claims.FIGURES} == dict.fromkeys(
        range(3, 9), "reproduced"
    )


def test_figures_without_any_difference_are_not_reproduced():
    verdicts = [make(made_up(lambda *point: 0.8)).verdict for make in claims.FIGURES]
    assert verdicts == ["not reproduced"] * 6


def test_level_figure_that_only_reaches_the_goal_is_in_part():
    assert claims.figure_7(made_up(lambda *point: 0.95)).verdict == "in part"


@pytest.mark.parametrize("make", claims.FIGURES)
def test_missing_point_gives_no_verdict(make):
    assert make({}).verdict == "not measured"


@pytest.mark.parametrize(
    ("values", "up"),
    [
        ([0.5, 0.6, 0.7], True),
        ([0.5, 0.495, 0.7], True),
        ([0.5, 0.48, 0.7], False),
        ([0.5, 0.505, 0.509], False),
        ([0.7, 0.6, 0.5], False),
    ],
)
def test_rises(values, up):
    assert claims.rises(values) is up
    assert claims.falls(values[::-1]) is up


def test_above_wants_the_margin_everywhere():
    assert claims.above([0.9, 0.8], [0.8, 0.7])
    assert not claims.above([0.9, 0.705], [0.8, 0.7])


def test_drops_looks_beyond_the_second_epoch_only():
    assert claims.drops([0.5, 0.9, 0.91, 0.88])
    assert not claims.drops([0.95, 0.9, 0.91, 0.895])


def test_epochs_to_reach():
    assert claims.epochs_to_reach(0.9, [0.5, 0.895, 0.95]) == 2
    assert claims.epochs_to_reach(0.9, [0.5, 0.6]) == float("inf")


@pytest.mark.parametrize(("other", "holds"), [(0.5, [True, True]), (0.9, [False, True]), (None, [None, True])])
def test_full_schedule(other, holds):
    points = {claims.key(claims.BOUNDED, 2, 64, 40, full=True): {"accuracy": [0.5, 0.94]}}
    if other is not None:
        points[claims.key(claims.BATCH, 2, 64, 40, full=True)] = {"accuracy": [0.1, other]}
    for point in points.values():
        point["accuracy_with_noise"] = point["accuracy"]
    assert [claim.holds for claim in claims.full_schedule(points)[1]] == holds


@pytest.mark.parametrize(
    ("last", "expected"),
    [((0.95, 0.94, 0.5), (True, True)), ((0.95, 0.9, 0.94), (False, False)), ((0.95, 0.96, 0.9), (False, True))],
)
def test_verdict_on_the_hostile_home(last, expected):
    cases = (hostile.NOBODY, hostile.KRUM, hostile.MEAN)
    runs = {case: {"1": [0.1, value]} for case, value in zip(cases, last, strict=True)}
    verdict = hostile.verdict(runs)
    assert (verdict["mean is harmed"], verdict["multi-krum is not harmed"]) == expected


@pytest.mark.parametrize("make", claims.FIGURES)
def test_committed_figure_follows_from_committed_points(make):
    figure = make(POINTS)
    written = json.loads((PICTURES / f"paper_002_figure_{figure.number}.json").read_text(encoding="utf-8"))
    assert written["verdict"] == figure.verdict
    assert [claim["holds"] for claim in written["claims"]] == [claim.holds for claim in figure.claims]
    assert [line["accuracy"] for line in written["lines"]] == [line.y for line in figure.lines]


@pytest.mark.parametrize("page", ["README.md", "docs/figures/README.md", "docs/figures/paper_002.md"])
def test_pages_show_the_verdicts(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for make in claims.FIGURES:
        figure = make(POINTS)
        rows = [row for row in text.splitlines() if row.startswith(f"| {figure.number} |")]
        assert any(f"| {figure.verdict} |" in row for row in rows), f"{page}, figure {figure.number}"


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial/first-run.md", "docs/explanation/robust-aggregation.md"])
def test_pages_show_what_the_hostile_home_did(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    written = json.loads((PICTURES / "hostile_home.json").read_text(encoding="utf-8"))
    for accuracy in written["accuracy_after_last_round"].values():
        assert f"{100 * accuracy:.1f} %" in text


@pytest.mark.parametrize("page", ["README.md", "docs/explanation/split-training.md"])
def test_pages_show_the_full_schedule(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for line in claims.full_schedule(POINTS)[0]:
        if line.y[-1] is not None:
            assert f"{100 * line.y[-1]:.1f} %" in text
