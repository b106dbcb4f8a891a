#include "ws_frame.h"

#include <string.h>

#include "cs/base/hash.h"
#include "cs/base/json.h"

#define KEY_LEN 24 /* base64 of 16 bytes */

#define FIN      0x80u
#define RESERVED 0x70u
#define OPCODE   0x0fu
#define MASK     0x80u
#define LENGTH   0x7fu

void cs_ws_reader_init(struct cs_ws_reader *reader, size_t max)
{
    memset(reader, 0, sizeof *reader);
    cs_buf_init(&reader->message, max);
}

void cs_ws_reader_fini(struct cs_ws_reader *reader)
{
    cs_buf_fini(&reader->message);
}

static enum cs_ws_got fail(struct cs_ws_reader *reader, enum cs_ws_code code, const char *why)
{
    reader->code = (int)code;
    reader->why = why;
    return CS_WS_GOT_ERROR;
}

static enum cs_ws_op op_of(const struct cs_ws_reader *reader)
{
    return (enum cs_ws_op)(reader->head[0] & OPCODE);
}

static bool is_control(const struct cs_ws_reader *reader)
{
    return (reader->head[0] & 0x08u) != 0;
}

static bool is_final(const struct cs_ws_reader *reader)
{
    return (reader->head[0] & FIN) != 0;
}

/* Bytes of the header, as far as its first two say. */
static size_t head_size(const struct cs_ws_reader *reader)
{
    size_t size = 2;

    if (reader->head_len < 2)
        return size;
    if ((reader->head[1] & LENGTH) == 126)
        size += 2;
    else if ((reader->head[1] & LENGTH) == 127)
        size += 8;
    return (reader->head[1] & MASK) != 0 ? size + 4 : size;
}

/* The payload's length; false when it was not written the shortest way. */
static bool read_length(struct cs_ws_reader *reader)
{
    unsigned char first = reader->head[1] & LENGTH;
    size_t i, bytes = first == 126 ? 2 : first == 127 ? 8 : 0;

    reader->left = bytes == 0 ? first : 0;
    for (i = 0; i < bytes; i++)
        reader->left = reader->left << 8 | reader->head[2 + i];
    if (bytes == 2)
        return reader->left >= 126;
    return bytes == 0 || (reader->left >= 65536 && reader->left >> 63 == 0);
}

static enum cs_ws_got check_data_frame(struct cs_ws_reader *reader)
{
    switch (op_of(reader)) {
    case CS_WS_CONTINUATION:
        if (!reader->in_message)
            return fail(reader, CS_WS_PROTOCOL_ERROR, "a continuation of nothing");
        break;
    case CS_WS_TEXT:
        if (reader->in_message)
            return fail(reader, CS_WS_PROTOCOL_ERROR, "a message within a message");
        break;
    case CS_WS_BINARY:
        return fail(reader, CS_WS_UNSUPPORTED, "messages are text");
    case CS_WS_CLOSE:
    case CS_WS_PING:
    case CS_WS_PONG:
    default:
        return fail(reader, CS_WS_PROTOCOL_ERROR, "an unknown opcode");
    }
    if (reader->left > reader->message.max - reader->message.len)
        return fail(reader, CS_WS_TOO_BIG, "the message is too big");
    return CS_WS_GOT_NOTHING;
}

static enum cs_ws_got check_control_frame(struct cs_ws_reader *reader)
{
    enum cs_ws_op op = op_of(reader);

    if (op != CS_WS_CLOSE && op != CS_WS_PING && op != CS_WS_PONG)
        return fail(reader, CS_WS_PROTOCOL_ERROR, "an unknown opcode");
    if (!is_final(reader) || reader->left > CS_WS_CONTROL_MAX)
        return fail(reader, CS_WS_PROTOCOL_ERROR, "a control frame in pieces");
    reader->control_len = 0;
    return CS_WS_GOT_NOTHING;
}

/* The header is whole: everything that can be refused is, before a byte of payload is kept. */
static enum cs_ws_got begin_payload(struct cs_ws_reader *reader)
{
    bool shortest = read_length(reader);

    if ((reader->head[0] & RESERVED) != 0)
        return fail(reader, CS_WS_PROTOCOL_ERROR, "a reserved bit is set");
    if ((reader->head[1] & MASK) == 0)
        return fail(reader, CS_WS_PROTOCOL_ERROR, "a frame without a mask");
    if (!shortest)
        return fail(reader, CS_WS_PROTOCOL_ERROR, "a length in more bytes than it needs");
    reader->in_payload = true;
    reader->masked = 0;
    return is_control(reader) ? check_control_frame(reader) : check_data_frame(reader);
}

