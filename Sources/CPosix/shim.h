// What Swift's Glibc does not show of the C library: descriptors that are closed on exec from their first moment (pipe2(2),
// mkostemp(3)), random bytes (getrandom(2)), the set of descriptors that an event loop waits for (epoll(7)) and
// what wakes one up (eventfd(2)).
#ifndef MSCTL_CPOSIX_SHIM_H
#define MSCTL_CPOSIX_SHIM_H

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>

extern int pipe2(int ends[2], int flags);
extern int mkostemp(char *path, int flags);

#endif
