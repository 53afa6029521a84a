"""Helpers and their source in one process: shares, failures, lies, weights by address, plans run as published."""

import threading
import time

import pytest
import torch
from torch import nn

from privet import parts
from privet.errors import InputError, RefusedError, UnreachableError
from privet.fleet.profile import find_profile
from privet.inference.distributed import multiplier as helper_module
from privet.inference.distributed import seen as seen_module
from privet.inference.distributed import sharing as sharing_module
from privet.inference.distributed import source as source_module
from privet.inference.distributed import standings as standings_module
from privet.inference.distributed.contents import PIECE, Contents, address_of, float_content, whole_content
from privet.inference.distributed.fixed_point import FIELD, Kernel
from privet.inference.distributed.fleets import fleet_of
from privet.inference.distributed.founding import addresses, found
from privet.inference.distributed.messages import field, packed, unpacked
from privet.inference.distributed.multiplier import Helper, serve
from privet.inference.distributed.networks import PAPER, Flatten, described, paper_network
from privet.inference.distributed.received import received
from privet.inference.distributed.relay import Relay
from privet.inference.distributed.seen import Seen
from privet.inference.distributed.segments import computed, piece_of, run
from privet.inference.distributed.source import Source
from privet.inference.distributed.workload import workload
from privet.transport.contract import Peer
from privet.transport.identity import Identity
from privet.transport.memory import Exchange

pytestmark = pytest.mark.usefixtures("one_thread")
ME = Peer("source", "camera")
LIMIT = 1 << 26


class Odd(Helper):
    """A helper with something wrong."""

    def __init__(self, folder, kind, party):
        super().__init__(folder, party=party)
        self.kind, self.calls = kind, 0

    def product(self, kernel, values):
        self.calls += 1
        made = super().product(kernel, values)
        if self.kind == "lies":
            made[-1, -1].view(-1)[-1] += 2**31
        if self.kind == "slow":
            time.sleep(0.3)
        if self.kind == "breaks":
            raise UnreachableError("out of breath")
        if self.kind == "short":
            made = made[:, :0]
        if self.kind == "few":
            made = made[:-1]
        return made


class Home:
    """Some helpers, and ways to them."""

    def __init__(self, folder, kinds, role="helper"):
        self.exchange, self.folder = Exchange(), folder
        self.peers = [Peer(role, f"{role}-{at}") for at in range(len(kinds))]
        self.helpers = [Odd(folder / p.name, kind, str(p)) for p, kind in zip(self.peers, kinds, strict=True)]
        for peer, each in zip(self.peers, self.helpers, strict=True):
            self.exchange.services[peer] = each.service

    def clients(self):
        return {peer: self.exchange.client(ME, peer, LIMIT) for peer in self.peers}

    def lose(self, at):
        self.exchange.cut.add(frozenset((ME, self.peers[at])))


@pytest.fixture(scope="module")
def lenet():
    torch.manual_seed(0)
    return paper_network("lenet")


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(sharing_module, "PATIENCE", 0.1)


def source(home, network, where="helpers", **options):
    return Source(network, home.clients(), home.folder / "masks", where=where, **options)


def close(answer, network, images):
    alone = network(images).double()
    return torch.allclose(answer.outputs, alone, atol=1e-3 * float(alone.abs().max()))


@pytest.mark.parametrize(
    "kinds",
    [
        ["honest"] * 4,
        ["lies", "honest", "honest"],
        ["honest", "lies", "lies"],
        ["lies", "lies"],
        ["breaks", "honest"],
        ["breaks"],
        ["short", "honest"],
        ["few", "honest"],
        ["slow", "honest"],
        ["slow", "lies", "breaks", "honest"],
        [],
    ],
    ids="-".join,
)
def test_the_answer_is_the_same_whatever_helpers_do(tmp_path, lenet, kinds):
    home, images = Home(tmp_path, kinds), torch.rand(4, 1, 28, 28)
    made = source(home, lenet)
    answers = [made.infer(images).outputs for _ in range(2)]
    alone = source(Home(tmp_path / "alone", []), lenet)
    # Products are exact: not near, but the same to the last bit.
    assert all(torch.equal(each, alone.infer(images).outputs) for each in answers)
    assert torch.allclose(answers[0], lenet(images).double(), atol=1e-3)
    liars = [peer for peer, kind in zip(home.peers, kinds, strict=True) if kind == "lies"]
    assert set(made.sharing.liars) <= set(liars)
    if "slow" not in kinds:
        assert made.sharing.liars == liars
    made.close()
    alone.close()


