"""Helpers as processes of their own on loopback: blinded answers, failures in mid-request, certificates, commands."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from privet import parts
from privet.apps.cli.main import main
from privet.errors import RefusedError
from privet.inference.distributed import sharing
from privet.inference.distributed.founding import ADDRESSES, found
from privet.inference.distributed.messages import LIMIT
from privet.inference.distributed.networks import PAPER, described
from privet.inference.distributed.source import Source
from privet.inference.obfuscation import Trained
from privet.models.mlp import Mlp
from privet.transport.certificates import Authority
from privet.transport.contract import Peer
from privet.transport.grpc import GrpcClient
from privet.transport.identity import Identity

pytestmark = pytest.mark.usefixtures("one_thread")
RUN = "from privet.apps.cli.main import main; main()"
ODD = Path(__file__).parents[2] / "examples" / "distributed" / "odd_helper.py"
HOW_MUCH = {"lies": str(2**31), "slow": "60"}
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def begin(folder, kind):
    command = [sys.executable, str(ODD), str(folder), kind, HOW_MUCH.get(kind, "0")]
    if kind in ("honest", "records"):
        command = [sys.executable, "-c", RUN, "helper", "--folder", str(folder), "--listen", "127.0.0.1:0"]
        command += ["--record"] if kind == "records" else []
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)


@contextmanager
def home(folder, *kinds):
    """Runs helper processes; yields the source's folder, the processes, and the ways to them."""
    peers = [Peer("helper", f"helper-{at}") for at in range(len(kinds))]
    found(folder, dict.fromkeys(peers, "127.0.0.1:1"))
    processes = [begin(folder / peer.name, kind) for peer, kind in zip(peers, kinds, strict=True)]
    clients = {}
    try:
        identity = Identity.load(folder / "source")
        where = {peer: process.stdout.readline().split()[-1] for peer, process in zip(peers, processes, strict=True)}
        (folder / "source" / ADDRESSES).write_text(json.dumps({str(peer): at for peer, at in where.items()}))
        clients = {peer: GrpcClient(at, peer, identity, LIMIT) for peer, at in where.items()}
        yield folder / "source", processes, clients
    finally:
        for client in clients.values():
            client.close()
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    table, shape, classes = PAPER["lenet"]
    return parts.build("models", table).build(shape, classes).eval()


@pytest.fixture(scope="module")
def network(module):
    return described(module, PAPER["lenet"][1], "lenet")


def digits(count):
    data = parts.build("datasets", {"name": "mnist-10k"}).load()
    return torch.from_numpy(data.test_inputs[:count])


def same(answer, network, images):
    return torch.equal(answer.outputs.argmax(1), network(images).argmax(1))


def test_four_processes_answer_as_the_undistributed_network_does(tmp_path, network, monkeypatch):
    for name in ("PATIENCE", "LEAST_PATIENCE", "TIMEOUT"):  # on a busy machine all four may be late at once
        monkeypatch.setattr(sharing, name, 60.0)
    images = digits(1000)
    with home(tmp_path / "home", *["honest"] * 4) as (folder, _, clients):
        source = Source(network, clients, folder / "masks", where="helpers")
        answers = [source.infer(batch) for batch in images.split(250)]
        source.close()
    assert all(same(answer, network, batch) for answer, batch in zip(answers, images.split(250), strict=True))
    assert not any(answer.outcome.here or answer.outcome.redone for answer in answers)


