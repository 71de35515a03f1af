"""Tests of the bench's arithmetic and order, without SPDK: python3 -m unittest discover -s tools/bench"""

import contextlib
import io
import json
import math
import pathlib
import socket
import tempfile
import unittest
from unittest import mock

from courier_bench import attached, cases, chart, guest, profile, report, stats, windows
from courier_bench.__main__ import list_cases, needs, parse_arguments
from courier_bench.process import Counters, MeasurementFailed
from courier_bench.rig import bare_figures
from courier_bench.rpc import RpcClient, RpcError
from courier_bench.schedule import DISTURBED, PLANS, REPEATED, REPEATS, Schedule
from courier_bench.server import _BACK_ENDS, Server, Variant

VARIANTS = (Variant("a", "", False), Variant("b", "", True))
NAMES = ["stock", "courier"]


def measurement(iops=1000.0, others=0.0, **more):
    """A sample of no interest but for these."""
    return {"iops": iops, "latency_us": 1e6 / iops, "cycles_per_io": 3000.0, "b_busy": 0.5, "others": others} | more


class FakeServer:
    """Stands in for process B: notes drives. Each takes memory; with `idle_are_read` the idle ones are read, too."""

    def __init__(self, rig, name):
        self._rig = rig
        self.name = name
        self.drives = {0}

    def add_drives(self, numbers):
        """Notes the drives."""
        self.drives |= set(numbers)

    def remove_drives(self, numbers):
        """Forgets the drives."""
        self.drives -= set(numbers)

    def memory(self):
        """Memory by the number of drives: 200 KiB for each of a, 50 for each of b, and some of DPDK's."""
        return (1 << 20) + len(self.drives) * 1024 * (200 if self.name == "a" else 50), len(self.drives) * 2048

    def reads(self):
        """Grows only when the rig says so."""
        return self._rig.loads if self._rig.idle_are_read else 0


class FakeSide:
    """Stands in for a side: a server, and which of the two processes A it has."""

    def __init__(self, rig, name, number):
        self.server = FakeServer(rig, name)
        self.number = number

    @contextlib.contextmanager
    def running(self):
        """Does nothing."""
        yield self

    def attach(self, numbers):
        """Does nothing."""

    def detach(self, numbers):
        """Does nothing."""


class FakeRig:
    """Stands in for the processes: notes what was measured, and disturbs the first measurements."""

    workdir = "/work"

    def __init__(self, disturbed=0, idle_are_read=False):
        self.events = []
        self.loads = 0
        self.idle_are_read = idle_are_read
        self._disturbed = disturbed

    def start(self, variant, setup, number=0):
        """Notes the start."""
        self.events.append(f"start {variant.name} {setup.name} on {number}")
        return FakeSide(self, variant.name, number)

    def stop_servers(self):
        """Notes the end."""
        self.events.append("stop")

    def measure(self, sides, case, seconds):
        """Notes which sides, and for how long. The variant b is twice as fast as a, which is slower among many drives."""
        self.loads += 1
        told = [side.server.name + ("" if len(side.server.drives) == 1 else f" of {len(side.server.drives)}") for side in sides.values()]
        self.events.append(f"{'+'.join(told)} for {seconds:g}")
        self._disturbed -= 1
        others = 1.0 if self._disturbed >= 0 else 0.0
        return {name: measurement(2000.0 if side.server.name == "b" else 800.0 if len(side.server.drives) > 1 else 1000.0, others)
                for name, side in sides.items()}

    def measure_bare(self, case, seconds):
        """Notes a slice of the bare initiator, with a latency of 400 us."""
        self.events.append("bare")
        return measurement(2500.0)


def run_schedule(rig, pairs, runtime, names=("front-qd1",)):
    """A schedule of these cases with the variants a and b, and its results."""
    schedule = Schedule(VARIANTS, cases.chosen(names), pairs, runtime)
    with contextlib.redirect_stderr(io.StringIO()):
        schedule.measure(rig)
    return schedule, schedule.results()