def test_who_lies_is_named_once_and_asked_no_more(tmp_path, lenet):
    home = Home(tmp_path, ["honest", "lies", "honest"])
    made = source(home, lenet)
    first = made.infer(torch.rand(2, 1, 28, 28))
    calls = home.helpers[1].calls
    second = made.infer(torch.rand(2, 1, 28, 28))
    assert [line for line in first.outcome.said if "wrong answer" in line] == [
        "helper/helper-1 gave a wrong answer in layer 0 and is asked no more"
    ]
    assert (first.outcome.redone, second.outcome.redone, home.helpers[1].calls) == (1, 0, calls)
    made.close()


def test_a_helper_lost_between_layers_costs_one_part_and_comes_back(tmp_path, lenet, monkeypatch):
    monkeypatch.setattr(standings_module, "AWAY", 0.0)
    home, images = Home(tmp_path, ["honest"] * 3), torch.rand(2, 1, 28, 28)
    made = source(home, lenet)
    made.infer(images)
    home.lose(0)
    lost = made.infer(images)
    assert lost.outcome.redone >= 1
    assert "helper-0 failed" in lost.outcome.said[0]
    home.exchange.cut.clear()
    for standing in made.sharing.standings._of.values():
        standing.away_until = 0.0
    calls = home.helpers[0].calls
    assert made.infer(images).outcome.redone == 0
    assert home.helpers[0].calls > calls
    made.close()


def test_a_late_answer_is_hedged_and_its_helper_left_alone_until_it_answers(tmp_path, lenet):
    home, images = Home(tmp_path, ["honest", "slow", "honest"]), torch.rand(2, 1, 28, 28)
    made = source(home, lenet)
    begin = time.monotonic()
    answer = made.infer(images)
    assert time.monotonic() - begin < 1
    assert answer.outcome.hedged >= 1
    assert "is late in layer 0" in answer.outcome.said[0]
    assert made.infer(images).outcome.hedged <= 1
    made.close()


def test_without_a_helper_the_source_multiplies_and_says_so(tmp_path, lenet):
    home, images = Home(tmp_path, ["honest"]), torch.rand(2, 1, 28, 28)
    home.lose(0)
    made = source(home, lenet)
    answer = made.infer(images)
    assert answer.outcome.here == 5
    assert "does not answer" in made.met.said[0]
    assert any("no other helper is left" in line for line in answer.outcome.said)
    assert close(answer, lenet, images)
    made.close()
    auto = source(Home(tmp_path / "b", []), lenet, "auto")
    assert auto.infer(images).outcome.said == ["run locally: no helper answers"]
    auto.close()
    asked = source(Home(tmp_path / "c", ["honest"]), lenet, "here")
    assert "as asked" in asked.infer(images).outcome.said[0]
    asked.close()


def test_auto_runs_locally_what_helpers_would_not_speed_up(tmp_path, lenet, monkeypatch):
    monkeypatch.setattr(source_module, "speed", lambda kind: 1e15)
    home = Home(tmp_path, ["honest"])
    made = source(home, lenet, "auto")
    answer = made.infer(torch.rand(1, 1, 28, 28))
    assert answer.at_source == (0, 1, 2, 3, 4)
    assert answer.outcome.said == ["run locally: helpers would take longer"]
    made.close()
    monkeypatch.setattr(source_module, "speed", lambda kind: 1.0)
    made = source(home, lenet, "auto")
    assert made.infer(torch.rand(1, 1, 28, 28)).at_source == ()
    made.close()


