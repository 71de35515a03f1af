/* SPDK's log, through one function that sees every line. */
#ifndef COURIER_SPDK_SHIM_LOG_H
#define COURIER_SPDK_SHIM_LOG_H

#include <spdk/log.h>

/* spdk_log() with a message that is not a format. file and func may be NULL. */
void courier_shim_log(enum spdk_log_level level, const char *file, int line, const char *func, const char *message);

/*
 * From now on lines go to where SPDK writes them by itself, and look the same, but for those that tell of an error where nothing went
 * wrong: they are for debugging.
 */
void courier_shim_log_open(void);

#endif
