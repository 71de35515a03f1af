#include "shim_log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

/* The most bytes of a line that spdk_flog() writes, with what stands before the message. */
#define FLOG_MAX 1000

static courier_log_admit g_admit;

/* Whether this thread is writing a line that has been admitted. */
static __thread bool t_is_admitted;

void
courier_shim_log(enum spdk_log_level level, const char *file, int line, const char *func, const char *message)
{
	t_is_admitted = true;
	spdk_log(level, file, line, func, "%s\n", message);
	t_is_admitted = false;
}

static const char *
level_name(int level)
{
	static const char *const names[] = { "ERROR", "WARNING", "NOTICE", "INFO", "DEBUG" };

	return level >= 0 && level < (int)(sizeof(names) / sizeof(names[0])) ? names[level] : "?";
}

/*
 * SPDK's TCP initiator closes the socket of an admin queue that it disconnects, and then flushes it at each poll until the disconnect is
 * done: EBADF there is no error, and would be one in the log at each reset of a pool.
 */
static int
is_no_error(const char *text)
{
	return strstr(text, "spdk_sock_flush() failed, rc -9:") != NULL;
}

static bool
is_refused(int level, const char *file, int line, const char *func)
{
	return !t_is_admitted && file != NULL && level <= SPDK_LOG_NOTICE && !g_admit(level, file, line, func);
}

static void
write_line(int level, const char *file, int line, const char *func, const char *text)
{
	char name[256];

	if (level <= (int)spdk_log_get_print_level()) {
		if (file != NULL) {
			/* spdk_flog() knows whether the time is wanted, but writes no level. */
			snprintf(name, sizeof(name), "%s: *%s*", func != NULL ? func : "?", level_name(level));
			spdk_flog(stderr, file, line, name, "%.*s", FLOG_MAX, text);
		} else {
			spdk_flog(stderr, NULL, 0, NULL, "%.*s", FLOG_MAX, text);
		}
		if (strlen(text) > FLOG_MAX) {
			fputs(text + FLOG_MAX, stderr);
		}
	}
	if (level <= (int)spdk_log_get_level()) {
		if (file != NULL) {
			syslog(spdk_log_to_syslog_level(level), "%s:%4d:%s: *%s*: %s", file, line, func != NULL ? func : "?",
			       level_name(level), text);
		} else {
			syslog(spdk_log_to_syslog_level(level), "%s", text);
		}
	}
}

static void
log_line(int level, const char *file, const int line, const char *func, const char *format, va_list args)
{
	char buffer[1024];
	char *text = buffer, *longer = NULL;
	va_list again;
	int len;

	if ((level > (int)spdk_log_get_print_level() && level > (int)spdk_log_get_level()) ||
	    spdk_log_to_syslog_level(level) < 0) {
		return;
	}
	va_copy(again, args);
	len = vsnprintf(buffer, sizeof(buffer), format, args);
	if (len >= (int)sizeof(buffer) && vasprintf(&longer, format, again) >= 0) {
		text = longer;
	}
	va_end(again);
	if (level == SPDK_LOG_ERROR && is_no_error(text)) {
		level = SPDK_LOG_DEBUG;
	}
	if (!is_refused(level, file, line, func)) {
		write_line(level, file, line, func, text);
	}
	if (text == longer) {
		free(longer);
	}
}

static void
open_syslog(void *ctx)
{
	(void)ctx;
	openlog("spdk", LOG_PID, LOG_LOCAL7);
}

static void
close_syslog(void *ctx)
{
	(void)ctx;
	closelog();
}

void
courier_shim_log_open(courier_log_admit admit)
{
	struct spdk_log_opts opts = { .log = log_line, .open = open_syslog, .close = close_syslog };

	g_admit = admit;
	opts.size = sizeof(opts);
	spdk_log_open_ext(&opts);
}