def test_weights_travel_once_and_survive_a_restart(tmp_path, lenet, monkeypatch):
    put, real = [], Contents.put
    monkeypatch.setattr(Contents, "put", lambda *args: put.append(args[1]) or real(*args))
    made = source(Home(tmp_path, ["honest", "honest"]), lenet)
    made.infer(torch.rand(1, 1, 28, 28))
    assert len(put) == len(set(put)) * 2 == 10
    made.close()
    again = Home(tmp_path, ["honest", "honest"])
    made = source(again, lenet)
    made.infer(torch.rand(1, 1, 28, 28))
    assert len(put) == 10
    for file in (tmp_path / again.peers[0].name / "weights").iterdir():
        file.unlink()
    again.helpers[0].contents._kernels.clear()
    made.infer(torch.rand(1, 1, 28, 28))
    assert len(put) == 15, "a helper that lost its weights is given them again, in the call that finds out"
    made.close()


def test_a_winner_that_rounding_could_have_chosen_is_decided_by_the_source(tmp_path, lenet):
    home, images = Home(tmp_path, ["honest"]), torch.rand(3, 1, 28, 28)
    twins = described(_twins(lenet), (1, 28, 28), "lenet")
    made = source(home, twins)
    answer = made.infer(images)
    assert answer.outcome.close == 3
    assert "3 images have two winners" in answer.outcome.said[-1]
    assert torch.equal(answer.outputs.argmax(1), twins(images).argmax(1))
    made.close()
    plain = source(Home(tmp_path / "b", ["honest"]), lenet)
    assert 0 < plain.tolerance < 0.01
    plain.close()
    single = described(nn.Sequential(nn.Flatten(), nn.Linear(784, 1)), (1, 28, 28))
    one = source(Home(tmp_path / "c", ["honest"]), single)
    assert close(one.infer(images), single, images)
    one.close()


def _twins(network):
    """Returns LeNet with two classes that are alike but for a hair, and win."""
    table, shape, classes = PAPER["lenet"]
    module = parts.build("models", table).build(shape, classes)
    with torch.no_grad():
        module.logits.weight[1] = module.logits.weight[0]
        module.logits.bias[:2] = torch.tensor([9.0, 9.000001])
    return module


