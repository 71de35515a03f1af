"""Courier's commands for SPDK's RPC client: `rpc.py --plugin courier_rpc COMMAND`.

The folder that holds this file has to be on PYTHONPATH. The commands, their options and their
help are all made from the table COMMANDS; an option that is not given is not sent, so that the
target's own default holds.
"""

import argparse
import ipaddress
import json
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method, and the option (or argument) that sets it."""

    name: str
    help: str
    short: str | None = None
    kind: type | None = str  # None: a flag that is sent as true
    choices: tuple[str, ...] | None = None
    required: bool = False
    positional: bool = False
    negated: bool = False  # a flag --no-NAME that is sent as false

    def add_to(self, parser):
        """Adds the option to an argparse parser."""
        if self.positional:
            optional = {} if self.required else {"nargs": "?"}
            parser.add_argument(self.name, type=self.kind, choices=self.choices, help=self.help, **optional)
            return
        flags = ["--" + "no-" * self.negated + self.name.replace("_", "-")]
        if self.short:
            flags.insert(0, self.short)
        if self.kind is None:
            parser.add_argument(*flags, dest=self.name, help=self.help, action="store_const", const=not self.negated)
        else:
            parser.add_argument(*flags, dest=self.name, help=self.help, type=self.kind,
                                choices=self.choices, required=self.required)


@dataclass(frozen=True)
class Command:
    """One RPC method."""

    method: str
    help: str
    parameters: tuple[Parameter, ...]


def unsigned(text):
    """A whole number that is not negative, decimal or with the prefix 0x."""
    value = int(text, 0)
    if value < 0:
        raise ValueError(text)
    return value


def nsid(text):
    """A namespace id: 1 to 0xfffffffe, as the NVMe specification has it."""
    value = int(text, 0)
    if not 1 <= value <= 0xFFFFFFFE:
        raise argparse.ArgumentTypeError(f"must be 1 to 0xfffffffe, got {text}")
    return value


def address(text):
    """An IPv4 or IPv6 address; host names are not looked up by the target."""
    try:
        ipaddress.ip_address(text.split("%", 1)[0])
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an IPv4 or IPv6 address, got '{text}'") from None
    return text


def folder(text):
    """A folder's absolute path: the target has a working folder of its own."""
    if not text:
        raise argparse.ArgumentTypeError("must be the path of a folder, got ''")
    return os.path.abspath(text)


