/* TLS over any wire: OpenSSL sees two memory buffers, never a socket, so that deadlines,
 * interruption and signals are the lower wire's business alone. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "priv.h"

#define RECORD 16384 /* plain bytes of a TLS record */

struct tls_wire {
    struct cs_wire wire;
    struct cs_wire *lower; /* owned */
    SSL *ssl;
    BIO *from_peer, *to_peer; /* owned by ssl */
    char sealed[RECORD];      /* taken from to_peer, [pos, len) not yet written */
    size_t pos, len;
    char got[RECORD]; /* scratch: read from below */
};

/* Record what OpenSSL complains of. */
static enum cs_status tls_error(struct cs_err *err, enum cs_error error, const char *doing)
{
    unsigned long code = ERR_peek_last_error();
    const char *reason = code ? ERR_reason_error_string(code) : NULL;
    ERR_clear_error();
    return cs_error_set(err, error, doing, reason ? reason : "unknown error");
}

/* Write what TLS has to send. */
static enum cs_status drain(struct tls_wire *t, int64_t deadline, struct cs_err *err)
{
    for (;;) {
        while (t->pos < t->len) {
            size_t n = 0;
            enum cs_status rc = t->lower->ops->write(t->lower, t->sealed + t->pos, t->len - t->pos,
                                                     deadline, &n, err);
            if (rc != CS_OK)
                return rc;
            t->pos += n;
        }
        int n = BIO_read(t->to_peer, t->sealed, sizeof t->sealed);
        if (n <= 0)
            return CS_OK;
        t->pos = 0;
        t->len = (size_t)n;
    }
}

/* Read some bytes for TLS from the lower wire. */
static enum cs_status fill(struct tls_wire *t, int64_t deadline, struct cs_err *err)
{
    size_t n = 0;
    enum cs_status rc = t->lower->ops->read(t->lower, t->got, sizeof t->got, deadline, &n, err);
    if (rc != CS_OK)
        return rc;
    return BIO_write(t->from_peer, t->got, (int)n) == (int)n ? CS_OK : cs_err_nomem(err);
}

static enum cs_status tls_read(struct cs_wire *wire, void *to, size_t cap, int64_t deadline,
                               size_t *out_len, struct cs_err *err)
{
    struct tls_wire *t = (struct tls_wire *)wire;
    for (;;) {
        size_t n = 0;
        ERR_clear_error();
        int ok = SSL_read_ex(t->ssl, to, cap, &n);
        if (ok == 1) {
            *out_len = n;
            return CS_OK;
        }
        int why = SSL_get_error(t->ssl, ok);
        if (why == SSL_ERROR_ZERO_RETURN)
            return cs_error_set(err, CS_ERROR_LOST, "reading from Redis",
                                "the server closed the connection");
        if (why != SSL_ERROR_WANT_READ)
            return tls_error(err, CS_ERROR_LOST, "reading from Redis over TLS");
        enum cs_status rc = drain(t, deadline, err);
        if (rc == CS_OK)
            rc = fill(t, deadline, err);
        if (rc != CS_OK)
            return rc;
    }
}

/* Bytes that TLS has taken count as written; drain() sends them here or, after an interruption, in
 * the next call. */
static enum cs_status tls_write(struct cs_wire *wire, const void *data, size_t len,
                                int64_t deadline, size_t *out_len, struct cs_err *err)
{
    struct tls_wire *t = (struct tls_wire *)wire;
    size_t n = 0;
    enum cs_status rc = drain(t, deadline, err);
    if (rc != CS_OK)
        return rc;
    ERR_clear_error();
    if (SSL_write_ex(t->ssl, data, len < RECORD ? len : RECORD, &n) != 1)
        return tls_error(err, CS_ERROR_LOST, "writing to Redis over TLS");
    struct cs_err interrupted = {0};
    rc = drain(t, deadline, &interrupted);
    if (rc != CS_OK && rc != CS_CANCELLED)
        return cs_err_set(err, rc, interrupted.code, "%s", interrupted.msg);
    *out_len = n;
    return CS_OK;
}

static void tls_close(struct cs_wire *wire)
{
    struct tls_wire *t = (struct tls_wire *)wire;
    if (t->ssl && SSL_is_init_finished(t->ssl)) {
        (void)SSL_shutdown(t->ssl);     /* say good-bye, */
        if (drain(t, 0, NULL) != CS_OK) /* if that needs no waiting */
            ERR_clear_error();
    }
    SSL_free(t->ssl);
    t->lower->ops->close(t->lower);
    ERR_clear_error();
    free(t);
}