class ProfileTest(unittest.TestCase):
    """What perf's samples say."""

    REPORT = ("# a comment\n 50.00%  \t 20   \tcourier_tgt  \t[.] spdk::poller::Poller<T>::call::h0123456789abcdef \t-      -  \n"
              " 25.00%  \t 10   \tcourier_tgt  \t[.] thread_poll \t-      -  \n"
              " 12.50%  \t 5   \tlibc.so.6  \t[.] epoll_wait\n 12.50%  \t 5   \t[unknown]  \t[k] tcp_sendmsg\n")

    def test_functions_are_told_by_whose_they_are(self):
        """By where they run, their file, and the look of their names."""
        self.assertEqual(list(profile.read_report(self.REPORT)), [
            (("Courier", "spdk::poller::Poller::call"), 20), (("SPDK and DPDK", "thread_poll"), 10),
            (("C library", "epoll_wait"), 5), (("kernel", "tcp_sendmsg"), 5)])

    def test_a_table_shares_the_cycles_of_an_io_out(self):
        """Parts first, then functions, each by its share."""
        words = profile.table("front-qd32, courier", dict(profile.read_report(self.REPORT)), 800.0)
        self.assertEqual([line.split() for line in words.splitlines()[2:6]], [
            ["50.0%", "400", "Courier"], ["25.0%", "200", "SPDK", "and", "DPDK"], ["12.5%", "100", "C", "library"],
            ["12.5%", "100", "kernel"]])
        self.assertIn(" 50.0%       400  Courier: spdk::poller::Poller::call", words)

    def test_perf_is_wanted_for_a_profile_only(self):
        """scripts/bench.sh installs it when asked to."""
        self.assertIn("perf", needs(parse_arguments(["--profile"])))
        self.assertNotIn("perf", needs(parse_arguments([])))


class Order(unittest.TestCase):
    """Who is measured when."""

    def test_pairs_alternate_which_process_a_a_variant_has(self):
        rig = FakeRig()
        run_schedule(rig, pairs=2, runtime=4)
        self.assertEqual(rig.events, [
            "start a front on 0", "start b front on 1", "a+b for 0.5", "a+b for 2", "a+b for 2", "stop",
            "start b front on 0", "start a front on 1", "b+a for 0.5", "b+a for 2", "b+a for 2", "stop"])

    def test_turns_are_of_equal_length_and_have_all_the_seconds(self):
        rig = FakeRig()
        run_schedule(rig, pairs=1, runtime=3)
        self.assertEqual(rig.events[3:-1], ["a+b for 1.5"] * 2)

    def test_each_setup_has_servers_of_its_own_which_its_cases_share(self):
        rig = FakeRig()
        _, results = run_schedule(rig, pairs=1, runtime=1, names=["whole-qd32", "front-qd32", "front-qd1"])
        self.assertEqual(rig.events, [
            "start a front on 0", "start b front on 1", "a+b for 0.5", "a+b for 1", "a+b for 1", "stop",
            "start a whole on 0", "start b whole on 1", "a+b for 0.5", "a+b for 1", "stop"])
        self.assertEqual([result.case.name for result in results], ["front-qd1", "front-qd32", "whole-qd32"])

    def test_results_are_in_the_order_of_the_variants(self):
        _, (result,) = run_schedule(FakeRig(), pairs=2, runtime=1)
        self.assertEqual([(a["iops"], b["iops"]) for a, b in result.pairs], [(1000.0, 2000.0)] * 2)
        self.assertEqual({figure.key: c.ratio for figure, c in result.comparisons()},
                         {"iops": 2.0, "latency_us": 0.5, "cycles_per_io": 1.0})

    def test_a_disturbed_turn_is_done_again(self):
        rig = FakeRig(disturbed=2)  # the warm-up, and the first turn
        schedule, _ = run_schedule(rig, pairs=1, runtime=1)
        self.assertEqual(rig.events[2:], ["a+b for 0.5", "a+b for 1", "a+b for 1", "stop"])
        self.assertEqual(schedule.disturbed, 0)

    def test_a_turn_that_stays_disturbed_is_kept_and_counted(self):
        schedule, (result,) = run_schedule(FakeRig(disturbed=1 + REPEATS + 1), pairs=1, runtime=1)
        self.assertEqual(schedule.disturbed, 1)
        self.assertGreater(result.pairs[0][0]["others"], DISTURBED)

    def test_a_machine_that_is_never_quiet_cannot_make_a_run_endless(self):
        schedule, _ = run_schedule(FakeRig(disturbed=10_000), pairs=5, runtime=40)
        self.assertEqual((schedule.turns, schedule.disturbed), (100, 100))
        self.assertEqual(schedule.repeated, REPEATS + schedule.turns * REPEATED)

    def test_what_was_measured_before_a_failure_is_kept(self):
        rig = FakeRig(idle_are_read=True)
        schedule = Schedule(VARIANTS, cases.chosen(["front-qd1", "attached"]), 1, 1)
        with contextlib.redirect_stderr(io.StringIO()), self.assertRaises(MeasurementFailed):
            schedule.measure(rig)
        self.assertEqual([result.case.name for result in schedule.results()], ["front-qd1"])

    def test_the_bare_initiator_is_measured_after_each_turn(self):
        rig = FakeRig()
        _, (result,) = run_schedule(rig, pairs=1, runtime=4, names=["whole-qd1"])
        self.assertEqual(rig.events[3:], ["a+b for 2", "bare", "a+b for 2", "bare", "stop"])
        self.assertEqual([sample["added_us"] for sample in result.pairs[0]], [600.0, 100.0])
        self.assertEqual(result.median("bare_latency_us", 0), 400.0)

    def test_every_way_of_measuring_has_a_plan(self):
        self.assertEqual(set(PLANS), set(cases.Way))


