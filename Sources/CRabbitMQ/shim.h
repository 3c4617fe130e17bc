// What Swift cannot use of librabbitmq and OpenSSL: macros with casts, and OpenSSL's macros. librabbitmq's headers are flat in
// 0.11 (Debian 12) and under rabbitmq-c/ from 0.12 on.
#ifndef MSCTL_CRABBITMQ_SHIM_H
#define MSCTL_CRABBITMQ_SHIM_H

#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/framing.h>
#include <rabbitmq-c/ssl_socket.h>
#include <rabbitmq-c/tcp_socket.h>
#else
#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_ssl_socket.h>
#include <amqp_tcp_socket.h>
#endif
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>

// librabbitmq compares certificates with names only: '*.0.0.1' would do for 127.0.0.1, and an IP address in a certificate would
// not. OpenSSL compares addresses with addresses (X509_VERIFY_PARAM_set_flags(3)). Returns 1 where it is set.
static inline int msctl_expect_address(amqp_socket_t *socket, const char *address) {
  SSL_CTX *context = (SSL_CTX *)amqp_ssl_socket_get_context(socket);
  return X509_VERIFY_PARAM_set1_ip_asc(SSL_CTX_get0_param(context), address);
}

// Trusts the CA certificates in a file, in folders, or in both. Returns 1 where they were read
// (SSL_CTX_load_verify_locations(3)).
static inline int msctl_trust(amqp_socket_t *socket, const char *file, const char *folder) {
  return SSL_CTX_load_verify_locations((SSL_CTX *)amqp_ssl_socket_get_context(socket), file, folder);
}

// Method numbers are macros with casts.
#define MSCTL_METHOD(name) static const amqp_method_number_t MSCTL_##name = AMQP_##name##_METHOD
MSCTL_METHOD(BASIC_ACK);
MSCTL_METHOD(BASIC_CANCEL);
MSCTL_METHOD(BASIC_CANCEL_OK);
MSCTL_METHOD(BASIC_CONSUME);
MSCTL_METHOD(BASIC_CONSUME_OK);
MSCTL_METHOD(BASIC_DELIVER);
MSCTL_METHOD(BASIC_NACK);
MSCTL_METHOD(BASIC_PUBLISH);
MSCTL_METHOD(BASIC_QOS);
MSCTL_METHOD(BASIC_QOS_OK);
MSCTL_METHOD(BASIC_RETURN);
MSCTL_METHOD(CHANNEL_CLOSE);
MSCTL_METHOD(CHANNEL_CLOSE_OK);
MSCTL_METHOD(CHANNEL_OPEN);
MSCTL_METHOD(CHANNEL_OPEN_OK);
MSCTL_METHOD(CONFIRM_SELECT);
MSCTL_METHOD(CONFIRM_SELECT_OK);
MSCTL_METHOD(CONNECTION_BLOCKED);
MSCTL_METHOD(CONNECTION_CLOSE);
MSCTL_METHOD(CONNECTION_CLOSE_OK);
MSCTL_METHOD(CONNECTION_OPEN);
MSCTL_METHOD(CONNECTION_OPEN_OK);
MSCTL_METHOD(CONNECTION_START);
MSCTL_METHOD(CONNECTION_START_OK);
MSCTL_METHOD(CONNECTION_TUNE);
MSCTL_METHOD(CONNECTION_TUNE_OK);
MSCTL_METHOD(CONNECTION_UNBLOCKED);
MSCTL_METHOD(EXCHANGE_DECLARE);
MSCTL_METHOD(EXCHANGE_DECLARE_OK);
MSCTL_METHOD(QUEUE_BIND);
MSCTL_METHOD(QUEUE_BIND_OK);
MSCTL_METHOD(QUEUE_DECLARE);
MSCTL_METHOD(QUEUE_DECLARE_OK);

#endif
