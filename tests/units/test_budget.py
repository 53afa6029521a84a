"""Budgets: never exceeded, never forgotten, spent once a release, on any order of events and crashes."""

from __future__ import annotations

import math
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from dp_accounting import dp_event as events
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.accounting.accountants import epsilon
from privet.errors import InputError, RefusedError, RunError
from privet.governance import Book, Budget
from privet.governance.budget import Spent, price
from privet.ledger import Log
from privet.study.experiment import prepare
from privet.study.plan import Plan
from privet.study.run import run

Gaussian, Laplace = events.GaussianDpEvent, events.LaplaceDpEvent
BUDGET = Budget("device-001", "training", 2.0, 1e-5, "record")
EVENTS = st.one_of(
    st.floats(0.5, 200).map(Laplace),
    st.floats(2, 200).map(Gaussian),
    st.floats(1, 5).map(lambda noise: events.PoissonSampledDpEvent(0.01, Gaussian(noise))),
    st.just(events.NonPrivateDpEvent()),
)


def spend(book: Book, release: str, event: events.DpEvent, **fields: Any) -> bool:
    return book.spend(release, BUDGET.device, BUDGET.purpose, event, unit="record", **fields)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "budgets.jsonl"


class TestFilter:
    @settings(max_examples=15, derandomize=True)
    @given(
        asked=st.lists(st.tuples(st.integers(0, 5), EVENTS, st.integers(1, 20)), max_size=12),
        delta=st.sampled_from([0.0, 1e-5]),
    )
    def test_it_is_never_exceeded(self, asked: list[tuple[int, events.DpEvent, int]], delta: float) -> None:
        with tempfile.TemporaryDirectory() as folder:
            budget = Budget("device-001", "training", 2.0, delta, "record")
            happened: dict[str, tuple[events.DpEvent, int]] = {}
            with Book(Path(folder) / "log", [budget]) as book:
                for number, event, count in asked:
                    before = book.spent("device-001", "training")
                    try:
                        paid = spend(book, str(number), event, count=count)
                    except RefusedError:
                        assert book.spent("device-001", "training") == before
                        continue
                    except InputError:
                        assert happened[str(number)] != (event, count)
                        continue
                    assert paid == (str(number) not in happened)
                    happened[str(number)] = event, count
                spent = book.spent("device-001", "training")
            assert spent <= 2.0
            done = events.ComposedDpEvent([events.SelfComposedDpEvent(*one) for one in happened.values()])
            # The second route: what the accountants say of all that happened, had it been fixed in advance.
            assert epsilon(done, delta)[0] <= spent * (1 + 1e-9) + 1e-9
            with Book(Path(folder) / "log") as again:
                assert again.spent("device-001", "training") == spent

    def test_it_lets_through_nearly_what_the_accountants_would(self, path: Path) -> None:
        with Book(path, [BUDGET]) as book:
            done = 0
            with suppress(RefusedError):
                while spend(book, str(done), Gaussian(30.0)):
                    done += 1
        assert epsilon(Gaussian(30.0), 1e-5, count=done)[0] > 1.5

    def test_pure_losses_add_up_to_the_whole_budget(self, path: Path) -> None:
        with Book(path, [Budget("a", "b", 1.0, 0.0, "device")]) as book:
            assert all(book.spend(str(n), "a", "b", Laplace(4.0), unit="device") for n in range(4))
            assert book.spent("a", "b") == 1.0
            with pytest.raises(RefusedError):
                book.spend("one more", "a", "b", Laplace(1e6), unit="device")
            with pytest.raises(RefusedError):
                book.spend("gaussian", "a", "b", Gaussian(1e6), unit="device")

    def test_nothing_costs_nothing_and_no_noise_everything(self, path: Path) -> None:
        assert price(events.NoOpDpEvent()) == Spent()
        assert price(events.NonPrivateDpEvent()).epsilon(1e-5) == math.inf
        assert price(events.ZCDpEvent(0.1)).pure == math.inf
        assert Spent().epsilon(1e-5) == Spent().epsilon(0) == 0
        with pytest.raises(InputError, match="price"):
            price(events.UnsupportedDpEvent())

    def test_purposes_and_devices_are_apart(self, path: Path) -> None:
        others = [
            Budget("device-001", "counting", 1.0, 0, "record"),
            Budget("device-002", "training", 1.0, 0, "record"),
        ]
        with Book(path, [BUDGET, *others]) as book:
            spend(book, "1", Laplace(1.0))
            assert book.spent("device-001", "counting") == book.spent("device-002", "training") == 0
            assert book.spend("1", "device-002", "training", Laplace(1.0), unit="record")