class AttachedControllers(unittest.TestCase):
    """One busy controller among idle ones."""

    def test_one_among_many_and_one_alone_take_turns(self):
        rig = FakeRig()
        run_schedule(rig, pairs=2, runtime=2, names=["attached-qd32"])
        many = attached.CONTROLLERS
        a, b = ([f"{name}+{name} for 0.5", f"{name} of {many}+{name} for 2", "stop"] for name in "ab")
        self.assertEqual(rig.events, [
            "start a attached on 0", "start a attached on 1", *a, "start b attached on 1", "start b attached on 0", *b,
            "start b attached on 0", "start b attached on 1", *b, "start a attached on 1", "start a attached on 0", *a])

    def test_speed_kept_and_memory_come_of_the_same_processes(self):
        _, (speed, memory) = run_schedule(FakeRig(), pairs=2, runtime=2, names=["attached"])
        self.assertEqual([sample["kept"] for sample in speed.pairs[0]], [0.8, 1.0])
        self.assertEqual([(sample["rss_kib"], sample["heap_kib"]) for sample in memory.pairs[1]], [(200.0, 2.0), (50.0, 2.0)])

    def test_memory_alone_needs_no_load(self):
        rig = FakeRig()
        _, (memory,) = run_schedule(rig, pairs=1, runtime=2, names=["memory"])
        self.assertEqual((rig.loads, memory.case.name), (0, "memory"))

    def test_idle_drives_that_are_read_are_an_error(self):
        with self.assertRaisesRegex(MeasurementFailed, "the idle drives were read"):
            run_schedule(FakeRig(idle_are_read=True), pairs=1, runtime=1, names=["attached"])


class FakeProcess:
    """A process whose reactor has 1,000 cycles a second, a quarter of them busy, and stops while it is suspended."""

    def __init__(self, clock):
        self._clock = clock

    def busy_and_idle_cycles(self):
        """A quarter of the cycles so far, and the rest."""
        return self._clock.ran * 250, self._clock.ran * 750

    def cpu_seconds(self):
        """Whatever."""
        return 0.0


class FakeClockedSide:
    """A side that does `rate` I/Os in a second, each of which takes 20 ms, and none while it is suspended."""

    def __init__(self, rate):
        self.ran = 0.0
        self.begun = 0
        self.rate = rate
        self.runs = False
        self.windows = 0
        self.server = self
        self.host = self
        self.process = FakeProcess(self)

    def resume(self):
        """Runs."""
        self.runs = True
        self.windows += 1

    def suspend(self):
        """Runs no more."""
        self.runs = False

    def processes(self):
        """Whose time is its own."""
        return (self.process,)

    def begin(self, _case, _seconds):
        """A load that has done an I/O at once, and of which nothing goes wrong."""
        self.begun = 1
        return lambda _timeout: None

    def counters(self):
        """As the docs of this class have it."""
        ios = self.begun + round(self.ran * self.rate)
        return Counters(self.ran, 1000, ios, ios * 0.02)


