"""Tests of the bench's arithmetic and order, without SPDK: python3 -m unittest discover -s scripts/python"""

import contextlib
import io
import unittest

from courier_bench import cases, report, stats
from courier_bench.__main__ import parse_arguments
from courier_bench.rig import Measurement, Variant
from courier_bench.schedule import DISTURBED, REPEATS, Schedule


def measurement(iops=1000.0, others=0.0):
    """A measurement of no interest but for these."""
    return Measurement(iops=iops, latency_us=1e6 / iops, cycles_per_io=3000.0, b_busy=0.5, others=others)


class FakeRig:
    """Stands in for the processes: notes who was measured, and disturbs the first measurements."""

    def __init__(self, disturbed=0):
        self.events = []
        self._disturbed = disturbed

    def start(self, variant):
        """Notes the start; the server is the variant's name."""
        self.events.append("start " + variant.name)
        return variant.name

    def stop_servers(self):
        """Notes the end."""
        self.events.append("stop")

    def measure(self, server, case, seconds):
        """Notes a slice. The variant b is twice as fast as a."""
        self.events.append(server)
        self._disturbed -= 1
        return measurement(2000.0 if server == "b" else 1000.0, others=1.0 if self._disturbed >= 0 else 0.0)


def run_schedule(rig, pairs, runtime):
    """A schedule of one case with the variants a and b."""
    schedule = Schedule((Variant("a", "", False), Variant("b", "", True)), [cases.CASES[0]], pairs, runtime)
    with contextlib.redirect_stderr(io.StringIO()):
        return schedule, schedule.measure(rig)


class Order(unittest.TestCase):
    """Who is measured when."""

    def test_turns_and_pairs_alternate_who_goes_first(self):
        rig = FakeRig()
        run_schedule(rig, pairs=2, runtime=2)
        self.assertEqual(rig.events, [
            "start a", "start b", "a", "b", "a", "b", "b", "a", "stop",
            "start b", "start a", "b", "a", "b", "a", "a", "b", "stop"])

    def test_results_are_in_the_order_of_the_variants(self):
        _, (result,) = run_schedule(FakeRig(), pairs=2, runtime=1)
        self.assertEqual([(a.iops, b.iops) for a, b in result.pairs], [(1000.0, 2000.0)] * 2)
        self.assertEqual(result.comparison(cases.FIGURES[0]).ratio, 2.0)

    def test_a_disturbed_turn_is_done_again(self):
        rig = FakeRig(disturbed=3)  # the warm-up of both, and one of the first turn
        schedule, _ = run_schedule(rig, pairs=1, runtime=1)
        self.assertEqual(rig.events[2:], ["a", "b", "a", "b", "a", "b", "stop"])
        self.assertEqual(schedule.disturbed, 0)

    def test_a_turn_that_stays_disturbed_is_kept_and_counted(self):
        schedule, (result,) = run_schedule(FakeRig(disturbed=2 + 2 * (REPEATS + 1)), pairs=1, runtime=1)
        self.assertEqual(schedule.disturbed, 1)
        self.assertGreater(result.pairs[0][0].others, DISTURBED)


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

    def test_goals_are_for_figures_that_exist(self):
        figures = {figure.key for figure in cases.FIGURES}
        self.assertTrue(all(set(case.goals) <= figures for case in cases.CASES))


class Arguments(unittest.TestCase):
    """The command line."""

    def test_cases_are_the_default_ones_or_those_named(self):
        self.assertEqual([case.name for case in parse_arguments([]).cases], ["tcp-qd1", "tcp-qd32", "tcp-qd128"])
        named = parse_arguments(["--case", "tcp-128k-qd8", "--case", "tcp-qd1"])
        self.assertEqual([case.name for case in named.cases], ["tcp-qd1", "tcp-128k-qd8"])
        self.assertEqual(parse_arguments(["--all"]).cases, list(cases.CASES))

    def test_mistakes_are_refused(self):
        for argv in (["--pairs", "0"], ["--runtime", "x"], ["--case", "nvme"], ["--cores", "0,0"], ["--cores", "0"],
                     ["--json", "/no/such/folder/f.json"]):
            with self.subTest(argv), contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit):
                parse_arguments(argv)


if __name__ == "__main__":
    unittest.main()
