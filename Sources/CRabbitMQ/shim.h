// What Swift cannot call of librabbitmq: variadic functions and macros with casts. The headers are flat in 0.11 (Debian 12)
// and under rabbitmq-c/ from 0.12 on.
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

// amqp_login_with_properties is variadic: what follows depends on the SASL method.
static inline amqp_rpc_reply_t msctl_login_plain(amqp_connection_state_t state, const char *vhost, int channel_max,
                                                 int frame_max, int heartbeat, const amqp_table_t *properties,
                                                 const char *user, const char *password) {
  return amqp_login_with_properties(state, vhost, channel_max, frame_max, heartbeat, properties,
                                    AMQP_SASL_METHOD_PLAIN, user, password);
}
static inline amqp_rpc_reply_t msctl_login_external(amqp_connection_state_t state, const char *vhost, int channel_max,
                                                    int frame_max, int heartbeat, const amqp_table_t *properties,
                                                    const char *identity) {
  return amqp_login_with_properties(state, vhost, channel_max, frame_max, heartbeat, properties,
                                    AMQP_SASL_METHOD_EXTERNAL, identity);
}

// Method numbers are macros with casts.
static const amqp_method_number_t MSCTL_BASIC_DELIVER = AMQP_BASIC_DELIVER_METHOD;
static const amqp_method_number_t MSCTL_BASIC_RETURN = AMQP_BASIC_RETURN_METHOD;
static const amqp_method_number_t MSCTL_BASIC_ACK = AMQP_BASIC_ACK_METHOD;
static const amqp_method_number_t MSCTL_BASIC_NACK = AMQP_BASIC_NACK_METHOD;
static const amqp_method_number_t MSCTL_BASIC_CANCEL = AMQP_BASIC_CANCEL_METHOD;
static const amqp_method_number_t MSCTL_CHANNEL_CLOSE = AMQP_CHANNEL_CLOSE_METHOD;
static const amqp_method_number_t MSCTL_CHANNEL_CLOSE_OK = AMQP_CHANNEL_CLOSE_OK_METHOD;
static const amqp_method_number_t MSCTL_CONNECTION_CLOSE = AMQP_CONNECTION_CLOSE_METHOD;
static const amqp_method_number_t MSCTL_CONNECTION_CLOSE_OK = AMQP_CONNECTION_CLOSE_OK_METHOD;
static const amqp_method_number_t MSCTL_CONNECTION_BLOCKED = AMQP_CONNECTION_BLOCKED_METHOD;
static const amqp_method_number_t MSCTL_CONNECTION_UNBLOCKED = AMQP_CONNECTION_UNBLOCKED_METHOD;

#endif
