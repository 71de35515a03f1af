"""Tests of the bench's arithmetic and order, without SPDK: python3 -m unittest discover -s scripts/python"""

import contextlib
import io
import unittest

from courier_bench import cases, report, stats
from courier_bench.__main__ import list_cases, parse_arguments
from courier_bench.rig import Measurement
from courier_bench.schedule import DISTURBED, REPEATS, Schedule
from courier_bench.server import _BACK_ENDS, _FRONT_ENDS, Variant

VARIANTS = (Variant("a", "", False), Variant("b", "", True))


def measurement(iops=1000.0, others=0.0):
    """A measurement of no interest but for these."""
    return Measurement(iops=iops, latency_us=1e6 / iops, cycles_per_io=3000.0, b_busy=0.5, others=others)


class FakeRig:
    """Stands in for the processes: notes who was measured, and disturbs the first measurements."""

    def __init__(self, disturbed=0):
        self.events = []
        self._disturbed = disturbed

    def start(self, variant, setup):
        """Notes the start; the server is the variant's name."""
        self.events.append(f"start {variant.name} {setup.name}")
        return variant.name

    def stop_servers(self):
        """Notes the end."""
        self.events.append("stop")

    def measure(self, server, case, seconds):
        """Notes a slice. The variant b is twice as fast as a."""
        self.events.append(server)
        self._disturbed -= 1
        return measurement(2000.0 if server == "b" else 1000.0, others=1.0 if self._disturbed >= 0 else 0.0)


def run_schedule(rig, pairs, runtime, names=("front-qd1",)):
    """A schedule of these cases with the variants a and b."""
    schedule = Schedule(VARIANTS, cases.chosen(names), pairs, runtime)
    with contextlib.redirect_stderr(io.StringIO()):
        return schedule, schedule.measure(rig)


class Order(unittest.TestCase):
    """Who is measured when."""

    def test_turns_and_pairs_alternate_who_goes_first(self):
        rig = FakeRig()
        run_schedule(rig, pairs=2, runtime=2)
        self.assertEqual(rig.events, [
            "start a front", "start b front", "a", "b", "a", "b", "b", "a", "stop",
            "start b front", "start a front", "b", "a", "b", "a", "a", "b", "stop"])

    def test_each_setup_has_servers_of_its_own_which_its_cases_share(self):
        rig = FakeRig()
        _, results = run_schedule(rig, pairs=1, runtime=1, names=["whole-qd32", "front-qd32", "front-qd1"])
        self.assertEqual(rig.events, [
            "start a front", "start b front", "a", "b", "a", "b", "a", "b", "stop",
            "start a whole", "start b whole", "a", "b", "a", "b", "stop"])
        self.assertEqual([result.case.name for result in results], ["front-qd1", "front-qd32", "whole-qd32"])

    def test_results_are_in_the_order_of_the_variants(self):
        _, (result,) = run_schedule(FakeRig(), pairs=2, runtime=1)
        self.assertEqual([(a.iops, b.iops) for a, b in result.pairs], [(1000.0, 2000.0)] * 2)
        self.assertEqual(result.comparison(cases.FIGURES[0]).ratio, 2.0)

    def test_a_disturbed_turn_is_done_again(self):
        rig = FakeRig(disturbed=3)  # the warm-up of both, and one of the first turn
        schedule, _ = run_schedule(rig, pairs=1, runtime=1)
        self.assertEqual(rig.events[2:], ["a", "b", "a", "b", "a", "b", "stop"])
        self.assertEqual(schedule.disturbed, 0)

    def test_a_schedule_without_repeats_takes_what_it_gets(self):
        rig = FakeRig(disturbed=100)
        schedule = Schedule(VARIANTS, cases.chosen(("front-qd1",)), pairs=1, runtime=1, repeats=0)
        with contextlib.redirect_stderr(io.StringIO()):
            schedule.measure(rig)
        self.assertEqual((rig.events.count("a"), rig.events.count("b"), schedule.disturbed), (2, 2, 0))

    def test_a_turn_that_stays_disturbed_is_kept_and_counted(self):
        schedule, (result,) = run_schedule(FakeRig(disturbed=2 + 2 * (REPEATS + 1)), pairs=1, runtime=1)
        self.assertEqual(schedule.disturbed, 1)
        self.assertGreater(result.pairs[0][0].others, DISTURBED)


class Chains(unittest.TestCase):
    """What process B runs."""

    def test_stock_never_runs_a_part_of_couriers(self):
        for setup in cases.SETUPS:
            with self.subTest(setup.name):
                self.assertIs(setup.stock.front, cases.Front.STOCK)
                self.assertIsNot(setup.stock.back, cases.Back.COURIER)

    def test_courier_runs_what_the_setup_is_about_and_nothing_else_of_couriers(self):
        _, courier = VARIANTS
        told = {setup.name: str(courier.chain(setup)) for setup in cases.SETUPS}
        self.assertEqual(told, {"front": "Courier's front end + null bdev", "whole": "Courier's front end + Courier's bdev",
                                "tcp": "SPDK's front end + Courier's bdev",
                                "rdma": "Courier's front end + Courier's bdev"})

    def test_the_front_end_alone_needs_no_pool(self):
        self.assertEqual([setup.name for setup in cases.SETUPS if setup.stock.needs_pool], ["whole", "tcp", "rdma"])
        self.assertTrue(all(setup.stock.needs_pool == setup.courier.needs_pool for setup in cases.SETUPS))

    def test_every_part_can_be_set_up(self):
        self.assertEqual((set(_FRONT_ENDS), set(_BACK_ENDS)), (set(cases.Front), set(cases.Back)))

    def test_couriers_front_end_is_a_controller_with_the_bdev_as_namespace(self):
        process = RecordingProcess()
        _FRONT_ENDS[cases.Front.COURIER](process, "disk", "/run/x")
        self.assertEqual(process.calls, [
            ("courier_controller_create", {"name": "drive", "traddr": "/run/x"}),
            ("courier_controller_add_ns", {"name": "drive", "bdev_name": "disk"})])