COMMANDS = (
    Command(
        "courier_pool_create",
        "Connect to a storage pool: an NVMe-oF subsystem whose namespaces bdevs can forward to",
        (
            Parameter("name", "Name of the pool, free to choose", "-b", required=True),
            Parameter("trtype", "Transport to the pool", "-t", choices=("rdma", "tcp"), required=True),
            Parameter("traddr", "IP address of the pool", "-a", kind=address, required=True),
            Parameter("subnqn", "NQN of the subsystem there", "-n", required=True),
            Parameter("adrfam", "Address family of --traddr. Default: ipv4", "-f", choices=("ipv4", "ipv6")),
            Parameter("trsvcid", "Port of the pool. Default: 4420", "-s"),
            Parameter("hostnqn", "NQN to appear as towards the pool. Default: one made by SPDK", "-q"),
            Parameter("hostaddr", "Own IP address to connect from. Default: the routing table's", "-i", kind=address),
            Parameter("hostsvcid", "Own port to connect from (RDMA only). Default: any", "-c"),
            Parameter("hdgst", "TCP only: protect headers with a digest", "-e", kind=None),
            Parameter("ddgst", "TCP only: protect data with a digest", "-d", kind=None),
            Parameter("num_io_queues", "Most I/O queues to ask the pool for", kind=unsigned),
            Parameter("io_queue_size", "Entries of an I/O queue", kind=unsigned),
            Parameter("io_queue_requests", "Requests to hold ready per I/O queue", kind=unsigned),
            Parameter("keep_alive_timeout_ms", "Keep-alive time-out in milliseconds, from 1000 on", kind=unsigned),
            Parameter("transport_retry_count", "RDMA only: retransmissions, 0 to 7", kind=unsigned),
            Parameter("transport_ack_timeout", "Time-out of the transport's ACK, an exponent of two (RDMA: of 4.096 us; "
                      "TCP: of 1 ms)", kind=unsigned),
            Parameter("connect_timeout_ms", "How long each attempt to connect, and each I/O queue, may take, in milliseconds. Default: 10000",
                      kind=unsigned),
            Parameter("reconnect_delay_sec", "Seconds between attempts to reach a pool that went away. Default: 2",
                      kind=unsigned),
            Parameter("ctrlr_loss_timeout_sec", "Seconds after which a pool that is away is given up; -1 never does. "
                      "Default: -1", kind=int),
            Parameter("fast_io_fail_timeout_sec", "Seconds after which I/O for a pool that is away fails instead of being "
                      "held; 0 holds it for as long as the pool is not given up. Default: 0", kind=unsigned),
            Parameter("ns_loss_timeout_sec", "Seconds after which a bdev goes whose namespace a connected pool does not "
                      "list any more. Default: 30", kind=unsigned),
            Parameter("wait", "The pool may be away: make it all the same, and connect it when it answers", kind=None,
                      negated=True),
        ),
    ),
    Command(
        "courier_pool_get",
        "Show the storage pools: state of the connection and of its queue pairs, and namespaces found",
        (Parameter("name", "Name of the pool. Default: all", "-b"),),
    ),
    Command(
        "courier_pool_delete",
        "Disconnect from a storage pool and forget it",
        (Parameter("name", "Name of the pool", required=True, positional=True),),
    ),
    Command(
        "courier_pool_reconnect",
        "Try at once to connect to a storage pool that is away, even one that was given up",
        (Parameter("name", "Name of the pool", required=True, positional=True),),
    ),
    Command(
        "bdev_courier_create",
        "Make a bdev that forwards its I/O to one namespace of a storage pool",
        (
            Parameter("name", "Name of the bdev, free to choose", "-b", required=True),
            Parameter("pool", "Name of the pool, as given to courier_pool_create", "-p", required=True),
            Parameter("nsid", "Namespace id in the pool", "-n", kind=nsid, required=True),
            Parameter("wait", "The pool may not have the namespace yet: make the bdev when it has", kind=None, negated=True),
        ),
    ),
    Command(
        "bdev_courier_delete",
        "Delete a bdev that bdev_courier_create made",
        (Parameter("name", "Name of the bdev", required=True, positional=True),),
    ),
    Command(
        "courier_controller_create",
        "Make an NVMe controller that a VM attaches by a vfio-user socket",
        (
            Parameter("name", "Name of the controller, free to choose", "-b", required=True),
            Parameter("traddr", "Folder for the socket, which is called cntrl; made if it is not there", "-a", kind=folder,
                      required=True),
            Parameter("uuid", "UUID of the controller, which no other one has. Default: a new one", "-u"),
            Parameter("serial_number", "Serial number that the guest sees, at most 20 characters. Default: made from the UUID",
                      "-s"),
            Parameter("model_number", "Model number that the guest sees, at most 40 characters. Default: Courier NVMe Controller",
                      "-d"),
            Parameter("max_queues", "Most I/O queue pairs of the guest, 1 to 128. Default: 32", "-q", kind=unsigned),
            Parameter("max_queue_depth", "Most entries of a queue of the guest, 2 to 1024. Default: 256", "-e", kind=unsigned),
            Parameter("cpumask", "Cores that may serve the queues, such as 0x3 or [0-1]. Default: all of the target's", "-m"),
            Parameter("prefault", "Provide the pages of a client's memory when it is mapped, not when they are first used", "-P",
                      kind=None),
            Parameter("vendor_specific_commands", "Pass the guest's vendor specific I/O commands on to bdevs that take NVMe "
                      "commands. Default: they are refused", "-V", kind=None),
            Parameter("nvme_version", "Version of the specification that the controller follows, for old drivers: 1.4 or 2.0. "
                      "Default: 2.0"),
            Parameter("socket_owner", "User who owns the socket, by name or number. Default: the target's"),
            Parameter("socket_group", "Group of the socket, by name or number. Default: the target's"),
            Parameter("socket_mode", "Permissions of the socket in octal, such as 0660. Default: as the target's umask leaves them"),
        ),
    ),
    Command(
        "courier_controller_get",
        "Show the NVMe controllers: whether a client is attached, its memory, the cores, namespaces, I/O and queues",
        (Parameter("name", "Name of the controller. Default: all", "-b"),),
    ),
    Command(
        "courier_controller_delete",
        "Delete an NVMe controller; the guest loses the drive",
        (Parameter("name", "Name of the controller", required=True, positional=True),),
    ),
    Command(
        "courier_controller_add_ns",
        "Give an NVMe controller a bdev as a namespace; prints the namespace id",
        (
            Parameter("name", "Name of the controller", required=True, positional=True),
            Parameter("bdev_name", "Name of the bdev", required=True, positional=True),
            Parameter("nsid", "Namespace id. Default: the lowest that is free", "-n", kind=nsid),
            Parameter("wait", "The bdev may not be there yet, or be claimed: add the namespace when it can be had", kind=None, negated=True),
        ),
    ),
    Command(
        "courier_controller_remove_ns",
        "Take a namespace from an NVMe controller",
        (
            Parameter("name", "Name of the controller", required=True, positional=True),
            Parameter("nsid", "Namespace id", kind=nsid, required=True, positional=True),
        ),
    ),
    Command(
        "courier_get_stats",
        "Show the counters of all pools and controllers",
        (),
    ),
)


def parameters_given(command, args):
    """What the user gave, as the method's parameters."""
    given = {parameter.name: getattr(args, parameter.name) for parameter in command.parameters}
    return {name: value for name, value in given.items() if value is not None}


def run(command, args):
    """Calls the method with what was given, and prints its result as rpc.py does: a bare string, or JSON."""
    result = args.client.call(command.method, parameters_given(command, args))
    if result is not None:  # None: the client of --dry-run, which has printed the request
        print(result if isinstance(result, str) else json.dumps(result, indent=2))


def spdk_rpc_plugin_initialize(subparsers):
    """Called by rpc.py once the plugin is loaded: adds a sub-command per method."""
    for command in COMMANDS:
        parser = subparsers.add_parser(command.method, help=command.help, description=command.help)
        for parameter in command.parameters:
            parameter.add_to(parser)
        parser.set_defaults(func=lambda args, command=command: run(command, args))