def test_several_requests_in_flight_are_each_answered_right(tmp_path, lenet):
    home, wrong = Home(tmp_path, ["honest"] * 3), []
    made = source(home, lenet)
    batches = [torch.rand(2 + at % 2, 1, 28, 28) for at in range(8)]
    made.prepare(2)

    def ask(images):
        if not close(made.infer(images), lenet, images):
            wrong.append(images)

    threads = [threading.Thread(target=ask, args=(images,)) for images in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    made.close()
    sent: dict[int, set[str]] = {}
    for each in home.helpers:
        seen = each.seen.view().seen
        for number, message in zip(seen["layer1.masked.images"].tolist(), seen["layer1.masked"], strict=True):
            sent.setdefault(number, set()).add(str(message.flatten().tolist()))
    assert len(sent) == sum(map(len, batches))
    assert all(len(messages) == 1 for messages in sent.values()), "one mask, one message"


def test_a_preparer_works_out_the_products_and_is_no_helper(tmp_path, lenet):
    online, offline = Home(tmp_path / "on", ["honest"] * 2), Home(tmp_path / "off", ["lies", "honest"], "preparer")
    made = source(online, lenet, preparers=offline.clients())
    images = torch.rand(2, 1, 28, 28)
    made.prepare(2)
    taken = made.masks.next
    answer = made.infer(images)
    assert close(answer, lenet, images)
    assert made.masks.next == taken
    assert [str(peer) for peer in made.preparing.liars] == ["preparer/preparer-0"]
    # What a preparer and a helper see together, and why they must not collude: the difference is the image.
    masked, mask = (each.seen.view().seen["layer0.masked"] for each in (online.helpers[0], offline.helpers[1]))
    whole, _ = made.blinded.layers[0].quantised(images, FIELD)
    assert torch.equal(FIELD.centred(FIELD.reduced(masked - mask)), whole)
    assert not torch.equal(masked, mask)
    made.close()
    with pytest.raises(InputError, match="is no helper"):
        Source(lenet, offline.clients(), tmp_path / "m")
    with pytest.raises(InputError, match="is no preparer"):
        Source(lenet, {}, tmp_path / "m", preparers=online.clients())
    both = Peer("preparer", "helper-0"), online.exchange.client(ME, online.peers[0], LIMIT)
    with pytest.raises(InputError, match="never meet"):
        Source(lenet, online.clients(), tmp_path / "m", preparers=dict([both]))


def test_a_source_whose_counter_went_back_is_told_by_its_helpers(tmp_path, lenet):
    home = Home(tmp_path, ["honest"])
    made = source(home, lenet)
    old = (tmp_path / "masks" / "masks.next").read_bytes()
    made.infer(torch.rand(3, 1, 28, 28))
    made.close()
    (tmp_path / "masks" / "masks.next").write_bytes(old)
    restarted = Home(tmp_path, ["honest"])
    with pytest.raises(RefusedError, match=r"it is at 0, helper/helper-0 has seen 2"):
        source(restarted, lenet)
    (tmp_path / "masks" / "masks.next").unlink()
    (tmp_path / "masks" / "masks.key").unlink()
    source(restarted, lenet).close()


def test_prepared_masks_are_bounded_and_wrong_inputs_use_none(tmp_path, lenet, monkeypatch):
    made = source(Home(tmp_path, ["honest"]), lenet)
    before = made.masks.next
    for wrong in (torch.rand(1, 28, 28), torch.rand(0, 1, 28, 28), torch.full((1, 1, 28, 28), torch.nan)):
        with pytest.raises(InputError):
            made.infer(wrong)
    with monkeypatch.context() as patch:
        patch.setattr(source_module, "LIMIT", source_module.HEAD + 4 * 8 * 28 * 28)
        assert made.most == 1
        with pytest.raises(InputError, match="up to 1"):
            made.infer(torch.rand(2, 1, 28, 28))
    assert made.masks.next == before
    monkeypatch.setattr(source_module, "AHEAD", 1)
    made.prepare(1)
    with pytest.raises(RefusedError, match="enough masks"):
        made.prepare(1)
    made.close()


def test_messages_come_back_and_malformed_ones_are_refused():
    words, floats = torch.randint(0, 2**32, (2, 3)), torch.randn(4, 1)
    head, arrays = unpacked(packed({"a": [1, "b"]}, words, floats))
    assert head == {"a": [1, "b"]}
    assert torch.equal(arrays[0], words)
    assert torch.equal(arrays[1], floats)
    good = packed({}, words)
    for wrong in (b"", b"\0\0", good[:-1], good + b"\0", b"\xff\xff\xff\xff", b"\x02\0\0\0{}", b"\x02\0\0\0[]"):
        with pytest.raises(InputError, match="malformed"):
            unpacked(wrong)
    for arrays in ('[["words",[-1]]]', '[["words",[9,9,9,9,9,9,9]]]', '[["bytes",[1]]]', "[[1]]", "7"):
        text = f'{{"arrays":{arrays}}}'.encode()
        with pytest.raises(InputError, match="malformed"):
            unpacked(len(text).to_bytes(4, "little") + text)
    with pytest.raises(InputError, match="NaN"):
        unpacked(packed({}, torch.tensor([torch.nan])))
    with pytest.raises(InputError, match="lacks number"):
        field({"number": True}, "number", int)


def test_contents_are_taken_in_pieces_checked_and_bounded(tmp_path):
    kernel = Kernel(torch.randint(-9, 9, (300, 2000)).double())
    content = whole_content(kernel)
    address, held = address_of(content), Contents(tmp_path)
    assert held.lacks(address)
    with pytest.raises(InputError, match="not here"):
        held.kernel(address)
    with pytest.raises(InputError, match="does not fit"):
        held.put(address, PIECE, len(content), content[PIECE:])
    assert not held.put(address, 0, len(content), content[:PIECE])
    assert held.put(address, PIECE, len(content), content[PIECE:])
    assert held.put(address, 0, len(content), content[:PIECE])
    assert torch.equal(held.kernel(address).weight, kernel.weight)
    other = address_of(b"other")
    with pytest.raises(InputError, match="not what their address"):
        held.put(other, 0, 3, b"abc")
    assert held.lacks(other)
    with pytest.raises(InputError, match="malformed"):
        held.lacks("../../etc/passwd")
    (tmp_path / f"{address}.safetensors").write_bytes(b"damaged")
    (tmp_path / "x.part").write_bytes(b"")
    fresh = Contents(tmp_path)
    with pytest.raises(InputError, match="damaged"):
        fresh.kernel(address)
    assert fresh.lacks(address)
    assert not (tmp_path / "x.part").exists()
    with pytest.raises(RefusedError, match="no room"):
        Contents(tmp_path, memory=10).put(address, 0, len(content), content[:PIECE])


def test_the_least_recently_used_weights_leave_memory_first(tmp_path):
    kernels = [Kernel(torch.full((2, 50), float(at)).double()) for at in range(3)]
    contents = [whole_content(kernel) for kernel in kernels]
    held = Contents(tmp_path, memory=1700)
    for content in contents:
        held.put(address_of(content), 0, len(content), content)
        held.kernel(address_of(content))
    assert list(held._kernels) == [address_of(content) for content in contents[1:]]
    assert torch.equal(held.kernel(address_of(contents[0])).weight, kernels[0].weight)


def test_a_helper_refuses_what_makes_no_sense(tmp_path, lenet, monkeypatch):
    own, layer = Helper(tmp_path), lenet.layers[0]
    content = whole_content(Kernel(layer.weight.double().round(), layer.stride, layer.padding))
    own.contents.put(address_of(content), 0, len(content), content)
    good = {"address": address_of(content), "ring": "field", "first": 0, "last": 8, "number": 0, "layer": 0, "key": "k"}
    image = torch.randint(0, FIELD.modulus, (1, 1, 28, 28))
    ask = lambda head, *arrays: own.service["multiply"](ME, packed(head, *arrays))  # noqa: E731
    assert unpacked(ask(good, image))[1][0].shape == (1, 8, 28, 28)
    assert unpacked(ask(good | {"address": "0" * 64}, image))[0] == {"missing": "0" * 64}
    for head, arrays, match in (
        (good | {"ring": "other"}, (image,), "no batch"),
        (good, (), "no batch"),
        (good, (image[:0],), "no batch"),
        (good, (image.float(),), "not of the ring"),
        (good, (torch.full_like(image, FIELD.modulus),), "not of the ring"),
        (good | {"last": 9}, (image,), "rows 0 to 9"),
        (good | {"first": 8}, (image,), "rows 8 to 8"),
        (good, (image[0],), "does not fit"),
        (good, (image[:, :, :1, :1][:, :, :0],), "no batch"),
        (good | {"number": "x"}, (image,), "lacks number"),
    ):
        with pytest.raises(InputError, match=match):
            ask(head, *arrays)
    monkeypatch.setattr(helper_module, "WORKING", 1)
    with pytest.raises(UnreachableError, match="busy"):
        ask(good, image)


def test_a_helper_keeps_the_numbers_it_saw_of_each_peer_and_key(tmp_path, monkeypatch):
    monkeypatch.setattr(helper_module, "_KEYS", 2)
    own = Helper(tmp_path)
    for key, number in (("source/a k", 5), ("source/a k", 3), ("source/b k", 7)):
        own._note(key, number)
    again = Helper(tmp_path)
    assert unpacked(again.service["hello"](Peer("source", "a"), b""))[0]["keys"] == {"k": 5}
    again._note("source/c k", 1)
    assert unpacked(again.service["hello"](Peer("source", "a"), b""))[0]["keys"] == {}
    assert again.service["echo"](ME, b"xx") == b""
    (tmp_path / "numbers.json").write_text("[")
    with pytest.raises(InputError, match="damaged"):
        Helper(tmp_path)


def test_a_record_is_a_view_that_attacks_take(tmp_path, monkeypatch):
    record = Seen("helper/a")
    record.add("layer0.masked", 4, torch.ones(2, 3))
    record.add("layer0.masked", 0, torch.zeros(1, 3))
    record.add("layer0.masked", 4, torch.ones(2, 3))
    record.add("layer0.masked", 9, torch.ones(1, 5))
    view = record.view()
    assert view.party == "helper/a"
    assert view.seen["layer0.masked"].tolist() == [[0.0] * 3, [1.0] * 3, [1.0] * 3]
    assert view.seen["layer0.masked.images"].tolist() == [0, 4, 5]
    assert view.seen["layer0.masked.1"].shape == (1, 5)
    record.save(tmp_path / "a" / "view.safetensors")
    from safetensors.torch import load_file

    assert set(load_file(tmp_path / "a" / "view.safetensors")) == set(view.seen)
    monkeypatch.setattr(seen_module, "MOST", 10)
    with pytest.raises(RefusedError, match="full"):
        record.add("x", 0, torch.zeros(100))


@pytest.mark.parametrize("planner", ["distprivacy", "fused"])
@pytest.mark.parametrize("name", ["lenet", "cifar"])
def test_a_plan_run_on_helpers_answers_as_the_network_does_and_is_recorded(tmp_path, name, planner):
    network = paper_network(name)
    home, images = Home(tmp_path, ["honest"] * (8 if name == "lenet" else 40)), torch.rand(2, *network.inputs)
    relay = Relay(network, workload(network, 0.8), home.clients(), parts.build("planners", {"name": planner}))
    answer = relay.infer(images)
    again = relay.infer(images)
    assert torch.allclose(answer.outputs, network(images), atol=1e-4)
    assert torch.equal(answer.outputs, again.outputs)
    assert answer.plan is not None
    layers = [layer for layer in network.layers if not isinstance(layer, Flatten)]
    index = next(at for at, there in enumerate(answer.plan.load.at_source) if not there)
    device = int(answer.plan.owners[index][0])
    seen = home.helpers[device].seen.view().seen
    maps = seen[f"{layers[index].name}.maps"][0].tolist()
    assert maps == (answer.plan.owners[index] == device).nonzero()[0].tolist()
    received = seen[f"{layers[index].name}.received"]
    partial = nn.functional.conv2d(images, layers[0].weight, None, 1, layers[0].padding)[:, maps]
    assert len(received) == 4
    assert torch.allclose(received[:2].sum(1), partial, atol=1e-5)


def test_partial_maps_of_every_sender_are_in_the_record(tmp_path, lenet):
    home, images = Home(tmp_path, ["honest"] * 6), torch.rand(3, 1, 28, 28)
    relay = Relay(lenet, workload(lenet, 0.4), home.clients(), parts.build("planners", {"name": "distprivacy"}))
    plan = relay.infer(images).plan
    second = next(at for at, task in enumerate(plan.load.tasks) if task.name == "convolution2")
    senders = len(set(plan.owners[second].tolist()))
    after = {int(owner) for owner in plan.owners[second + 1]} - {6}
    for device in after:
        received = home.helpers[device].seen.view().seen[f"{plan.load.tasks[second + 1].name}.received"]
        assert received.shape[:2] == (3, senders)
    assert senders > 1


@pytest.mark.parametrize(("name", "helpers"), [("lenet", 6), ("cifar", 40)])
def test_what_the_runtime_records_is_what_the_plan_says_a_helper_receives(tmp_path, name, helpers):
    network = paper_network(name)
    home, images = Home(tmp_path, ["honest"] * helpers), torch.rand(2, *network.inputs)
    planner = parts.build("planners", {"name": "distprivacy"})
    plan = Relay(network, workload(network, 0.8), home.clients(), planner).infer(images).plan
    layers, compared = {layer.name: layer for layer in network.layers}, 0
    for device in range(helpers):
        seen, wanted = home.helpers[device].seen.view().seen, received(network, plan, device, images)
        assert {each.removesuffix(".received") for each in seen if each.endswith(".received")} == {
            each for each in wanted if each in layers
        }
        for each, values in wanted.items():
            layer, _, sender = each.partition(" from ")
            arriving = seen[f"{layer}.received"]
            index = [task.name for task in plan.load.tasks].index(layer)
            senders = sorted(set(plan.owners[index - 1].tolist()))
            if sender:
                assert torch.allclose(arriving[:, senders.index(int(sender))], values, atol=1e-4)
            elif arriving.shape[1] == 1 and plan.load.tasks[index - 1].kind != "convolution":
                assert torch.allclose(arriving.flatten(1), values.flatten(1), atol=1e-4)
            compared += 1
    assert compared > 10


def test_a_lost_helper_is_planned_around_until_the_source_is_alone(tmp_path, lenet):
    home, images = Home(tmp_path, ["honest"] * 5), torch.rand(2, 1, 28, 28)
    relay = Relay(lenet, workload(lenet, 0.4), home.clients(), parts.build("planners", {"name": "fused"}))
    plan = relay.infer(images).plan
    home.lose(int(plan.usage.devices[0]))
    answer = relay.infer(images)
    assert "failed and is left out" in answer.said[0]
    assert torch.allclose(answer.outputs, lenet(images), atol=1e-4)
    for at in range(5):
        home.lose(at)
    alone = relay.infer(images)
    assert alone.plan is None
    assert alone.said[-1].startswith("run locally: ")
    assert torch.equal(alone.outputs, lenet(images))
    with pytest.raises(InputError, match="shape"):
        relay.infer(torch.rand(1, 3, 28, 28))


def test_a_plan_that_is_slower_than_the_source_is_not_run_unless_asked(tmp_path, lenet):
    home = Home(tmp_path, ["honest"] * 6)
    chosen, load = parts.build("planners", {"name": "fused"}), workload(lenet, 0.4)
    relay = Relay(lenet, load, home.clients(), chosen, faster_only=True)
    answer = relay.infer(torch.rand(1, 1, 28, 28))
    assert answer.plan is None
    assert "alone" in answer.said[0]


def test_pieces_that_make_no_sense_are_refused(tmp_path):
    good = {"kind": "convolution", "maps": [0, 2], "kernel": [3, 3], "stride": [1, 1], "padding": [1, 1]}
    arrays, weight = [torch.rand(1, 2, 2, 5, 5), torch.zeros(2)], torch.rand(4, 3, 3, 3)
    assert computed(piece_of(good, arrays, weight), *arrays).shape == (1, 4, 5, 5)
    for change, given, held in (
        ({"maps": []}, arrays, weight),
        ({"maps": [0, -1]}, arrays, weight),
        ({"maps": [0, 3]}, arrays, weight),
        ({"maps": [0]}, arrays, weight),
        ({"kind": "other"}, arrays, weight),
        ({"kind": "relu"}, arrays, weight),
        ({}, arrays, None),
        ({"stride": [1]}, arrays, weight),
        ({"padding": [1, -1]}, arrays, weight),
        ({}, arrays[:1], weight),
        ({}, [arrays[0][0], arrays[1]], weight),
    ):
        with pytest.raises(InputError):
            piece_of(good | change, given, held)
    wide = piece_of(good | {"kind": "linear"}, arrays, torch.rand(4, 7))
    with pytest.raises(InputError, match="shapes"):
        computed(wide, *arrays)
    own = Helper(tmp_path)
    content = float_content(described(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), (3, 5, 5)).layers[0])
    head = good | {"address": address_of(content), "layer": "a", "number": 0}
    assert "missing" in unpacked(own.service["segment"](ME, packed(head, *arrays)))[0]
    own.contents.put(address_of(content), 0, len(content), content)
    assert unpacked(own.service["segment"](ME, packed(head, *arrays)))[1][0].shape == (1, 4, 5, 5)


