/* What of SPDK is bound: public headers, and what SPDK exports without one (shim_subsystem.h). */
#include <spdk/stdinc.h>
#include <spdk/bdev.h>
#include <spdk/bdev_module.h>
#include <spdk/crc32.h>
#include <spdk/env.h>
#include <spdk/event.h>
#include <spdk/init.h>
#include <spdk/json.h>
#include <spdk/jsonrpc.h>
#include <spdk/log.h>
#include <spdk/nvme.h>
#include <spdk/rpc.h>
#include <spdk/thread.h>
#include <spdk/trace.h>
#include <spdk/version.h>

#include "shim_app.h"
#include "shim_log.h"
#include "shim_rdma.h"
#include "shim_subsystem.h"