class Windows(unittest.TestCase):
    """Sides that run in turn."""

    def setUp(self):
        self.sides = {"slow": FakeClockedSide(200), "fast": FakeClockedSide(600)}
        self.slept = []
        self.enterContext(mock.patch.object(windows.time, "sleep", self.sleep))

    def sleep(self, seconds):
        """Time goes by for those that run, of which there may be one only."""
        self.slept.append(seconds)
        running = [side for side in self.sides.values() if side.runs]
        self.assertEqual(len(running), 1)
        running[0].ran += seconds

    def test_figures_are_those_of_the_time_that_a_side_ran(self):
        samples = windows.measure(self.sides, cases.by_name("front-qd32"), 2)
        for name, iops in (("slow", 200.0), ("fast", 600.0)):
            sample = samples[name]
            self.assertAlmostEqual(sample["iops"], iops)
            self.assertAlmostEqual(sample["latency_us"], 20_000.0)
            self.assertAlmostEqual(sample["cycles_per_io"], 250 / iops)
            self.assertAlmostEqual(sample["b_busy"], 0.25)
        self.assertEqual(self.slept.count(windows.WINDOW_S["tcp"]), 40)
        self.assertFalse(any(side.runs for side in self.sides.values()))

    def test_a_side_in_which_nothing_ends_is_an_error(self):
        self.sides["fast"].rate = 0
        with self.assertRaisesRegex(MeasurementFailed, "no I/O ended"):
            windows.measure(self.sides, cases.by_name("front-qd32"), 1)

    def test_counting_instructions_takes_longer_windows(self):
        windows.measure(self.sides, cases.by_name("rdma-qd32"), 2)
        self.assertEqual(self.slept.count(1.0), 4)

    def test_the_load_lasts_longer_than_the_windows(self):
        self.assertGreater(windows.expected_s(2, cases.by_name("front-qd32"), 2), 2 * 2 * 1.1)


INTERRUPTS = """            CPU0       CPU1
  1:         10          0  IO-APIC   1-edge      i8042
 25:        100          1  PCI-MSIX-0000:00:03.0   0-edge      nvme0q0
 26:       1000         20  PCI-MSIX-0000:00:03.0   1-edge      nvme0q1
 27:          3       4000  PCI-MSIX-0000:00:03.0   2-edge      nvme0q12
 28:          7          7  PCI-MSIX-0000:00:04.0   1-edge      nvme10q1
ERR:          0
"""


class InTheGuest(unittest.TestCase):
    """fio's jobs, and what is made of their results."""

    def test_every_case_has_a_job_file_that_says_the_same(self):
        for case in cases.CASES:
            if case.setup is cases.GUEST:
                with self.subTest(case.name):
                    lines = guest.fio_job(case, 7).splitlines()
                    for line in (f"iodepth={case.queue_depth}", f"numjobs={case.queues}", f"rw={case.workload}", "bs=4k",
                                 "direct=1", "runtime=7"):
                        self.assertIn(line, lines)

    def test_interrupts_are_those_of_the_drives_io_queues(self):
        self.assertEqual(guest.io_interrupts(INTERRUPTS, "nvme0"), 5023)
        self.assertEqual(guest.io_interrupts(INTERRUPTS, "nvme10"), 14)
        self.assertEqual(guest.io_interrupts(INTERRUPTS, "nvme1"), 0)

    def test_interrupts_are_counted_over_all_that_fio_did(self):
        result = "fio: a warning\n" + json.dumps({"jobs": [{"error": 0, "read": {"total_ios": 10046}}]})
        before = INTERRUPTS.replace(" 4000 ", "    0 ").replace(" 1000 ", "    0 ").replace(" 20 ", "  0 ")
        self.assertEqual(guest.interrupts_per_io(result, "nvme0\n", before, INTERRUPTS), 5020 / 10046)

    def test_all_that_fio_keeps_in_flight_waits(self):
        machine, server = mock.Mock(), mock.Mock()
        server.null_counters.return_value = Counters(2.5, 1000, 50, 0.0)
        drive = guest.Drive(machine, server)
        drive.begin(cases.by_name("guest-qd32-4q"), 2)
        self.assertEqual(drive.counters(), Counters(2.5, 1000, 50, 2.5 * 128))

    def test_a_job_with_an_error_is_refused(self):
        for job in ({"error": 5, "read": {"total_ios": 7}}, {"error": 0, "read": {"total_ios": 0}}):
            with self.subTest(job), self.assertRaises(MeasurementFailed):
                guest.interrupts_per_io(json.dumps({"jobs": [job]}), "nvme0", INTERRUPTS, INTERRUPTS)