def test_any_helper_killed_in_mid_request_changes_nothing_and_is_not_waited_for(tmp_path, network, monkeypatch):
    monkeypatch.setattr(sharing, "TIMEOUT", 60.0)
    images = digits(200)
    with home(tmp_path / "home", *["honest"] * 4) as (folder, processes, clients):
        source = Source(network, clients, folder / "masks", where="helpers")
        source.infer(images)  # takes longer than any later one
        whole = source.infer(images)
        for at in (0, 2):
            source.prepare(len(images))
            timer = threading.Timer(0.3 * whole.seconds, processes[at].send_signal, (signal.SIGKILL,))
            timer.start()
            answer = source.infer(images)
            timer.join()
            assert same(answer, network, images)
            assert answer.seconds < whole.seconds + 10  # about half a second; a busy machine takes longer
        # The other two are there still; all at once would leave the source alone, which it survives, too.
        processes[1].kill()
        processes[3].kill()
        assert same(source.infer(images), network, images)
        source.close()
    assert source.sharing.liars == []


def test_a_liar_and_a_dawdler_are_caught_and_the_rest_is_the_answer(tmp_path, network, monkeypatch):
    monkeypatch.setattr(sharing, "TIMEOUT", 60.0)  # as long as the dawdler takes for each layer
    images = digits(100)
    with home(tmp_path / "home", "honest", "lies", "slow", "honest") as (folder, _, clients):
        source = Source(network, clients, folder / "masks", where="helpers")
        source.prepare(len(images))
        begin_s = time.monotonic()
        answer = source.infer(images)
        assert time.monotonic() - begin_s < 10
        source.close()
    assert same(answer, network, images)
    assert [str(peer) for peer in source.sharing.liars] == ["helper/helper-1"]
    assert answer.outcome.hedged >= 1


def test_strangers_and_other_helpers_are_not_let_in(tmp_path):
    with home(tmp_path / "home", "honest") as (folder, _, clients):
        (peer,) = clients
        address = json.loads((folder / ADDRESSES).read_text())[str(peer)]
        other = Authority.create("others")
        key, certificate = other.issue("source/source")
        own = Identity.load(folder)
        stranger = Identity(key, certificate, own.authority)
        helper = Identity.load(folder.parent / "helper-0")
        for identity in (stranger, helper):
            client = GrpcClient(address, peer, identity, LIMIT)
            with pytest.raises(RefusedError):
                client.call("hello", b"", 3)
            client.close()
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/privet/hello")(b"", timeout=2)
        wrong = GrpcClient(address, Peer("helper", "another"), own, LIMIT)
        with pytest.raises(RefusedError):
            wrong.call("hello", b"", 3)
        wrong.close()


