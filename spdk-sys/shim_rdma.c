#include <errno.h>

#include <spdk/config.h>

#include "shim_rdma.h"

#ifndef SPDK_CONFIG_RDMA

int
courier_shim_rdma_probe(void *start, size_t len, size_t page)
{
	(void)start;
	(void)len;
	(void)page;
	return 0;
}

int
courier_shim_rdma_reach(const char *address, const char *port, int timeout_ms)
{
	(void)address;
	(void)port;
	(void)timeout_ms;
	return -ENODEV;
}

#else

#include <netdb.h>
#include <poll.h>
#include <stdint.h>
#include <time.h>

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

/* What a connection manager says of a service that nobody offers (InfiniBand, table "rejection reason"). */
#define NO_SUCH_SERVICE 8

static int
last_error(void)
{
	return errno > 0 ? -errno : -EIO;
}

static int
probe_device(struct ibv_context *device, void *start, size_t len, size_t page)
{
	int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
	struct ibv_device_attr limits;
	struct ibv_pd *pd;
	struct ibv_mr *mr;
	int rc = 0;

#ifdef IBV_ACCESS_OPTIONAL_FIRST
	access |= IBV_ACCESS_RELAXED_ORDERING;
#endif
	if (ibv_query_device(device, &limits) == 0 && len > limits.max_mr_size) {
		return -E2BIG;
	}
	pd = ibv_alloc_pd(device);
	if (pd == NULL) {
		/* No connection could be made on such a device either. */
		return 0;
	}
	errno = 0;
	mr = ibv_reg_mr(pd, start, page, access);
	if (mr == NULL) {
		rc = last_error();
	} else {
		ibv_dereg_mr(mr);
	}
	ibv_dealloc_pd(pd);
	return rc;
}

int
courier_shim_rdma_probe(void *start, size_t len, size_t page)
{
	struct ibv_context **devices = rdma_get_devices(NULL);
	int i, rc = 0;

	if (devices == NULL) {
		return 0;
	}
	for (i = 0; rc == 0 && devices[i] != NULL; i++) {
		rc = probe_device(devices[i], start, len, page);
	}
	rdma_free_devices(devices);
	return rc == 0 ? i : rc;
}

static int64_t
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Waits for the next event, which is to be `wanted`. */
static int
await(struct rdma_event_channel *channel, enum rdma_cm_event_type wanted, int64_t due)
{
	struct pollfd pollfd = { .fd = channel->fd, .events = POLLIN };
	int64_t left = due - now_ms();
	struct rdma_cm_event *event;
	int rc;

	if (left <= 0 || poll(&pollfd, 1, (int)left) <= 0) {
		return -ETIMEDOUT;
	}
	if (rdma_get_cm_event(channel, &event) != 0) {
		return last_error();
	}
	if (event->event == wanted) {
		rc = 0;
	} else if (event->event == RDMA_CM_EVENT_REJECTED) {
		/* Who has a reason of its own is there. */
		rc = event->status == NO_SUCH_SERVICE ? -ECONNREFUSED : 0;
	} else if (event->event == RDMA_CM_EVENT_ADDR_ERROR || event->event == RDMA_CM_EVENT_ROUTE_ERROR) {
		rc = event->status < 0 ? event->status : -ENETUNREACH;
	} else {
		rc = -ETIMEDOUT;
	}
	rdma_ack_cm_event(event);
	return rc;
}

static int
ask(struct rdma_cm_id *id, struct rdma_event_channel *channel, struct sockaddr *address, int64_t due)
{
	struct ibv_qp_init_attr queue = {
		.cap = { .max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1 },
		.qp_type = IBV_QPT_RC,
	};
	/* NVMe over RDMA, "connection request private data": format 0, queue 0, 32 entries to receive, 31 (from 0) to send. */
	uint8_t request[32] = { [4] = 32, [6] = 31 };
	struct rdma_conn_param parameters = {
		.private_data = request, .private_data_len = sizeof(request), .retry_count = 1,
	};
	int left = (int)(due - now_ms());
	int rc;

	if (rdma_resolve_addr(id, NULL, address, left > 0 ? left : 1) != 0) {
		return last_error();
	}
	rc = await(channel, RDMA_CM_EVENT_ADDR_RESOLVED, due);
	if (rc != 0) {
		return rc;
	}
	left = (int)(due - now_ms());
	if (rdma_resolve_route(id, left > 0 ? left : 1) != 0) {
		return last_error();
	}
	rc = await(channel, RDMA_CM_EVENT_ROUTE_RESOLVED, due);
	if (rc != 0) {
		return rc;
	}
	if (rdma_create_qp(id, NULL, &queue) != 0) {
		return last_error();
	}
	if (rdma_connect(id, &parameters) != 0) {
		rc = last_error();
	} else {
		rc = await(channel, RDMA_CM_EVENT_ESTABLISHED, due);
	}
	/* Whatever became of it. */
	rdma_disconnect(id);
	rdma_destroy_qp(id);
	return rc;
}

int
courier_shim_rdma_reach(const char *address, const char *port, int timeout_ms)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM };
	int64_t due = now_ms() + timeout_ms;
	struct rdma_event_channel *channel;
	struct addrinfo *found = NULL;
	struct rdma_cm_id *id;
	int rc;

	if (getaddrinfo(address, port, &hints, &found) != 0) {
		return -EINVAL;
	}
	channel = rdma_create_event_channel();
	if (channel == NULL) {
		freeaddrinfo(found);
		return -ENODEV;
	}
	if (rdma_create_id(channel, &id, NULL, RDMA_PS_TCP) != 0) {
		rc = last_error();
	} else {
		rc = ask(id, channel, found->ai_addr, due);
		rdma_destroy_id(id);
	}
	rdma_destroy_event_channel(channel);
	freeaddrinfo(found);
	return rc;
}

#endif