class BareInitiator(unittest.TestCase):
    """What spdk_nvme_perf prints."""

    def test_the_last_line_has_iops_and_mean_latency(self):
        output = ("Device Information : IOPS MiB/s Average min max\nTCP (addr:127.0.0.1) NSID 1 from core 1: 1 1 1 1 1\n"
                  "====\nTotal                                  :   83102.00     324.62      12.01      10.90     190.11\n")
        self.assertEqual(bare_figures(output), {"iops": 83102.0, "latency_us": 12.01})

    def test_no_result_is_an_error(self):
        with self.assertRaises(MeasurementFailed):
            bare_figures("Initialization complete.\n")



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
                                "attached": "Courier's front end + null bdev", "guest": "Courier's front end + null bdev",
                                "rdma": "Courier's front end + Courier's bdev"})

    def test_only_what_forwards_needs_a_pool(self):
        self.assertEqual([setup.name for setup in cases.SETUPS if setup.stock.needs_pool], ["whole", "tcp", "rdma"])
        self.assertTrue(all(setup.stock.needs_pool == setup.courier.needs_pool for setup in cases.SETUPS))

    def test_every_part_can_be_set_up(self):
        self.assertEqual(set(_BACK_ENDS), set(cases.Back))

    def test_couriers_front_end_is_a_controller_with_the_bdev_as_namespace(self):
        server = server_of(VARIANTS[1])
        server.add_drives([3])
        self.assertEqual(server.process.calls[1:], [
            ("courier_controller_create", {"name": "drive3", "traddr": server.socket_dir(3), "serial_number": "b-3"}),
            ("courier_controller_add_ns", {"name": "drive3", "bdev_name": "null3"})])

    def test_stocks_front_end_is_a_subsystem_of_its_own_for_each_drive(self):
        server = server_of(VARIANTS[0])
        server.add_drives([3])
        methods = [method for method, _ in server.process.calls]
        self.assertEqual(methods, ["bdev_null_create", "nvmf_create_subsystem", "nvmf_subsystem_add_ns", "nvmf_subsystem_add_listener"])
        nqn = server.process.calls[1][1]["nqn"]
        server.remove_drives([3])
        self.assertEqual(server.process.calls[4:], [("nvmf_delete_subsystem", {"nqn": nqn}), ("bdev_null_delete", {"name": "null3"})])

    def test_reads_of_the_busy_drive_are_not_counted_as_those_of_the_idle(self):
        server = server_of(VARIANTS[1])
        server.process.answer = {"bdevs": [{"name": "null0", "num_read_ops": 1000}, {"name": "null1", "num_read_ops": 2},
                                           {"name": "null10", "num_read_ops": 3}]}
        self.assertEqual(server.reads(), 5)


def server_of(variant):
    """A server whose process only keeps its calls."""
    server = Server.__new__(Server)
    server.variant, server._front, server.process = variant.name, variant.chain(cases.FRONT).front, RecordingProcess()
    server._folder = tempfile.mkdtemp()
    unittest.addModuleCleanup(_remove, server._folder)
    return server


def _remove(folder):
    for drive in pathlib.Path(folder).iterdir():
        drive.rmdir()
    pathlib.Path(folder).rmdir()


class RecordingProcess:
    """Stands in for an SPDK process: keeps the calls."""

    def __init__(self):
        self.calls = []
        self.answer = None

    def call(self, method, params=None):
        """Records the call. A bdev that is made answers with its name."""
        self.calls.append((method, params))
        return params["name"] if method == "bdev_null_create" else self.answer

    def call_all(self, method, params):
        """The same with each of these."""
        return [self.call(method, one) for one in params]


class Calls(unittest.TestCase):
    """Several calls at once."""

    def setUp(self):
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.addCleanup(self._listener.close)
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/rpc.sock"
            self._listener.bind(path)
            self._listener.listen()
            self.client = RpcClient(path)
        self.addCleanup(self.client.close)
        self._server, _ = self._listener.accept()
        self.addCleanup(self._server.close)

    def answer(self, responses):
        """Has these waiting for the client, in this order, in one piece."""
        self._server.sendall(b"".join(json.dumps({"jsonrpc": "2.0", **response}).encode() for response in responses))

    def test_answers_in_any_order_are_given_in_that_of_the_calls(self):
        self.answer([{"id": 2, "result": "second"}, {"id": 1, "result": "first"}])
        self.assertEqual(self.client.call_all("m", [{"n": 1}, None]), ["first", "second"])
        self.assertEqual(self._server.recv(4096), b'{"jsonrpc": "2.0", "id": 1, "method": "m", "params": {"n": 1}}'
                                                  b'{"jsonrpc": "2.0", "id": 2, "method": "m"}')

    def test_an_error_of_one_does_not_lose_the_answers_of_the_next_call(self):
        self.answer([{"id": 1, "result": True}, {"id": 2, "error": {"code": -17, "message": "File exists"}}, {"id": 3, "result": 3}])
        with self.assertRaisesRegex(RpcError, "m: File exists") as raised:
            self.client.call_all("m", [{}, {}])
        self.assertEqual(raised.exception.code, -17)
        self.assertEqual(self.client.call("m"), 3)