@pytest.fixture
def command(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as done:
            main([str(each) for each in arguments])
        return done.value.code, *capsys.readouterr()

    return run


def test_the_commands_infer_blinded_and_as_published_and_record_what_helpers_see(command, tmp_path, module, network):
    images = digits(6)
    np.save(tmp_path / "images.npy", images.numpy())
    save_file(module.state_dict(), tmp_path / "weights.safetensors")
    given = ["--model", "lenet", "--weights", tmp_path / "weights.safetensors", "--input", tmp_path / "images.npy"]
    with home(tmp_path / "home", *["records"] * 4) as (folder, processes, _):
        made = {}
        for protocol in ("blinded", "distributed"):
            status, out, err = command(
                "infer", "--protocol", protocol, "--folder", folder, "--where", "helpers", *given, "--json"
            )
            assert (status, err) == (0, "")
            made[protocol] = json.loads(out)
            assert made[protocol]["classes"] == network(images).argmax(1).tolist()
            assert made[protocol]["left"] == list(range(6))
        part = Mlp((8,))
        own = Trained(part, part.build(network.inputs, 10).eval(), network.inputs, 10)
        own.save(tmp_path / "own")
        status, out, _ = command(
            *("infer", "--folder", folder, "--where", "helpers", *given, "--json"),
            *("--own-model", tmp_path / "own", "--offload", 0.5),
        )
        some, mine = json.loads(out), own.answer(images)
        assert status == 0
        assert some["left"] == mine.softmax(1).amax(1).topk(3, largest=False).indices.sort().values.tolist()
        mine[some["left"]] = network(images[some["left"]]).to(mine.dtype)
        assert some["classes"] == mine.argmax(1).tolist()
        assert 0 < some["bytes"] < made["blinded"]["bytes"]
        assert made["blinded"]["at_source"] == []
        assert made["distributed"]["run_locally"] is False
        for process in processes:
            process.terminate()
        assert [process.wait(10) for process in processes] == [0] * 4
        names = [set(load_file(folder.parent / f"helper-{at}" / "view.safetensors")) for at in range(4)]
    assert all("layer1.masked" in seen for seen in names)
    assert any("convolution2.received" in seen for seen in names)
    status, out, _ = command("infer", "--folder", folder, *given)
    assert status == 0
    assert "run locally: no helper answers" in out


def test_a_model_that_was_trained_here_is_asked_by_its_folder(command, tmp_path):
    part = parts.build("models", {"name": "lenet"})
    trained = Trained(part, part.build((1, 28, 28), 10).eval(), (1, 28, 28), 10)
    trained.save(tmp_path / "model")
    images = torch.rand(3, 1, 28, 28)
    np.save(tmp_path / "images.npy", images.numpy())
    command("helper", "--folder", tmp_path / "home", "--found", 2, "--port", 7900)
    asking = ["infer", "--folder", tmp_path / "home" / "source", "--model", tmp_path / "model"]
    asking += ["--input", tmp_path / "images.npy", "--where", "here"]
    status, out, err = command(*asking, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["classes"] == trained.answer(images).argmax(1).tolist()
    status, _, err = command(*asking, "--weights", tmp_path / "model" / "model.safetensors")
    assert (status, err.count("\n")) == (2, 1)
    assert "has its own" in err


def test_the_commands_say_what_is_wrong_in_one_line(command, tmp_path, module):
    status, out, _ = command("helper", "--folder", tmp_path / "home", "--found", 2, "--preparers", 1, "--port", 7900)
    assert status == 0
    assert "2 helpers and 1 preparers" in out
    known = json.loads((tmp_path / "home" / "source" / ADDRESSES).read_text())
    assert known == {
        "helper/helper-1": "127.0.0.1:7900",
        "helper/helper-2": "127.0.0.1:7901",
        "preparer/preparer-1": "127.0.0.1:7902",
    }
    save_file(module.state_dict(), tmp_path / "weights.safetensors")
    np.save(tmp_path / "images.npy", np.zeros((1, 3, 8, 8)))
    np.save(tmp_path / "scalar.npy", np.float32(0))
    given = ["--weights", tmp_path / "weights.safetensors", "--input", tmp_path / "images.npy"]
    lenet = ["infer", "--folder", tmp_path / "home" / "source", "--model", "lenet", *given]
    for arguments, wanted, text in (
        (["helper", "--folder", tmp_path / "home" / "helper-1"], 2, "--listen"),
        (["helper", "--folder", tmp_path, "--listen", "127.0.0.1:0"], 2, "missing"),
        (["infer", "--folder", tmp_path / "home" / "source", "--model", "lenett", *given], 2, "did you mean 'lenet'"),
        (["infer", "--folder", tmp_path / "home" / "source", "--model", "cifar", *given], 2, "does not fit cifar"),
        ([*lenet[:5], *given[2:]], 2, "Missing option '--weights'"),
        (lenet, 2, "inputs of shape (1, 3, 8, 8); allowed: (n, 1, 28, 28)"),
        ([*lenet, "--input", tmp_path / "scalar.npy"], 2, "inputs of shape ()"),
        ([*lenet, "--offload", 0.5], 2, "--own-model"),
        ([*lenet, "--own-model", tmp_path / "own"], 2, "one of '--offload' and '--threshold'"),
        ([*lenet, "--own-model", tmp_path / "own", "--offload", 0.5], 2, "model.json is missing"),
    ):
        status, _, err = command(*arguments)
        assert (status, err.count("\n")) == (wanted, 1), err
        assert text in err
