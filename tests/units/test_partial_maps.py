"""What one helper receives, and what an attacker makes of it: one map is an image, noise is not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from privet.attacks.partial_maps import PartialMaps
from privet.engines.view import View
from privet.errors import InputError
from privet.evidence.audit import Finding, judge_reconstruction
from privet.inference.distributed.fleets import named_fleet
from privet.inference.distributed.networks import Network, apply, paper_network
from privet.inference.distributed.planners.distprivacy import Distprivacy
from privet.inference.distributed.plans import Plan
from privet.inference.distributed.received import received
from privet.inference.distributed.table_i import TABLE
from privet.inference.distributed.workload import workload
from privet.randomness import seeded

ROOT = Path(__file__).parents[2]
CLASSES, SIDE, OWN, SEEN = 4, 16, 600, 120
ATTACK = PartialMaps(epochs=8, width=16)

pytestmark = pytest.mark.usefixtures("one_thread")


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Returns smooth images (count, 1, 16, 16), the pattern of a class and a smooth variation of each record's own."""
    patterns = torch.rand(CLASSES, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    mine = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=mine)
    coarse = 0.3 * patterns[labels] + 0.7 * torch.rand(count, 1, 4, 4, generator=mine)
    return nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear"), labels


(TRUTH, LABELS), (INPUTS, OWN_LABELS) = images(SEEN, 3), images(OWN, 4)


def view(known: Tensor, seen: Tensor) -> View:
    knows = {"inputs": INPUTS, "labels": OWN_LABELS, "maps": known}
    return View("helper", {"maps": seen}, knows, shape=(1, SIDE, SIDE), classes=CLASSES)


def one_map(inputs: Tensor) -> Tensor:
    """Returns one map, 12 x 12, of a convolution of eight whose weights nobody trained."""
    weight = torch.randn(8, 1, 5, 5, generator=torch.Generator().manual_seed(5))
    maps = nn.functional.conv2d(inputs, weight).relu()
    return maps[:, 3:4]


def judged(of: View) -> tuple[Finding, float]:
    """Returns what the attack scores beside its floors, the class mean among them, and how many classes it names."""
    found = ATTACK(of, seeded(0))
    told = dataclasses.replace(of, seen=of.seen | {"labels": LABELS})
    finding = judge_reconstruction("partial-maps", told, found, TRUTH, LABELS)
    assert found.labels is not None
    return finding, float((found.labels == LABELS).double().mean())


def best_floor(finding: Finding) -> float:
    return max(finding.floor[f"ssim_{kind}"] for kind in ("black", "mean", "class_mean"))


def test_one_map_of_a_random_layer_beats_every_floor() -> None:
    finding, named = judged(view(one_map(INPUTS), one_map(TRUTH)))
    assert finding.metrics["ssim_low"] > best_floor(finding) + 0.3
    assert finding.metrics["reidentified"] > 0.8
    assert named > 0.5


@pytest.mark.parametrize("nothing", ["zeros", "noise"])
def test_what_holds_nothing_of_the_image_beats_no_floor(nothing: str) -> None:
    def made(count: int, seed: int) -> Tensor:
        noise = torch.rand(count, 1, 12, 12, generator=torch.Generator().manual_seed(seed))
        return noise if nothing == "noise" else torch.zeros_like(noise)

    finding, named = judged(view(made(OWN, 6), made(SEEN, 7)))
    assert finding.metrics["ssim"] < best_floor(finding) + 0.02
    assert finding.metrics["reidentified"] < 0.08
    assert named < 1 / CLASSES + 0.15