class Statistics(unittest.TestCase):
    """Ratios, intervals, p-values."""

    def test_the_ratio_is_what_those_of_the_pairs_lie_around(self):
        c = stats.compare([(10, 11), (20, 30), (30, 33)])
        self.assertEqual((c.first, c.second, c.pair_min, c.pair_max), (20, 30, 1.1, 1.5))
        self.assertAlmostEqual(c.ratio, math.sqrt((1.1 * 1.1) * math.sqrt((1.1 * 1.5) / (1.1 * 1.1))))
        self.assertLessEqual(c.low, c.ratio)
        self.assertGreaterEqual(c.high, c.ratio)

    def test_a_machine_that_drifts_leaves_the_ratio(self):
        c = stats.compare([(drift, 1.2 * drift) for drift in (1.0, 0.5, 0.7, 2.0, 1.5)])
        for value in (c.ratio, c.low, c.high):
            self.assertAlmostEqual(value, 1.2)

    def test_equal_pairs_differ_by_chance_only(self):
        c = stats.compare([(10, 10)] * 5)
        self.assertEqual((c.ratio, c.low, c.high, c.p), (1.0, 1.0, 1.0, 1.0))

    def test_five_pairs_of_one_mind_are_the_rarest_of_32(self):
        self.assertEqual(stats.signed_rank_p([0.1, 0.2, 0.3, 0.4, 0.5]), 2 / 32)
        self.assertEqual(stats.signed_rank_p([-0.1, -0.2, -0.3, -0.4, -0.5]), 2 / 32)

    def test_signs_that_balance_are_no_difference(self):
        self.assertEqual(stats.compare([(100, 125), (125, 100)]).p, 1.0)

    def test_a_ratio_to_nothing_is_not_a_number_and_meets_no_goal(self):
        c = stats.compare([(0.0, 1.0), (-0.5, 1.0), (0.0, 2.0)])
        self.assertTrue(all(math.isnan(value) for value in (c.ratio, c.low, c.high, c.pair_min, c.pair_max)))
        self.assertFalse(cases.Goal(True, 0.0).met_by(c))
        self.assertFalse(cases.Goal(False, 9.0).met_by(c))

    def test_one_pair_without_a_ratio_leaves_the_medians(self):
        c = stats.compare([(-1.0, -2.0), (2.0, 1.0), (4.0, 1.0)])
        self.assertEqual((c.first, c.second, c.ratio), (2.0, 1.0, 0.5))
        self.assertTrue(math.isnan(c.low))

    def test_the_median_of_samples_is_that_of_each_figure(self):
        self.assertEqual(stats.median_of([{"x": 1, "y": 9}, {"x": 2, "y": 1}, {"x": 3, "y": 5}]), {"x": 2, "y": 5})

    def test_many_pairs_are_sampled(self):
        self.assertLess(stats.signed_rank_p([0.1 + i / 100 for i in range(40)]), 0.01)
        self.assertGreater(stats.signed_rank_p([0.1 if i % 2 else -0.1 for i in range(40)]), 0.3)


