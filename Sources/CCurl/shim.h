// libcurl for Swift. Its variadic functions curl_easy_setopt, curl_easy_getinfo and curl_multi_setopt, which Swift cannot call, have one function
// here for each kind of argument, with the type that libcurl reads from the list (long, curl_off_t, pointer); CURLVERSION_NOW is a macro.
#ifndef MSCTL_CCURL_SHIM_H
#define MSCTL_CCURL_SHIM_H

#define CURL_DISABLE_TYPECHECK
#include <curl/curl.h>

static inline const curl_version_info_data *msctl_version_info(void) { return curl_version_info(CURLVERSION_NOW); }

static inline CURLcode msctl_set_long(CURL *handle, CURLoption option, long value) {
  return curl_easy_setopt(handle, option, value);
}
static inline CURLcode msctl_set_offset(CURL *handle, CURLoption option, curl_off_t value) {
  return curl_easy_setopt(handle, option, value);
}
static inline CURLcode msctl_set_string(CURL *handle, CURLoption option, const char *value) {
  return curl_easy_setopt(handle, option, value);
}
static inline CURLcode msctl_set_list(CURL *handle, CURLoption option, struct curl_slist *value) {
  return curl_easy_setopt(handle, option, value);
}
static inline CURLcode msctl_set_mime(CURL *handle, curl_mime *value) {
  return curl_easy_setopt(handle, CURLOPT_MIMEPOST, value);
}
static inline CURLcode msctl_set_pointer(CURL *handle, CURLoption option, void *value) {
  return curl_easy_setopt(handle, option, value);
}
static inline CURLcode msctl_set_receiver(
    CURL *handle, CURLoption option, size_t (*receiver)(char *, size_t, size_t, void *)) {
  return curl_easy_setopt(handle, option, receiver);
}
static inline CURLcode msctl_set_prerequest(CURL *handle, curl_prereq_callback callback) {
  return curl_easy_setopt(handle, CURLOPT_PREREQFUNCTION, callback);
}
static inline CURLcode msctl_set_socket_hook(CURL *handle, curl_sockopt_callback callback) {
  return curl_easy_setopt(handle, CURLOPT_SOCKOPTFUNCTION, callback);
}
static inline CURLcode msctl_set_close_hook(CURL *handle, curl_closesocket_callback callback) {
  return curl_easy_setopt(handle, CURLOPT_CLOSESOCKETFUNCTION, callback);
}
static inline CURLMcode msctl_multi_set_long(CURLM *handle, CURLMoption option, long value) {
  return curl_multi_setopt(handle, option, value);
}
static inline CURLMcode msctl_multi_set_pointer(CURLM *handle, CURLMoption option, void *value) {
  return curl_multi_setopt(handle, option, value);
}
static inline CURLMcode msctl_multi_set_socket_hook(CURLM *handle, curl_socket_callback callback) {
  return curl_multi_setopt(handle, CURLMOPT_SOCKETFUNCTION, callback);
}
static inline CURLMcode msctl_multi_set_timer_hook(CURLM *handle, curl_multi_timer_callback callback) {
  return curl_multi_setopt(handle, CURLMOPT_TIMERFUNCTION, callback);
}
static inline CURLcode msctl_get_long(CURL *handle, CURLINFO info, long *value) {
  return curl_easy_getinfo(handle, info, value);
}
static inline CURLcode msctl_get_offset(CURL *handle, CURLINFO info, curl_off_t *value) {
  return curl_easy_getinfo(handle, info, value);
}
static inline CURLcode msctl_get_list(CURL *handle, CURLINFO info, struct curl_slist **value) {
  return curl_easy_getinfo(handle, info, value);
}
static inline CURLcode msctl_get_private(CURL *handle, void **value) {
  return curl_easy_getinfo(handle, CURLINFO_PRIVATE, value);
}
static inline CURLcode msctl_get_string(CURL *handle, CURLINFO info, const char **value) {
  return curl_easy_getinfo(handle, info, value);
}

// Of the static executable alone (absent.c): OpenSSL's configuration is read when TLS is first used, not when libcurl is set up.
extern void msctl_defer_tls_settings(void) __attribute__((weak));
extern void msctl_load_tls_settings(void) __attribute__((weak));

static inline void msctl_tls_later(void) {
  if (msctl_defer_tls_settings) msctl_defer_tls_settings();
}
static inline void msctl_tls_now(void) {
  if (msctl_load_tls_settings) msctl_load_tls_settings();
}

// A union member by its name: Swift sees the union, but this keeps its layout out of Swift.
static inline CURLcode msctl_message_result(const CURLMsg *message) { return message->data.result; }

#endif