def test_folders_of_a_home_have_certificates_and_addresses(tmp_path):
    places = {Peer("helper", "a"): "127.0.0.1:1", Peer("preparer", "b"): "[::1]:2"}
    found(tmp_path / "home", places)
    assert addresses(tmp_path / "home" / "source") == places
    assert Identity.load(tmp_path / "home" / "a").peer == Peer("helper", "a")
    with pytest.raises(InputError, match="not empty"):
        found(tmp_path / "home", places)
    with pytest.raises(InputError, match="host:port"):
        found(tmp_path / "other", {Peer("helper", "a"): "nowhere"})
    with pytest.raises(InputError, match="is no helper"):
        serve(Helper(tmp_path / "x"), Identity.load(tmp_path / "home" / "source"), "127.0.0.1:0")
    with pytest.raises(InputError, match="missing"):
        addresses(tmp_path)
    (tmp_path / "helpers.json").write_text("[]")
    with pytest.raises(InputError, match="malformed"):
        addresses(tmp_path)


def test_a_plan_is_run_segment_by_segment_in_one_process_too(lenet):
    fleet = fleet_of([find_profile("raspberry-pi-3")] * 6)
    plan = parts.build("planners", {"name": "fused"})(workload(lenet, 0.4), fleet.fresh())
    images = torch.rand(2, 1, 28, 28)
    made = run(lenet, plan, images, lambda device, index, piece, arriving, bias: computed(piece, arriving, bias))
    assert torch.allclose(made, lenet(images), atol=1e-5)
