/* Questions to RDMA devices that SPDK does not ask. Both take their time: not for a reactor. */
#ifndef COURIER_SPDK_SHIM_RDMA_H
#define COURIER_SPDK_SHIM_RDMA_H

#include <stddef.h>

/*
 * Whether every RDMA device of this machine would take the len bytes at start, as SPDK's initiator registers them: whether they are
 * no more than it takes in one piece, and whether it takes the first `page` of them. Returns how many devices there are, or -errno.
 */
int courier_shim_rdma_probe(void *start, size_t len, size_t page);

/*
 * Whether an NVMe target listens at an address (as numbers) and port: asks for a connection as a host's admin queue does, and
 * gives it up again. Returns 0 if somebody answers, whatever it is; -ENODEV without RDMA or without a device on the way;
 * -ENETUNREACH without a way; -ECONNREFUSED if nobody listens on the port; -ETIMEDOUT without an answer; or another -errno.
 */
int courier_shim_rdma_reach(const char *address, const char *port, int timeout_ms);

#endif