class TestReleases:
    def test_the_same_release_is_paid_once(self, path: Path) -> None:
        with Book(path, [BUDGET]) as book:
            assert spend(book, "round 1", Laplace(2.0), count=2)
            assert not spend(book, "round 1", Laplace(2.0), count=2)
            assert book.spent("device-001", "training") == 1.0
            with pytest.raises(InputError, match="other noise"):
                spend(book, "round 1", Laplace(1.0), count=2)
            with pytest.raises(InputError, match="other noise"):
                spend(book, "round 1", Laplace(2.0))

    def test_a_refusal_writes_nothing(self, path: Path) -> None:
        with Book(path, [BUDGET]) as book:
            before = path.read_bytes()
            with pytest.raises(RefusedError) as refused:
                spend(book, "1", Gaussian(0.1))
            assert (path.read_bytes(), refused.value.exit_code) == (before, 3)

    def test_no_budget_means_no_release(self, path: Path) -> None:
        with Book(path) as book:
            with pytest.raises(RefusedError, match="no budget"):
                spend(book, "1", Laplace(1.0))
            with pytest.raises(RefusedError, match="no budget"):
                book.spent("device-001", "training")

    def test_units_do_not_mix(self, path: Path) -> None:
        with (
            Book(path, [BUDGET]) as book,
            pytest.raises(InputError, match="per device, the budget of device-001 per record"),
        ):
            book.spend("1", "device-001", "training", Laplace(1.0), unit="device")


class TestCrashes:
    @settings(max_examples=25, derandomize=True)
    @given(cut=st.floats(0, 1))
    def test_a_line_cut_short_is_a_release_that_did_not_happen(self, cut: float) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "log"
            with Book(path, [BUDGET]) as book:
                spend(book, "1", Laplace(4.0))
                whole = path.stat().st_size
                spend(book, "2", Laplace(8.0))
            written = path.read_bytes()
            kept = whole + int(cut * (len(written) - whole))
            path.write_bytes(written[:kept])
            with Book(path, [BUDGET]) as book:
                known = kept == len(written)
                assert book.spent("device-001", "training") == (0.375 if known else 0.25)
                assert spend(book, "2", Laplace(8.0)) is not known
                assert book.spent("device-001", "training") == 0.375

    def test_it_is_on_the_disk_before_the_release(self, path: Path) -> None:
        with Book(path, [BUDGET]) as book:
            spend(book, "1", Laplace(4.0))
            assert [record.kind for record in Log(path).records] == ["budget", "spent"]

    def test_forgetting_is_noticed(self, path: Path) -> None:
        with Book(path, [BUDGET]) as book:
            spend(book, "1", Laplace(4.0))
            spend(book, "2", Laplace(4.0))
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([lines[0], lines[2]]))
        with pytest.raises(RunError, match="verify"):
            Book(path)
        path.write_text("".join(lines))
        with Book(path) as book:  # the failed opening let the lock go
            assert book.spent("device-001", "training") == 0.5

    def test_one_process_at_a_time(self, path: Path) -> None:
        with Book(path, [BUDGET]), pytest.raises(RefusedError, match="another process"):
            Book(path)

    def test_a_budget_is_not_raised(self, path: Path) -> None:
        with Book(path, [BUDGET, BUDGET]):
            pass
        with pytest.raises(RefusedError, match="of epsilon 2 per record, not 3 per record"):
            Book(path, [Budget("device-001", "training", 3.0, 1e-5, "record")])


