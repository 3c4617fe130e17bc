// libcurl, opened when it is first used. Loading it takes longer than most commands run: it brings some thirty libraries with
// it (LDAP, Kerberos, SSH and others), which help, completion, publish and consume have no use for. BENCHMARKS.md has the
// figures.
//
// A function of libcurl that Swift calls stands here once under its own name, with the types of libcurl's header, so that
// callers see nothing of this.
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

// libcurl must go on calling its own functions, not these.
#pragma GCC visibility push(hidden)
#include "CCurl.h"
#pragma GCC visibility pop

// As the dynamic linker does where a library is missing: a sentence, and exit code 127.
static __attribute__((noinline)) void *find(const char *name) {
  static void *library;
  if (!library) library = dlopen("libcurl.so.4", RTLD_LAZY);
  void *function = library ? dlsym(library, name) : NULL;
  if (!function) {
    fprintf(stderr, "msctl: libcurl cannot be loaded: %s\n       Install it (on Debian: libcurl4)\n", dlerror());
    _exit(127);
  }
  return function;
}

// The function of this name in the library. Two threads that look for it at once find the same.
#define REAL(name)                                               \
  ({                                                             \
    static __typeof__(&name) real;                               \
    if (!real) real = (__typeof__(&name))find(#name);            \
    real;                                                        \
  })

CURLcode curl_global_init(long flags) { return REAL(curl_global_init)(flags); }
unsigned int msctl_curl_version(void) { return REAL(curl_version_info)(CURLVERSION_NOW)->version_num; }
char *curl_version(void) { return REAL(curl_version)(); }
void curl_free(void *memory) { REAL(curl_free)(memory); }

CURL *curl_easy_init(void) { return REAL(curl_easy_init)(); }
void curl_easy_cleanup(CURL *handle) { REAL(curl_easy_cleanup)(handle); }
void curl_easy_reset(CURL *handle) { REAL(curl_easy_reset)(handle); }
CURLcode curl_easy_pause(CURL *handle, int directions) { return REAL(curl_easy_pause)(handle, directions); }
const char *curl_easy_strerror(CURLcode code) { return REAL(curl_easy_strerror)(code); }

CURLM *curl_multi_init(void) { return REAL(curl_multi_init)(); }
CURLMcode curl_multi_cleanup(CURLM *multi) { return REAL(curl_multi_cleanup)(multi); }
CURLMcode curl_multi_add_handle(CURLM *multi, CURL *handle) { return REAL(curl_multi_add_handle)(multi, handle); }
CURLMcode curl_multi_remove_handle(CURLM *multi, CURL *handle) { return REAL(curl_multi_remove_handle)(multi, handle); }
CURLMcode curl_multi_perform(CURLM *multi, int *running) { return REAL(curl_multi_perform)(multi, running); }
CURLMcode curl_multi_poll(CURLM *multi, struct curl_waitfd more[], unsigned int count, int timeout, int *ready) {
  return REAL(curl_multi_poll)(multi, more, count, timeout, ready);
}
CURLMsg *curl_multi_info_read(CURLM *multi, int *left) { return REAL(curl_multi_info_read)(multi, left); }
const char *curl_multi_strerror(CURLMcode code) { return REAL(curl_multi_strerror)(code); }

struct curl_slist *curl_slist_append(struct curl_slist *list, const char *text) {
  return REAL(curl_slist_append)(list, text);
}
void curl_slist_free_all(struct curl_slist *list) { REAL(curl_slist_free_all)(list); }

curl_mime *curl_mime_init(CURL *handle) { return REAL(curl_mime_init)(handle); }
void curl_mime_free(curl_mime *mime) { REAL(curl_mime_free)(mime); }
curl_mimepart *curl_mime_addpart(curl_mime *mime) { return REAL(curl_mime_addpart)(mime); }
CURLcode curl_mime_name(curl_mimepart *part, const char *name) { return REAL(curl_mime_name)(part, name); }
CURLcode curl_mime_data(curl_mimepart *part, const char *data, size_t size) {
  return REAL(curl_mime_data)(part, data, size);
}
CURLcode curl_mime_filedata(curl_mimepart *part, const char *file) { return REAL(curl_mime_filedata)(part, file); }

CURLU *curl_url(void) { return REAL(curl_url)(); }
void curl_url_cleanup(CURLU *url) { REAL(curl_url_cleanup)(url); }
CURLUcode msctl_url_get(CURLU *url, CURLUPart part, char **text, unsigned int flags) {
  return REAL(curl_url_get)(url, part, text, flags);
}
CURLUcode curl_url_set(CURLU *url, CURLUPart part, const char *text, unsigned int flags) {
  return REAL(curl_url_set)(url, part, text, flags);
}
const char *curl_url_strerror(CURLUcode code) { return REAL(curl_url_strerror)(code); }

CURLcode msctl_set_long(CURL *handle, CURLoption option, long value) {
  return REAL(curl_easy_setopt)(handle, option, value);
}
CURLcode msctl_set_offset(CURL *handle, CURLoption option, curl_off_t value) {
  return REAL(curl_easy_setopt)(handle, option, value);
}
CURLcode msctl_set_string(CURL *handle, CURLoption option, const char *value) {
  return REAL(curl_easy_setopt)(handle, option, value);
}
CURLcode msctl_set_list(CURL *handle, CURLoption option, struct curl_slist *value) {
  return REAL(curl_easy_setopt)(handle, option, value);
}
CURLcode msctl_set_mime(CURL *handle, curl_mime *value) {
  return REAL(curl_easy_setopt)(handle, CURLOPT_MIMEPOST, value);
}
CURLcode msctl_set_pointer(CURL *handle, CURLoption option, void *value) {
  return REAL(curl_easy_setopt)(handle, option, value);
}
CURLcode msctl_set_receiver(CURL *handle, CURLoption option, size_t (*receiver)(char *, size_t, size_t, void *)) {
  return REAL(curl_easy_setopt)(handle, option, receiver);
}
CURLcode msctl_set_prerequest(CURL *handle, curl_prereq_callback callback) {
  return REAL(curl_easy_setopt)(handle, CURLOPT_PREREQFUNCTION, callback);
}
CURLcode msctl_set_socket_hook(CURL *handle, curl_sockopt_callback callback) {
  return REAL(curl_easy_setopt)(handle, CURLOPT_SOCKOPTFUNCTION, callback);
}
CURLcode msctl_get_long(CURL *handle, CURLINFO info, long *value) {
  return REAL(curl_easy_getinfo)(handle, info, value);
}
CURLcode msctl_get_offset(CURL *handle, CURLINFO info, curl_off_t *value) {
  return REAL(curl_easy_getinfo)(handle, info, value);
}
CURLcode msctl_get_string(CURL *handle, CURLINFO info, const char **value) {
  return REAL(curl_easy_getinfo)(handle, info, value);
}

CURLcode msctl_message_result(const CURLMsg *message) { return message->data.result; }
