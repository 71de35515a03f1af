/* What bindgen cannot see: inline functions and variadic calls. */
#ifndef COURIER_SPDK_SHIM_H
#define COURIER_SPDK_SHIM_H

#include <spdk/bdev_module.h>
#include <spdk/log.h>
#include <spdk/thread.h>

/* spdk_log() with a message that is not a format. file may be NULL. */
void courier_shim_log(enum spdk_log_level level, const char *file, int line, const char *message);

#endif