@pytest.mark.parametrize(("budget", "delta"), [(0, 1e-5), (math.inf, 1e-5), (math.nan, 0), (1, 1.0), (1, -0.1)])
def test_a_budget_has_a_range(budget: float, delta: float) -> None:
    with pytest.raises(InputError, match="a budget of"):
        Budget("a", "b", budget, delta, "record")


class TestPlan:
    TEXT = """
name = "tiny"
[data]
name = "mnist-10k"
[fleet]
devices = 3
examples_per_device = 20
[model]
name = "mlp"
[training]
name = "fedavg"
rounds = 2
[evidence]
alone = false
centralised = false
[privacy]
budget_epsilon = 20.0
budget_unit = "device"
[[mechanisms.on_device]]
name = "clip"
limit = 1.0
[[mechanisms.on_device]]
name = "gaussian"
sigma = 1.5
"""

    def plan(self, folder: Path, *settings: str) -> Plan:
        (folder / "plan.toml").write_text(self.TEXT)
        return Plan.load(folder / "plan.toml").with_settings(settings)

    def test_a_run_within_its_budget(self, tmp_path: Path) -> None:
        stated = prepare(self.plan(tmp_path)).plan.protocol.guarantees(prepare(self.plan(tmp_path)).promise)
        assert 1 < stated[0].epsilon < 20

    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            (("mechanisms.on_device.1.sigma=0.1",), "per device for one device's update"),
            (("privacy.budget_unit='record'",), "nothing in the plan guarantees any epsilon per record"),
        ],
    )
    def test_one_that_is_not_is_refused_before_anything_is_written(
        self, tmp_path: Path, settings: tuple[str, ...], says: str
    ) -> None:
        with pytest.raises(RefusedError, match=says) as refused:
            run(self.plan(tmp_path, *settings), out=tmp_path / "run")
        assert refused.value.exit_code == 3
        assert not (tmp_path / "run").exists()

    def test_runs_share_a_book_until_it_is_spent(self, tmp_path: Path) -> None:
        book, plan = tmp_path / "budgets.jsonl", self.plan(tmp_path, f"privacy.budget_book='{tmp_path}/budgets.jsonl'")
        spent = [run(plan, out=tmp_path / f"run-{number}").metrics["budget"]["epsilon_spent"] for number in range(2)]
        assert 0 < spent[0] < spent[1] <= 20
        assert prepare(plan).plan.protocol.guarantees(prepare(plan).promise)[0].epsilon <= spent[0]
        before = book.read_bytes()
        with pytest.raises(RefusedError, match="would raise epsilon"):
            run(plan, out=tmp_path / "third")
        assert not (tmp_path / "third").exists()
        assert book.read_bytes() == before
        names = ["device-000", "device-001", "device-002"]
        assert [record.body["device"] for record in Log(book).records if record.kind == "spent"] == names * 2

    def test_a_run_that_goes_on_pays_once(self, tmp_path: Path) -> None:
        plan = self.plan(tmp_path, f"privacy.budget_book='{tmp_path}/budgets.jsonl'")

        def stop(event: str, **figures: Any) -> None:
            if event == "round":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(plan, out=tmp_path / "run", progress=stop)
        before = (tmp_path / "budgets.jsonl").read_bytes()
        assert run(plan, resume=tmp_path / "run").metrics["budget"]["epsilon_spent"] > 0
        assert (tmp_path / "budgets.jsonl").read_bytes() == before

    def test_one_device_that_can_not_pay_refuses_for_all(self, path: Path) -> None:
        other = Budget("device-002", "training", 1.0, 0, "record")
        with Book(path, [BUDGET, other]) as book:
            before = path.read_bytes()
            with pytest.raises(RefusedError, match="device-002"):
                book.spend_each("1", ["device-001", "device-002"], "training", Laplace(0.8), unit="record")
            assert path.read_bytes() == before
