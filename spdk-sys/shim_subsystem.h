/* Subsystems of an application. SPDK exports these functions, but installs no header for them. */
#ifndef COURIER_SPDK_SHIM_SUBSYSTEM_H
#define COURIER_SPDK_SHIM_SUBSYSTEM_H

struct spdk_json_write_ctx;

struct spdk_subsystem {
	const char *name;
	void (*init)(void);
	void (*fini)(void);
	void (*write_config_json)(struct spdk_json_write_ctx *out);
	/* The list that SPDK keeps it in. */
	void *links[2];
};

struct spdk_subsystem_depend {
	const char *name;
	const char *depends_on;
	void *links[2];
};

void spdk_add_subsystem(struct spdk_subsystem *subsystem);
void spdk_add_subsystem_depend(struct spdk_subsystem_depend *depend);
void spdk_subsystem_init_next(int rc);
void spdk_subsystem_fini_next(void);

#endif
