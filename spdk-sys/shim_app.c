#include <errno.h>

#include <spdk/config.h>

#include "shim_app.h"

#ifdef SPDK_CONFIG_VHOST
#include <spdk/vhost.h>
#endif
#ifdef SPDK_CONFIG_VFIO_USER
/* Declared in spdk/vfu_target.h, which wants headers that SPDK does not install. */
int spdk_vfu_set_socket_path(const char *basename);
#endif

int
courier_shim_has_socket_dir(void)
{
#if defined(SPDK_CONFIG_VHOST) || defined(SPDK_CONFIG_VFIO_USER)
	return 1;
#else
	return 0;
#endif
}

int
courier_shim_set_socket_dir(const char *dir)
{
	int rc = courier_shim_has_socket_dir() ? 0 : -ENOTSUP;

	(void)dir;
#ifdef SPDK_CONFIG_VHOST
	if (rc == 0) {
		rc = spdk_vhost_set_socket_path(dir);
	}
#endif
#ifdef SPDK_CONFIG_VFIO_USER
	if (rc == 0) {
		rc = spdk_vfu_set_socket_path(dir);
	}
#endif
	return rc;
}
