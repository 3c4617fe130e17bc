// What Swift's Glibc does not show of the C library: descriptors that are closed on exec from their first moment (pipe2(2),
// mkostemp(3)), how much a pipe holds (pipe(7)), random bytes (getrandom(2)), the set of descriptors that an event loop waits for (epoll(7)) and
// what wakes one up (eventfd(2)).
#ifndef MSCTL_CPOSIX_SHIM_H
#define MSCTL_CPOSIX_SHIM_H

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/random.h>

extern int pipe2(int ends[2], int flags);
extern int mkostemp(char *path, int flags);

#ifndef F_GETPIPE_SZ
#define F_GETPIPE_SZ 1032
#endif

/// How many bytes a pipe holds at most; -1 where it is none.
static inline int msctl_pipe_size(int descriptor) { return fcntl(descriptor, F_GETPIPE_SZ); }

/// How many bytes are in it.
static inline int msctl_pipe_fill(int descriptor) {
  int count = 0;
  return ioctl(descriptor, FIONREAD, &count) == 0 ? count : -1;
}

#endif
