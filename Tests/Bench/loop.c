// The limit that msctl is measured against: the same work straight on librabbitmq, with nothing around it.
//   loop publish HOST PORT QUEUE WINDOW < LINES    persistent, mandatory, confirmed; at most WINDOW without their confirm
//   loop consume HOST PORT QUEUE PREFETCH COUNT    writes each body and a line feed, acknowledges what is written
// A message has the properties that msctl gives it: content type, delivery mode, id, time, application, one header.
#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

static void fail(const char *what) {
  fprintf(stderr, "loop: %s failed\n", what);
  exit(1);
}

static void expect_reply(amqp_connection_state_t state, const char *what) {
  if (amqp_get_rpc_reply(state).reply_type != AMQP_RESPONSE_NORMAL) fail(what);
}

static amqp_connection_state_t open_connection(const char *host, int port) {
  amqp_connection_state_t state = amqp_new_connection();
  amqp_socket_t *socket = amqp_tcp_socket_new(state);
  if (amqp_socket_open(socket, host, port) != AMQP_STATUS_OK) fail("connect");
  amqp_rpc_reply_t reply = amqp_login(state, "/", 0, 131072, 60, AMQP_SASL_METHOD_PLAIN, "guest", "guest");
  if (reply.reply_type != AMQP_RESPONSE_NORMAL) fail("login");
  amqp_channel_open(state, 1);
  expect_reply(state, "channel.open");
  return state;
}

// Takes in what the broker has confirmed; waits for it where WAIT is set.
static void take_confirms(amqp_connection_state_t state, unsigned long *confirmed, int wait) {
  for (;;) {
    amqp_frame_t frame;
    struct timeval now = {0, 0};
    amqp_maybe_release_buffers(state);
    int status = amqp_simple_wait_frame_noblock(state, &frame, wait ? NULL : &now);
    if (status == AMQP_STATUS_TIMEOUT) return;
    if (status != AMQP_STATUS_OK) fail("reading");
    if (frame.frame_type != AMQP_FRAME_METHOD || frame.payload.method.id != AMQP_BASIC_ACK_METHOD) fail("a confirm");
    amqp_basic_ack_t *ack = frame.payload.method.decoded;
    if (ack->multiple)
      *confirmed = ack->delivery_tag;
    else
      ++*confirmed;  // out of order they may be; their number is what the window needs
    wait = 0;
  }
}

static int publish(amqp_connection_state_t state, const char *queue, unsigned long window) {
  amqp_confirm_select(state, 1);
  expect_reply(state, "confirm.select");
  char *line = NULL;
  size_t capacity = 0;
  ssize_t size;
  unsigned long sent = 0, confirmed = 0;
  amqp_table_entry_t header = {.key = amqp_cstring_bytes("traceparent")};
  header.value.kind = AMQP_FIELD_KIND_UTF8;
  header.value.value.bytes = amqp_cstring_bytes("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
  while ((size = getline(&line, &capacity, stdin)) > 0) {
    if (line[size - 1] == '\n') --size;
    while (sent - confirmed >= window) take_confirms(state, &confirmed, 1);
    char id[40];
    snprintf(id, sizeof id, "00000000-0000-4000-8000-%012lx", sent);
    amqp_basic_properties_t properties = {
        ._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG |
                  AMQP_BASIC_TIMESTAMP_FLAG | AMQP_BASIC_APP_ID_FLAG | AMQP_BASIC_HEADERS_FLAG,
        .content_type = amqp_cstring_bytes("application/json"),
        .delivery_mode = 2,
        .message_id = amqp_cstring_bytes(id),
        .timestamp = time(NULL),
        .app_id = amqp_cstring_bytes("loop"),
        .headers = {1, &header},
    };
    amqp_bytes_t body = {size, line};
    if (amqp_basic_publish(state, 1, amqp_empty_bytes, amqp_cstring_bytes(queue), 1, 0, &properties, body) != AMQP_STATUS_OK)
      fail("basic.publish");
    ++sent;
    take_confirms(state, &confirmed, 0);
  }
  while (confirmed < sent) take_confirms(state, &confirmed, 1);
  return 0;
}

static int consume(amqp_connection_state_t state, const char *queue, int prefetch, unsigned long count) {
  amqp_basic_qos(state, 1, 0, prefetch, 0);
  expect_reply(state, "basic.qos");
  amqp_basic_consume(state, 1, amqp_cstring_bytes(queue), amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
  expect_reply(state, "basic.consume");
  unsigned long taken = 0, acknowledged = 0;
  while (taken < count) {
    amqp_envelope_t envelope;
    struct timeval now = {0, 0};
    amqp_maybe_release_buffers(state);
    // What has come is written before it is acknowledged, all of it at once, and only then more is waited for.
    amqp_rpc_reply_t reply = amqp_consume_message(state, &envelope, taken > acknowledged ? &now : NULL, 0);
    if (reply.reply_type == AMQP_RESPONSE_NORMAL) {
      fwrite(envelope.message.body.bytes, 1, envelope.message.body.len, stdout);
      putchar('\n');
      taken = envelope.delivery_tag;
      amqp_destroy_envelope(&envelope);
    } else if (reply.library_error != AMQP_STATUS_TIMEOUT) {
      fail("consuming");
    }
    if (reply.reply_type != AMQP_RESPONSE_NORMAL || taken == count || taken - acknowledged >= (unsigned)prefetch / 2) {
      if (fflush(stdout)) fail("writing");
      amqp_basic_ack(state, 1, taken, 1);
      acknowledged = taken;
    }
  }
  return 0;
}

int main(int count, char **words) {
  if (count < 6) return 2;
  amqp_connection_state_t state = open_connection(words[2], atoi(words[3]));
  int status = strcmp(words[1], "publish") == 0 ? publish(state, words[4], strtoul(words[5], NULL, 10))
                                                : consume(state, words[4], atoi(words[5]), strtoul(words[6], NULL, 10));
  amqp_connection_close(state, AMQP_REPLY_SUCCESS);
  amqp_destroy_connection(state);
  return status;
}
