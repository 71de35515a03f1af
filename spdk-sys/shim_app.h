/* What only a whole target needs; apart from the others, so that the plugin does not ask its host for it. */
#ifndef COURIER_SPDK_SHIM_APP_H
#define COURIER_SPDK_SHIM_APP_H

/* Whether this SPDK has sockets of vhost or vfio-user targets at all. */
int courier_shim_has_socket_dir(void);

/* Where those targets create their sockets: spdk_tgt's option -S. Returns 0 or -errno. */
int courier_shim_set_socket_dir(const char *dir);

#endif
