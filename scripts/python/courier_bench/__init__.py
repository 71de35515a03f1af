"""Measures Courier against SPDK's own initiator, in pairs: `python3 -m courier_bench` (scripts/bench.sh runs it).

Two SPDK processes, one per core. Process A (`bdevperf`) is the storage pool, exported over NVMe/TCP
on loopback, and stands in for the VM with SPDK's vfio-user client. Process B is the intermediary under
test: SPDK's vfio-user transport in front and, behind it, either SPDK's `bdev_nvme` (stock) or Courier's
bdev module. Both variants take turns of a second and are compared within each pair only, for absolute
figures of a shared machine drift by the minute.

cases     what is measured, and the goals
rpc       JSON-RPC over a Unix socket
process   one SPDK process from start to clean-up
rig       processes A and B wired up, and one measurement
schedule  the order of the measurements
stats     medians, ratios, intervals, rank test
machine   what machine this is, and who else was using it
report    tables, result lines, JSON
__main__  command line
"""
