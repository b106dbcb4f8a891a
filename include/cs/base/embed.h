/* base/embed: files that the build turned into arrays (src/tools/embed.c).
 *
 * Layer: base. Constant data; any thread. An array ends with an entry whose name is NULL.
 */
#ifndef CS_BASE_EMBED_H
#define CS_BASE_EMBED_H

#include <stddef.h>

struct cs_embedded {
    const char *name;          /* the file's name without its folder */
    const unsigned char *data; /* the bytes, then a NUL that len does not count */
    size_t len;
};

#endif
