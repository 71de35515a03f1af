/* SPDK's log, through one function that sees every line. */
#ifndef COURIER_SPDK_SHIM_LOG_H
#define COURIER_SPDK_SHIM_LOG_H

#include <spdk/log.h>

/* spdk_log() with a message that is not a format, which has been admitted already. file and func may be NULL. */
void courier_shim_log(enum spdk_log_level level, const char *file, int line, const char *func, const char *message);

/* Decides whether a line is written. file is not NULL, func may be. Called on whatever thread writes the line. */
typedef bool (*courier_log_admit)(int level, const char *file, int line, const char *func);

/*
 * From now on lines go to where SPDK writes them by itself, and look the same, but for two kinds: those that tell of an error where nothing
 * went wrong are for debugging, and errors, warnings and notices that admit refuses are left out. Lines for debugging are never refused: who
 * turns them on wants them all.
 */
void courier_shim_log_open(courier_log_admit admit);

#endif