class RecordingProcess:
    """Stands in for an SPDK process: keeps the calls."""

    def __init__(self):
        self.calls = []

    def call(self, method, params=None):
        """Records the call."""
        self.calls.append((method, params))


class Statistics(unittest.TestCase):
    """Ratios, intervals, p-values."""

    def test_ratio_is_that_of_the_medians(self):
        c = stats.compare([(10, 11), (20, 30), (30, 31)])
        self.assertEqual((c.first, c.second, c.ratio, c.pair_max), (20, 30, 1.5, 1.5))
        self.assertLessEqual(c.low, c.ratio)
        self.assertGreaterEqual(c.high, c.ratio)

    def test_equal_pairs_differ_by_chance_only(self):
        c = stats.compare([(10, 10)] * 5)
        self.assertEqual((c.ratio, c.low, c.high, c.p), (1.0, 1.0, 1.0, 1.0))

    def test_five_pairs_of_one_mind_are_the_rarest_of_32(self):
        self.assertEqual(stats.signed_rank_p([1.1, 1.2, 1.3, 1.4, 1.5]), 2 / 32)
        self.assertEqual(stats.signed_rank_p([0.9, 0.8, 0.7, 0.6, 0.5]), 2 / 32)

    def test_signs_that_balance_are_no_difference(self):
        self.assertEqual(stats.signed_rank_p([1.25, 1 / 1.25]), 1.0)

    def test_many_pairs_are_sampled(self):
        self.assertLess(stats.signed_rank_p([1.1 + i / 100 for i in range(40)]), 0.01)
        self.assertGreater(stats.signed_rank_p([1.1 if i % 2 else 1 / 1.1 for i in range(40)]), 0.3)


class Goals(unittest.TestCase):
    """When a goal is met, and how it is told."""

    def test_at_least_and_at_most(self):
        self.assertTrue(cases.Goal(True, 1.0).met_by(1.0))
        self.assertFalse(cases.Goal(True, 1.0).met_by(0.999))
        self.assertTrue(cases.Goal(False, 0.8).met_by(0.8))
        self.assertFalse(cases.Goal(False, 0.8).met_by(0.81))

    def test_the_last_lines_say_met_and_missed(self):
        case = cases.by_name("tcp-qd32")
        result = report.CaseResult(case, [(measurement(1000.0), measurement(990.0))])
        with contextlib.redirect_stdout(io.StringIO()) as out:
            missed = report.print_verdicts([result], ["stock", "courier"], judged=True)
        self.assertEqual(missed, 1)
        self.assertIn("bench tcp-qd32.iops stock=1000 courier=990 ratio=0.990 goal=>=1.00 missed\n", out.getvalue())
        self.assertIn("goal=none\n", out.getvalue())

    def test_the_table_says_what_each_variant_runs(self):
        result = report.CaseResult(cases.by_name("tcp-qd32"), [(measurement(), measurement())])
        with contextlib.redirect_stdout(io.StringIO()) as out:
            report.print_case(result, VARIANTS)
        self.assertIn("  a is SPDK's front end + bdev_nvme, B busy 50%\n", out.getvalue())
        self.assertIn("  b is SPDK's front end + Courier's bdev, B busy 50%\n", out.getvalue())

    def test_goals_are_for_figures_that_exist(self):
        figures = {figure.key for figure in cases.FIGURES}
        self.assertTrue(all(set(case.goals) <= figures for case in cases.CASES))


class Arguments(unittest.TestCase):
    """The command line."""

    def test_cases_are_the_default_ones_or_those_named(self):
        self.assertEqual([case.name for case in parse_arguments([]).cases],
                         ["front-qd1", "front-qd32", "front-qd128", "whole-qd1", "whole-qd32", "whole-qd128"])
        named = parse_arguments(["--case", "tcp-128k-qd8", "--case", "tcp-qd1"])
        self.assertEqual([case.name for case in named.cases], ["tcp-qd1", "tcp-128k-qd8"])
        self.assertEqual(parse_arguments(["--all"]).cases, [case for case in cases.CASES if case.setup is not cases.RDMA])

    def test_cases_over_rdma_are_measured_alone(self):
        self.assertEqual([case.name for case in parse_arguments(["--rdma"]).cases], ["rdma-qd32"])

    def test_a_setups_name_stands_for_all_its_cases(self):
        named = parse_arguments(["--case", "tcp", "--case", "front-qd1"])
        self.assertEqual([case.name for case in named.cases],
                         ["front-qd1", "tcp-qd1", "tcp-qd32", "tcp-qd128", "tcp-write-qd32", "tcp-128k-qd8"])

    def test_the_list_has_every_case_and_names_are_unique(self):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            list_cases()
        for case in cases.CASES:
            self.assertIn(f"  {case.name} ", out.getvalue())
        names = [case.name for case in cases.CASES] + [setup.name for setup in cases.SETUPS]
        self.assertEqual(len(set(names)), len(names))

    def test_mistakes_are_refused(self):
        for argv in (["--pairs", "0"], ["--runtime", "x"], ["--case", "nvme"], ["--cores", "0,0"], ["--cores", "0"],
                     ["--json", "/no/such/folder/f.json"], ["--case", "rdma"], ["--rdma", "--all"],
                     ["--rdma", "--case", "tcp"], ["--rdma", "--json", "f.json"]):
            with self.subTest(argv), contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit):
                parse_arguments(argv)


if __name__ == "__main__":
    unittest.main()
