// measure COMMAND [ARGUMENT ...]: runs COMMAND and writes to descriptor 3 how it went: "SECONDS CPU EXITCODE KILOBYTES". SECONDS is
// the wall time from before the fork to the end. CPU is the time, user and system, and KILOBYTES the largest peak of memory
// (ru_maxrss), of it and of the children that it waited for.
//
// A small process of its own, since the peak that wait4(2) reports begins with that of the process that forked: under Python
// everything would seem to need Python's memory.
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec / 1e9;
}

static double seconds_of(struct timeval time) { return time.tv_sec + time.tv_usec / 1e6; }

int main(int count, char **words) {
  if (count < 2) return 2;
  double start = now();
  pid_t child = vfork();
  if (child == 0) {
    close(3);
    execvp(words[1], words + 1);
    _exit(127);
  }
  int status = 0;
  struct rusage usage;
  if (child < 0 || wait4(child, &status, 0, &usage) < 0) return 1;
  double seconds = now() - start;
  double cpu = seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime);
  dprintf(3, "%.6f %.6f %d %ld\n", seconds, cpu, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), usage.ru_maxrss);
  return 0;
}