class Goals(unittest.TestCase):
    """When a goal is met, and how it is told."""

    def test_at_least_and_at_most(self):
        for goal, courier, met in ((cases.Goal(True, 1.0), 100.0, True), (cases.Goal(True, 1.0), 99.9, False),
                                   (cases.Goal(False, 0.8), 80.0, True), (cases.Goal(False, 0.8), 81.0, False)):
            with self.subTest(goal=goal, courier=courier):
                self.assertIs(goal.met_by(stats.compare([(100.0, courier)])), met)

    def test_couriers_own_figure_counts_whatever_stock_did(self):
        goal = cases.Goal(True, 0.97, own=True)
        self.assertFalse(goal.met_by(stats.compare([(0.5, 0.96)])))
        self.assertTrue(goal.met_by(stats.compare([(1.5, 0.97)])))
        self.assertEqual((str(goal), str(cases.Goal(False, 80, own=True)), str(cases.Goal(False, 0.7))),
                         ("courier>=0.97", "courier<=80", "<=0.70"))
        self.assertEqual(cases.Goal(False, 80, own=True).as_ratio(stats.compare([(160.0, 40.0)])), 0.5)

    def test_the_goals_are_those_that_were_set(self):
        told = {f"{case.name}.{key}": str(goal) for case in cases.CASES for key, goal in case.goals.items() if case.setup is not cases.TCP}
        self.assertEqual(told, {
            "front-qd1.latency_us": "<=0.95", "front-qd32.cycles_per_io": "<=0.70", "front-qd128.cycles_per_io": "<=0.70",
            "whole-qd1.added_us": "<=0.50", "whole-qd32.iops": ">=1.20", "whole-qd32.cycles_per_io": "<=0.80",
            "whole-qd128.iops": ">=1.20", "whole-qd128.cycles_per_io": "<=0.80", "attached-qd32.kept": "courier>=0.97",
            "memory.rss_kib": "courier<=80", "guest-qd1.iops": ">=1.00", "guest-qd32.iops": ">=1.00",
            "guest-qd32.interrupts_per_io": "<=1.00", "guest-qd1-4q.iops": ">=1.00", "guest-qd32-4q.iops": ">=1.00",
            "guest-qd32-4q.interrupts_per_io": "<=1.00",
            "rdma-qd32.cycles_per_io": "<=0.95"})

    def test_goals_are_for_figures_that_the_case_has(self):
        for case in cases.CASES:
            self.assertLessEqual(set(case.goals), {figure.key for figure in case.figures}, case.name)


def result_of(name, first, second):
    """The result of one pair."""
    return report.CaseResult(cases.by_name(name), [(first, second)])


class Report(unittest.TestCase):
    """What the bench says in the end."""

    def test_the_last_lines_say_met_and_missed(self):
        judgements = report.verdicts([result_of("tcp-qd32", measurement(1000.0), measurement(990.0))])
        self.assertEqual([report.verdict_line(verdict, NAMES) for verdict in judgements], [
            "bench tcp-qd32.iops stock=1000 courier=990 ratio=0.990 goal=>=1.00 missed",
            "bench tcp-qd32.latency_us stock=1000.00 courier=1010.10 ratio=1.010 goal=none",
            "bench tcp-qd32.cycles_per_io stock=3000 courier=3000 ratio=1.000 goal=none"])

    def test_what_is_worse_than_stock_is_named(self):
        result = report.CaseResult(cases.by_name("tcp-qd32"), [(measurement(1000.0), measurement(990.0))] * 3)
        self.assertEqual(report.worse_text([result], report.verdicts([result]), NAMES),
                         "Worse than stock, with all of the interval: tcp-qd32.iops (0.990), tcp-qd32.latency_us (1.010)")

    def test_one_pair_cannot_tell_what_is_worse(self):
        result = result_of("tcp-qd32", measurement(1000.0), measurement(990.0))
        self.assertEqual(report.worse_text([result], report.verdicts([result]), NAMES),
                         "Worse than stock: fewer than 3 pairs cannot tell")

    def test_stock_against_itself_is_not_judged(self):
        judgements = report.verdicts([result_of("tcp-qd32", measurement(), measurement(10.0))], judged=False)
        self.assertEqual([verdict.met for verdict in judgements], [None] * 3)

    def test_the_table_says_what_each_variant_runs(self):
        words = report.case_text(result_of("whole-qd1", measurement(added_us=1.0, bare_latency_us=12.0),
                                           measurement(added_us=0.5, bare_latency_us=12.0)), VARIANTS)
        self.assertIn("  a is SPDK's front end + bdev_nvme, B busy 50%; the bare initiator takes 12.00 µs\n", words)
        self.assertIn("  b is Courier's front end + Courier's bdev, B busy 50%; the bare initiator takes 12.00 µs\n", words)

    def test_a_ratio_that_could_not_be_measured_is_null_in_json(self):
        result = result_of("whole-qd1", measurement(added_us=-1.0), measurement(added_us=0.5))
        with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
            report.write_json(file.name, report.document({}, {}, [result], report.verdicts([result]), VARIANTS))
            document = json.load(file, parse_constant=lambda word: self.fail(f"{word} is not JSON"))
        (case,) = document["cases"]
        self.assertIsNone(case["comparison"]["added_us"]["ratio"])
        self.assertEqual(case["comparison"]["iops"]["ratio"], 1.0)
        self.assertEqual(document["verdicts"], {"whole-qd1.added_us": "missed"})
        self.assertEqual(case["pairs"][0]["b"]["added_us"], 0.5)

    def test_the_chart_has_a_row_per_figure_and_a_mark_per_goal(self):
        results = [result_of("memory", {"rss_kib": 160.0, "heap_kib": 10.0}, {"rss_kib": 40.0, "heap_kib": 20.0}),
                   result_of("tcp-qd32", measurement(1000.0), measurement(990.0))]
        script = chart.script("x.svg", report.verdicts(results), NAMES)
        self.assertIn("$series0 << END\n0.25000 5 0.25000 0.25000\nEND\n", script)  # met: the topmost row
        self.assertIn("$series1 << END\n0.99000 3 0.99000 0.99000\nEND\n", script)  # missed
        self.assertIn("$goals << END\n1.0000 3\n0.5000 5\nEND\n", script)
        self.assertIn("'memory.rss_kib' 5", script)

    def test_a_chart_of_what_could_not_be_measured_has_no_row_for_it(self):
        result = result_of("whole-qd1", measurement(added_us=-1.0), measurement(added_us=0.5))
        self.assertNotIn("added_us", chart.script("x.svg", report.verdicts([result]), NAMES))


