"""Tests of the RPC plugin: python3 -m unittest discover -s python"""

import argparse
import contextlib
import io
import os
import unittest

import courier_rpc

METHODS = ("courier_pool_create", "courier_pool_get", "courier_pool_delete", "courier_pool_reconnect",
           "bdev_courier_create", "bdev_courier_delete",
           "courier_controller_create", "courier_controller_get", "courier_controller_delete",
           "courier_controller_add_ns", "courier_controller_remove_ns", "courier_get_stats")
POOL = ["courier_pool_create", "-b", "p0", "-t", "tcp", "-a", "192.0.2.7", "-n", "nqn.2024-01.io.example:pool"]
POOL_PARAMS = {"name": "p0", "trtype": "tcp", "traddr": "192.0.2.7", "subnqn": "nqn.2024-01.io.example:pool"}


class RecordingClient:
    """Stands in for SPDK's client: keeps the calls and answers with a fixed result."""

    def __init__(self, result):
        self.result = result
        self.calls = []

    def call(self, method, params=None):
        """Records the call."""
        self.calls.append((method, params))
        return self.result


def make_parser():
    """A parser with the plugin loaded in the way of rpc.py."""
    parser = argparse.ArgumentParser(prog="rpc.py")
    subparsers = parser.add_subparsers(dest="called_rpc_name", metavar="")
    courier_rpc.spdk_rpc_plugin_initialize(subparsers)
    return parser, subparsers


def send(argv, result=True):
    """Runs a command line; returns the single call that was sent, and what was printed."""
    args = make_parser()[0].parse_args(argv)
    args.client = RecordingClient(result)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        args.func(args)
    (call,) = args.client.calls
    return call, out.getvalue()


class Commands(unittest.TestCase):
    """What the command line offers."""

    def test_every_method_has_a_command_with_help(self):
        subparsers = make_parser()[1]
        self.assertEqual(tuple(subparsers.choices), METHODS)
        self.assertEqual([action.dest for action in subparsers._choices_actions], list(METHODS))
        self.assertTrue(all(action.help for action in subparsers._choices_actions))

    def test_every_option_has_help_that_argparse_can_print(self):
        for name, parser in make_parser()[1].choices.items():
            with self.subTest(name):
                self.assertTrue(all(action.help for action in parser._actions))
                self.assertIn(name, parser.format_help())


