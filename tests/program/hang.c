/*
 * getifaddrs(3) that does not return while the file $HANG exists, as on a host whose network driver
 * holds the kernel's lock. The file $HANG.asked shows that a caller waits. hanging.rs preloads this
 * library into the exporter.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int getifaddrs(struct ifaddrs **list)
{
	const char *hang = getenv("HANG");
	char asked[PATH_MAX];
	int (*real)(struct ifaddrs **) = (int (*)(struct ifaddrs **))dlsym(RTLD_NEXT, "getifaddrs");

	snprintf(asked, sizeof asked, "%s.asked", hang);
	while (access(hang, F_OK) == 0) {
		close(open(asked, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
		usleep(10000);
	}
	return real(list);
}