static void unmask(struct cs_ws_reader *reader, unsigned char *data, size_t len)
{
    const unsigned char *mask = reader->head + reader->head_len - 4;
    size_t i;

    for (i = 0; i < len; i++)
        data[i] ^= mask[reader->masked++ & 3];
}

static bool is_close_code(int code)
{
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) ||
           (code >= 3000 && code <= 4999);
}

static enum cs_ws_got end_close(struct cs_ws_reader *reader)
{
    int code = reader->control[0] << 8 | reader->control[1];

    reader->code = CS_WS_NO_CODE;
    if (reader->control_len == 0)
        return CS_WS_GOT_CLOSE;
    if (reader->control_len == 1 || !is_close_code(code))
        return fail(reader, CS_WS_PROTOCOL_ERROR, "not a code to close with");
    if (!cs_utf8_valid((const char *)reader->control + 2, reader->control_len - 2))
        return fail(reader, CS_WS_BAD_DATA, "the reason is not UTF-8");
    reader->code = code;
    return CS_WS_GOT_CLOSE;
}

static enum cs_ws_got end_frame(struct cs_ws_reader *reader)
{
    enum cs_ws_op op = op_of(reader);

    reader->in_payload = false;
    reader->head_len = 0;
    if (op == CS_WS_CLOSE)
        return end_close(reader);
    if (op == CS_WS_PING || op == CS_WS_PONG)
        return op == CS_WS_PING ? CS_WS_GOT_PING : CS_WS_GOT_PONG;
    reader->in_message = !is_final(reader);
    if (reader->in_message)
        return CS_WS_GOT_NOTHING;
    reader->given = true;
    if (!cs_utf8_valid(reader->message.data, reader->message.len))
        return fail(reader, CS_WS_BAD_DATA, "the message is not UTF-8");
    return CS_WS_GOT_TEXT;
}

/* Keep what @data has of the frame's payload; returns the bytes taken. */
static size_t take_payload(struct cs_ws_reader *reader, unsigned char *data, size_t len)
{
    size_t take = reader->left < len ? (size_t)reader->left : len;

    unmask(reader, data, take);
    if (is_control(reader)) {
        memcpy(reader->control + reader->control_len, data, take);
        reader->control_len += take;
    } else {
        cs_buf_add(&reader->message, data, take);
    }
    reader->left -= take;
    return take;
}

enum cs_ws_got cs_ws_read(struct cs_ws_reader *reader, unsigned char *data, size_t len,
                          size_t *out_used)
{
    enum cs_ws_got got = CS_WS_GOT_NOTHING;
    size_t used = 0;

    if (reader->given) {
        cs_buf_reset(&reader->message);
        reader->given = false;
    }
    while (got == CS_WS_GOT_NOTHING && used < len) {
        if (!reader->in_payload) {
            reader->head[reader->head_len++] = data[used++];
            if (reader->head_len >= 2 && reader->head_len == head_size(reader))
                got = begin_payload(reader);
        } else {
            used += take_payload(reader, data + used, len - used);
        }
        if (reader->message.status != CS_OK)
            got = fail(reader, CS_WS_INTERNAL, "out of memory");
        if (got == CS_WS_GOT_NOTHING && reader->in_payload && reader->left == 0)
            got = end_frame(reader);
    }
    *out_used = used;
    return got;
}

bool cs_ws_partial(const struct cs_ws_reader *reader)
{
    return reader->head_len > 0 || reader->in_message;
}

size_t cs_ws_head(unsigned char out[CS_WS_HEAD_MAX], enum cs_ws_op op, size_t len)
{
    size_t i, bytes = len < 126 ? 0 : len < 65536 ? 2 : 8;

    out[0] = (unsigned char)(FIN | (unsigned)op);
    out[1] = (unsigned char)(bytes == 0 ? len : bytes == 2 ? 126 : 127);
    for (i = 0; i < bytes; i++)
        out[2 + i] = (unsigned char)((uint64_t)len >> (8 * (bytes - 1 - i)));
    return 2 + bytes;
}

enum cs_status cs_ws_accept(const char *key, char out[CS_WS_ACCEPT_MAX], struct cs_err *err)
{
    static const char base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char text[KEY_LEN + sizeof "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"]; /* section 1.3 */

    if (strspn(key, base64) != KEY_LEN - 2 || strcmp(key + KEY_LEN - 2, "==") != 0)
        return cs_err_set(err, CS_INVALID, "invalid_websocket_key",
                          "Sec-WebSocket-Key is not the base64 of 16 bytes");
    memcpy(text, key, KEY_LEN);
    memcpy(text + KEY_LEN, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", sizeof text - KEY_LEN);
    return cs_sha1_base64(text, strlen(text), out, err);
}