class Parameters(unittest.TestCase):
    """What is sent for a command line."""

    def test_pool_create_sends_only_what_was_given(self):
        self.assertEqual(send(POOL)[0], ("courier_pool_create", POOL_PARAMS))

    def test_pool_create_sends_every_option_with_its_json_type(self):
        call, _ = send(POOL + [
            "--adrfam", "ipv4", "--trsvcid", "4421", "--hostnqn", "nqn.2024-01.io.example:host",
            "--hostaddr", "192.0.2.8", "--hostsvcid", "5000", "--hdgst", "--ddgst", "--num-io-queues", "4",
            "--io-queue-size", "256", "--io-queue-requests", "0x200", "--keep-alive-timeout-ms", "10000",
            "--connect-timeout-ms", "3000", "--no-wait"])
        self.assertEqual(call, ("courier_pool_create", POOL_PARAMS | {
            "adrfam": "ipv4", "trsvcid": "4421", "hostnqn": "nqn.2024-01.io.example:host",
            "hostaddr": "192.0.2.8", "hostsvcid": "5000", "hdgst": True, "ddgst": True, "num_io_queues": 4,
            "io_queue_size": 256, "io_queue_requests": 512, "keep_alive_timeout_ms": 10000,
            "connect_timeout_ms": 3000, "wait": False}))

    def test_pool_get_takes_a_name_or_none(self):
        self.assertEqual(send(["courier_pool_get"])[0], ("courier_pool_get", {}))
        self.assertEqual(send(["courier_pool_get", "-b", "p0"])[0], ("courier_pool_get", {"name": "p0"}))

    def test_bdev_create_sends_the_namespace_id_as_a_number(self):
        call, _ = send(["bdev_courier_create", "-b", "disk0", "-p", "p0", "-n", "3"])
        self.assertEqual(call, ("bdev_courier_create", {"name": "disk0", "pool": "p0", "nsid": 3}))

    def test_what_may_come_later_is_sent_as_not_waited_for(self):
        call, _ = send(["bdev_courier_create", "-b", "disk0", "-p", "p0", "-n", "3", "--no-wait"])
        self.assertEqual(call[1], {"name": "disk0", "pool": "p0", "nsid": 3, "wait": False})
        call, _ = send(["courier_controller_add_ns", "vm0", "disk0", "--no-wait"])
        self.assertEqual(call[1], {"name": "vm0", "bdev_name": "disk0", "wait": False})

    def test_methods_for_one_thing_take_its_name_as_argument(self):
        for method in ("courier_pool_delete", "courier_pool_reconnect", "bdev_courier_delete", "courier_controller_delete"):
            self.assertEqual(send([method, "x"])[0], (method, {"name": "x"}))

    def test_controller_create_sends_only_what_was_given(self):
        call, _ = send(["courier_controller_create", "-b", "vm0", "-a", "/run/courier-nvme/vm0"])
        self.assertEqual(call, ("courier_controller_create", {"name": "vm0", "traddr": "/run/courier-nvme/vm0"}))

    def test_controller_create_sends_every_option_with_its_json_type(self):
        call, _ = send([
            "courier_controller_create", "--name", "vm0", "--traddr", "/run/courier-nvme/vm0",
            "--uuid", "2b6b0a5c-6f2e-4d3c-9d7a-0c6f2a1b3c4d", "--serial-number", "S1", "--model-number", "A drive",
            "--max-queues", "8", "--max-queue-depth", "0x400", "--cpumask", "[0-1]", "--nvme-version", "1.4",
            "--socket-owner", "libvirt-qemu", "--socket-group", "107", "--socket-mode", "0660"])
        self.assertEqual(call, ("courier_controller_create", {
            "name": "vm0", "traddr": "/run/courier-nvme/vm0", "uuid": "2b6b0a5c-6f2e-4d3c-9d7a-0c6f2a1b3c4d",
            "serial_number": "S1", "model_number": "A drive", "max_queues": 8, "max_queue_depth": 1024,
            "cpumask": "[0-1]", "nvme_version": "1.4", "socket_owner": "libvirt-qemu", "socket_group": "107",
            "socket_mode": "0660"}))

    def test_a_relative_socket_folder_is_the_callers(self):
        call, _ = send(["courier_controller_create", "-b", "vm0", "-a", "vm0"])
        self.assertEqual(call[1]["traddr"], os.path.join(os.getcwd(), "vm0"))

    def test_controller_get_takes_a_name_or_none(self):
        self.assertEqual(send(["courier_controller_get"])[0], ("courier_controller_get", {}))
        self.assertEqual(send(["courier_controller_get", "-b", "vm0"])[0], ("courier_controller_get", {"name": "vm0"}))

    def test_add_ns_sends_the_namespace_id_only_if_given(self):
        call, _ = send(["courier_controller_add_ns", "vm0", "disk0"])
        self.assertEqual(call, ("courier_controller_add_ns", {"name": "vm0", "bdev_name": "disk0"}))
        call, _ = send(["courier_controller_add_ns", "vm0", "disk0", "--nsid", "7"])
        self.assertEqual(call, ("courier_controller_add_ns", {"name": "vm0", "bdev_name": "disk0", "nsid": 7}))

    def test_remove_ns_sends_the_namespace_id_as_a_number(self):
        call, _ = send(["courier_controller_remove_ns", "vm0", "7"])
        self.assertEqual(call, ("courier_controller_remove_ns", {"name": "vm0", "nsid": 7}))

    def test_zero_is_sent_and_not_taken_for_absent(self):
        call, _ = send(POOL + ["--ns-loss-timeout-sec", "0"])
        self.assertEqual(call[1]["ns_loss_timeout_sec"], 0)


class BadCommandLines(unittest.TestCase):
    """What is refused before anything is sent."""

    def test_refused(self):
        for argv in (
            ["courier_pool_create", "-b", "p0"],
            POOL + ["--num-io-queues", "-1"],
            POOL + ["--num-io-queues", "many"],
            POOL + ["--adrfam", "ib"],
            POOL[:-4] + ["-a", "pool.example", "-n", "nqn"],
            ["courier_pool_delete"],
            ["bdev_courier_create", "-b", "d", "-p", "p0"],
            ["bdev_courier_create", "-b", "d", "-p", "p0", "-n", "0"],
            ["bdev_courier_create", "-b", "d", "-p", "p0", "-n", "0xffffffff"],
            ["courier_controller_create", "-b", "vm0"],
            ["courier_controller_create", "-b", "vm0", "-a", ""],
            ["courier_controller_create", "-b", "vm0", "-a", "d", "-q", "-1"],
            ["courier_controller_add_ns", "vm0"],
            ["courier_controller_add_ns", "vm0", "disk0", "-n", "0"],
            ["courier_controller_remove_ns", "vm0"],
            ["courier_controller_remove_ns", "vm0", "0"],
        ):
            with self.subTest(argv), contextlib.redirect_stderr(io.StringIO()) as err:
                with self.assertRaises(SystemExit):
                    make_parser()[0].parse_args(argv)
                self.assertIn("error:", err.getvalue())


class Output(unittest.TestCase):
    """What is printed for a result."""

    def test_string_is_printed_bare(self):
        self.assertEqual(send(POOL, "p0")[1], "p0\n")

    def test_anything_else_is_printed_as_json(self):
        self.assertEqual(send(["courier_pool_get"], [{"name": "p0"}])[1], '[\n  {\n    "name": "p0"\n  }\n]\n')
        self.assertEqual(send(["courier_pool_delete", "p0"], True)[1], "true\n")

    def test_a_dry_run_prints_no_result(self):
        self.assertEqual(send(["courier_pool_get"], None)[1], "")


if __name__ == "__main__":
    unittest.main()
