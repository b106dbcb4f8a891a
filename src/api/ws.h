/* api/ws: a WebSocket: who writes on it, and what is subscribed to.
 *
 * Layer: api, private. The worker that took the handshake reads and acts; every subscription has a
 * thread that carries its events out. All write through cs_ws_send().
 */
#ifndef CS_API_WS_H
#define CS_API_WS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "cs/core/events.h"
#include "priv.h"
#include "ws_frame.h"

#define CS_WS_SUBSCRIPTIONS_MAX 16
#define CS_WS_ID_MAX            65 /* of what a client calls a request, with its NUL */

struct cs_ws;

struct cs_ws_subscription {
    struct cs_ws *ws; /* NULL: the place is free */
    char id[CS_WS_ID_MAX];
    bool once; /* ends with its turn, */
    char tid[CS_UUID_MAX];
    atomic_bool done; /* all its thread has left to do is to say how it ended */
    pthread_t thread;
    struct cs_feed *feed; /* under ws->feeds; NULL once the thread closed it */
};

struct cs_ws {
    struct cs_request *rq;
    int fd; /* civetweb's */
    struct cs_ws_reader reader;
    int64_t heard_at;           /* mono ms: the last byte */
    int64_t began_at;           /* mono ms: the first byte of the message under way; 0: none is */
    long long held;             /* bytes of it, counted in http->body_bytes */
    bool pinged;                /* nothing was heard since */
    int code;                   /* to close with; 0: goes on */
    const char *why;            /* static */
    struct cs_ws *next, **link; /* http->sockets, under its mutex */

    pthread_mutex_t writing; /* guards the writing end and `broken` */
    bool broken;             /* the other side takes no more */
    pthread_mutex_t feeds;   /* guards subscriptions[].feed */
    struct cs_ws_subscription subscriptions[CS_WS_SUBSCRIPTIONS_MAX];
};

/** Send a frame. False when the other side is gone or does not read: nothing more can be sent then,
 * and the reader is woken. Any thread. */
bool cs_ws_send(struct cs_ws *ws, enum cs_ws_op op, const void *data, size_t len);
/** Do what the message @text asks for, and answer it. */
void cs_ws_act(struct cs_ws *ws, const char *text, size_t len);
/** End all subscriptions, and wait for their threads. */
void cs_ws_end_all(struct cs_ws *ws);

#endif
