"""Measures Courier against SPDK's own C stack, in pairs: `python3 -m courier_bench` (scripts/bench.sh runs it).

Two SPDK processes, one per core, are a side. Process A (`bdevperf`) stands in for the VM with SPDK's vfio-user
client, and is the storage pool too, exported over NVMe/TCP on loopback, where a case needs one. Process
B is the intermediary under test: a front end for the VM (SPDK's vfio-user transport or Courier's
controller) and, behind it, a null bdev, SPDK's `bdev_nvme` or Courier's bdev. The sides that are compared share the cores and run in
turn, a tenth of a second at a time: a shared machine drifts within seconds, and the more, the longer one waits.

cases     what is measured: what process B runs, loads, figures, goals
rpc       JSON-RPC over a Unix socket
process   one SPDK process from start to clean-up
host      process A
server    process B with what a case has it run
rig       the processes wired up to sides, and the bare initiator
windows   sides under load, of which one at a time runs
turns     the plan of most groups: both variants in turn
attached  the plan of the group with many controllers
guest     the plan of the group with a Linux guest
schedule  the order of the measurements, and what is done again
stats     medians, ratios, intervals, rank test
profile   where process B's time goes
machine   what machine this is, and who else was using it
progress  progress, and the time left
report    tables, result lines, JSON
chart     the chart
__main__  command line

A new group is a Setup with its Cases in `cases`; if it is not measured by turns on processes A and B, it has a plan of its own
(schedule.Schedule says what that is). `report` takes any CaseResult.
"""
