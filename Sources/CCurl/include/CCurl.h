// libcurl for Swift, opened when the first of its functions is called (CCurl.c says why). Its variadic functions
// curl_easy_setopt and curl_easy_getinfo, which Swift cannot call, have one function here for each kind of argument, with the
// type that libcurl reads from the list (long, curl_off_t, pointer).
#ifndef MSCTL_CCURL_H
#define MSCTL_CCURL_H

#define CURL_DISABLE_TYPECHECK
#include <curl/curl.h>

// The version of the library that runs, as 0xXXYYZZ.
unsigned int msctl_curl_version(void);

// curl_url_get, whose handle is const in newer headers only: it cannot be declared again for both.
CURLUcode msctl_url_get(CURLU *url, CURLUPart part, char **text, unsigned int flags);

CURLcode msctl_set_long(CURL *handle, CURLoption option, long value);
CURLcode msctl_set_offset(CURL *handle, CURLoption option, curl_off_t value);
CURLcode msctl_set_string(CURL *handle, CURLoption option, const char *value);
CURLcode msctl_set_list(CURL *handle, CURLoption option, struct curl_slist *value);
CURLcode msctl_set_mime(CURL *handle, curl_mime *value);
CURLcode msctl_set_pointer(CURL *handle, CURLoption option, void *value);
CURLcode msctl_set_receiver(CURL *handle, CURLoption option, size_t (*receiver)(char *, size_t, size_t, void *));
CURLcode msctl_set_prerequest(CURL *handle, curl_prereq_callback callback);
CURLcode msctl_set_socket_hook(CURL *handle, curl_sockopt_callback callback);
CURLcode msctl_get_long(CURL *handle, CURLINFO info, long *value);
CURLcode msctl_get_offset(CURL *handle, CURLINFO info, curl_off_t *value);
CURLcode msctl_get_string(CURL *handle, CURLINFO info, const char **value);

// A union member by its name: Swift sees the union, but this keeps its layout out of Swift.
CURLcode msctl_message_result(const CURLMsg *message);

#endif