static const struct cs_wire_ops tls_ops = {tls_read, tls_write, tls_close};

/* ---- The handshake --------------------------------------------------------------------------- */

static enum cs_status new_context(const char *ca_file, SSL_CTX **out_context, struct cs_err *err)
{
    ERR_clear_error();
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (!context)
        return cs_err_nomem(err);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    (void)SSL_CTX_set_options(context, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
    int ok = SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) == 1;
    if (ok && ca_file)
        ok = SSL_CTX_load_verify_locations(context, ca_file, NULL) == 1;
    else if (ok)
        ok = SSL_CTX_set_default_verify_paths(context) == 1;
    if (!ok) {
        SSL_CTX_free(context);
        return tls_error(err, CS_ERROR_TLS, "reading the trusted certificates for Redis");
    }
    *out_context = context;
    return CS_OK;
}

/* Demand that the certificate is for @host, and tell the server which one is wanted. */
static int expect_host(SSL *ssl, const char *host)
{
    unsigned char address[sizeof(struct in6_addr)];
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
    if (inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1)
        return X509_VERIFY_PARAM_set1_ip_asc(param, host);
    char name[256]; /* OpenSSL's macro takes no const */
    int len = snprintf(name, sizeof name, "%s", host);
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return len < (int)sizeof name && X509_VERIFY_PARAM_set1_host(param, host, 0) == 1 &&
           SSL_set_tlsext_host_name(ssl, name) == 1;
}

static enum cs_status set_up(struct tls_wire *t, const struct cs_dial *dial, struct cs_err *err)
{
    SSL_CTX *context = NULL;
    enum cs_status rc = new_context(dial->ca_file, &context, err);
    if (rc != CS_OK)
        return rc;
    t->ssl = SSL_new(context);
    SSL_CTX_free(context); /* ssl holds a reference */
    BIO *from_peer = BIO_new(BIO_s_mem());
    BIO *to_peer = BIO_new(BIO_s_mem());
    if (!t->ssl || !from_peer || !to_peer) {
        BIO_free(from_peer);
        BIO_free(to_peer);
        return cs_err_nomem(err);
    }
    (void)BIO_set_mem_eof_return(from_peer, -1); /* an empty buffer is not the end of the stream */
    (void)BIO_set_mem_eof_return(to_peer, -1);
    SSL_set_bio(t->ssl, from_peer, to_peer);
    t->from_peer = from_peer;
    t->to_peer = to_peer;
    SSL_set_connect_state(t->ssl);
    if (!expect_host(t->ssl, dial->endpoint->host))
        return tls_error(err, CS_ERROR_TLS, "preparing TLS to Redis");
    return CS_OK;
}

/* Why the handshake failed; the server is told by an alert, if that needs no waiting. */
static enum cs_status refused(struct tls_wire *t, struct cs_err *err)
{
    long verdict = SSL_get_verify_result(t->ssl);
    if (drain(t, 0, NULL) != CS_OK)
        t->pos = t->len;
    if (verdict == X509_V_OK)
        return tls_error(err, CS_ERROR_TLS, "TLS handshake with Redis");
    ERR_clear_error();
    return cs_error_set(err, CS_ERROR_TLS, "the certificate of Redis is not accepted",
                        X509_verify_cert_error_string(verdict));
}

static enum cs_status shake_hands(struct tls_wire *t, const struct cs_dial *dial,
                                  struct cs_err *err)
{
    for (;;) {
        ERR_clear_error();
        int ok = SSL_do_handshake(t->ssl);
        if (ok == 1)
            return drain(t, dial->deadline, err);
        if (SSL_get_error(t->ssl, ok) != SSL_ERROR_WANT_READ)
            return refused(t, err);
        enum cs_status rc = drain(t, dial->deadline, err);
        if (rc == CS_OK)
            rc = fill(t, dial->deadline, err);
        if (rc != CS_OK)
            return rc;
    }
}

enum cs_status cs_tls_wrap_take(struct cs_wire *lower, const struct cs_dial *dial,
                                struct cs_wire **out_wire, struct cs_err *err)
{
    struct tls_wire *t = calloc(1, sizeof *t);
    if (!t) {
        lower->ops->close(lower);
        return cs_err_nomem(err);
    }
    t->wire.ops = &tls_ops;
    t->lower = lower;
    enum cs_status rc = set_up(t, dial, err);
    if (rc == CS_OK)
        rc = shake_hands(t, dial, err);
    if (rc == CS_OK)
        *out_wire = &t->wire;
    else
        tls_close(&t->wire);
    return rc;
}