class Arguments(unittest.TestCase):
    """The command line."""

    def test_cases_are_the_default_ones_or_those_named(self):
        self.assertEqual([case.name for case in parse_arguments([]).cases],
                         ["front-qd1", "front-qd32", "front-qd128", "whole-qd1", "whole-qd32", "whole-qd128", "attached-qd32", "memory"])
        named = parse_arguments(["--case", "tcp-128k-qd8", "--case", "tcp-qd1"])
        self.assertEqual([case.name for case in named.cases], ["tcp-qd1", "tcp-128k-qd8"])
        self.assertEqual(parse_arguments(["--all"]).cases, [case for case in cases.CASES if case.setup is not cases.RDMA])

    def test_cases_over_rdma_are_measured_alone(self):
        args = parse_arguments(["--rdma"])
        self.assertEqual(([case.name for case in args.cases], needs(args)), (["rdma-qd32"], ["courier", "rdma"]))

    def test_a_setups_name_stands_for_all_its_cases(self):
        named = parse_arguments(["--case", "tcp", "--case", "front-qd1"])
        self.assertEqual([case.name for case in named.cases],
                         ["front-qd1", "tcp-qd1", "tcp-qd32", "tcp-qd128", "tcp-write-qd32", "tcp-128k-qd8"])

    def test_quick_is_short_unless_told_otherwise(self):
        for argv, told in ((["--quick"], (3, 2)), ([], (8, 4)), (["--quick", "--pairs", "7", "--runtime", "4"], (7, 4))):
            args = parse_arguments(argv)
            self.assertEqual((args.pairs, args.runtime), told)

    def test_quick_takes_less_than_five_minutes_by_its_own_reckoning(self):
        args = parse_arguments(["--quick"])
        self.assertLess(Schedule(VARIANTS, args.cases, args.pairs, args.runtime).seconds(), 300)

    def test_guest_adds_its_cases_to_those_that_are_measured_anyway(self):
        guests = [case for case in cases.CASES if case.setup is cases.GUEST]
        self.assertEqual(parse_arguments(["--guest"]).cases, parse_arguments([]).cases + guests)
        self.assertEqual(parse_arguments(["--case", "memory", "--guest"]).cases, [cases.by_name("memory"), *guests])
        self.assertEqual(parse_arguments(["--case", "guest"]).cases, guests)

    def test_what_has_to_be_prepared_follows_from_the_cases(self):
        self.assertEqual(needs(parse_arguments([])), ["courier"])
        self.assertEqual(needs(parse_arguments(["--guest"])), ["courier", "guest"])
        self.assertEqual(needs(parse_arguments(["--self"])), [])
        self.assertEqual(needs(parse_arguments(["--self", "--case", "guest-qd1"])), ["guest"])

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
                     ["--rdma", "--case", "tcp"]):
            with self.subTest(argv), contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit):
                parse_arguments(argv)


if __name__ == "__main__":
    unittest.main()