def test_all_that_was_received_is_used_whatever_its_shape() -> None:
    """Each tensor tells of one part of the image; only together they tell of all."""

    def parts(inputs: Tensor) -> dict[str, Tensor]:
        quarter = inputs[..., : SIDE // 2, SIDE // 2 :]
        return {
            "large": torch.nn.functional.pad(inputs[..., : SIDE // 2], (0, 24, 0, 16)),
            "small": nn.functional.avg_pool2d(quarter, 2).half(),
            "values": inputs[..., SIDE // 2 :, SIDE // 2 :].flatten(1),
        }

    known, seen = parts(INPUTS), parts(TRUTH)

    def scored(*names: str) -> float:
        held = {name: seen[name] for name in names}
        mine = View("helper", held, {"inputs": INPUTS} | known, shape=(1, SIDE, SIDE), classes=CLASSES)
        found = PartialMaps(epochs=4, width=16)(mine, seeded(0))
        assert found.labels is None
        return judge_reconstruction("partial-maps", mine, found, TRUTH, LABELS).metrics["ssim"]

    alone = [scored(name) for name in known]
    assert scored(*known) > max(alone) + 0.05


def test_the_same_seed_gives_the_same_answer_and_the_rest_of_the_world_is_left_alone() -> None:
    mine = view(one_map(INPUTS), one_map(TRUTH))
    small = PartialMaps(epochs=1, width=8, batch_size=599)  # 600 pairs: the last batch would be a single one
    torch.manual_seed(1)
    first, state = small(mine, seeded(0)).inputs, torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(first, small(mine, seeded(0)).inputs)
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())
    assert first.shape == TRUTH.shape
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    told = dataclasses.replace(mine, seen=mine.seen | {"labels": LABELS})
    assert torch.equal(first, small(told, seeded(0)).inputs)  # labels in seen are not looked at


def test_a_view_that_lacks_something_is_refused() -> None:
    known, seen = one_map(INPUTS), one_map(TRUTH)
    good = view(known, seen)
    few = {key: value[:49] for key, value in good.knows.items()}
    for changes in (
        {"seen": {}},
        {"seen": {"labels": LABELS}},
        {"seen": {"others": seen}},
        {"seen": {"maps": seen[:, :, 1:]}},
        {"seen": {"maps": seen.flatten(2)}, "knows": good.knows | {"maps": known.flatten(2)}},
        {"seen": {"maps": torch.full_like(seen, torch.nan)}},
        {"knows": few},
        {"knows": {"maps": known}},
        {"shape": (1, SIDE, SIDE + 1)},
        {"shape": (SIDE * SIDE,)},
    ):
        with pytest.raises(InputError):
            ATTACK(dataclasses.replace(good, **changes), seeded(0))


@pytest.fixture(scope="module")
def lenet() -> Network:
    torch.manual_seed(0)
    return paper_network("lenet")


def plan(network: Network, tolerance: float, fleet: str) -> Plan:
    found = Distprivacy()(workload(network, tolerance), named_fleet(fleet).fresh())
    assert isinstance(found, Plan)
    return found


def through(network: Network, inputs: Tensor) -> dict[str, Tensor]:
    """Returns what goes into each layer, of the whole network."""
    into, value = {}, inputs
    for layer in network.layers:
        into[layer.name] = value
        value = apply(layer, value)
    return into


def test_partial_maps_of_all_senders_and_the_bias_are_the_map(lenet: Network) -> None:
    mine, inputs = plan(lenet, 0.2, "paper:36"), torch.rand(3, 1, 28, 28)
    whole = through(lenet, inputs)
    bias = next(layer.bias for layer in lenet.layers if layer.name == "convolution2")
    counted: set[int] = set()
    for helper in map(int, mine.usage.devices):
        if helper == mine.fleet.helpers:
            continue
        held = received(lenet, mine, helper, inputs)
        for task, owners in zip(mine.load.tasks, mine.owners, strict=True):
            assert (task.name in held) == (helper in owners)
        if "pooling2" not in held:
            continue
        maps = [at for at, owner in enumerate(mine.owners[4].tolist()) if owner == helper]
        counted.update(maps)
        partial = [value for name, value in held.items() if name.startswith("pooling2 from ")]
        assert len(partial) == 8  # what (8f) does not count
        torch.testing.assert_close(sum(partial) + bias[maps, None, None], whole["pooling2"][:, maps])
        torch.testing.assert_close(held["pooling2"], whole["pooling2"][:, maps])
    assert counted == set(range(16))


def test_who_holds_linear_layers_holds_all_their_inputs(lenet: Network) -> None:
    mine, inputs = plan(lenet, 0.4, "paper:8"), torch.rand(2, 1, 28, 28)
    whole = through(lenet, inputs)
    helper = int(mine.owners[[task.name for task in mine.load.tasks].index("linear2")][0])
    held = received(lenet, mine, helper, inputs)
    assert set(held) == {"hidden1", "linear2", "hidden2"}
    for name, value in held.items():
        torch.testing.assert_close(value, whole[name])


def test_the_source_another_network_and_a_stranger_are_refused(lenet: Network) -> None:
    mine, inputs = plan(lenet, 0.4, "paper:8"), torch.rand(2, 1, 28, 28)
    for helper in (8, 9, -1):
        with pytest.raises(InputError, match="no helper"):
            received(lenet, mine, helper, inputs)
    with pytest.raises(InputError, match="another network"):
        received(paper_network("cifar", weights=False), mine, 0, inputs)


def test_fewer_maps_never_tell_more_once_the_maximum_runs() -> None:
    falling = 0
    for row in (row for rows in TABLE.values() for row in rows):
        counts = [row.maps >> step for step in range(len(row.similarity))]
        running = [row.at(count) for count in counts]
        assert running == sorted(running, reverse=True)
        assert all(row.at(count) >= row.at(count, running=False) for count in counts)
        falling += running != list(row.similarity)
    assert falling == 7  # so many rows of the printed table are not monotone
    celeba = TABLE["vgg19"][-1]
    assert (celeba.at(512, running=False), celeba.at(512)) == (0.26, 0.39)


def test_the_page_says_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples" / "paper_001")
    from table_i_drawing import lines, verdict

    table = json.loads((ROOT / "docs" / "figures" / "paper_001_table_i.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "explanation" / "what-helpers-see.md").read_text(encoding="utf-8")
    shown = [row for network in ("lenet", "cifar", "vgg19") for row in TABLE[network]]
    assert table["verdicts"] == [verdict(row, table["rows"]) for row in shown]
    for line in [*lines(table["rows"]), *(f"- {said}" for said in table["verdicts"])]:
        assert line in page.splitlines()
