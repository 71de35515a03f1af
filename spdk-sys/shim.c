#include "shim.h"

void
courier_shim_log(enum spdk_log_level level, const char *file, int line, const char *message)
{
	spdk_log(level, file, line, NULL, "%s\n", message);
}
