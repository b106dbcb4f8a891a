/* api/peer: the user at the other end of a loopback connection. */
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "priv.h"

/* The kernel's table is asked for the client's own socket: its local end is @client. */
static void fill(struct inet_diag_sockid *id, const struct sockaddr_storage *client,
                 const struct sockaddr_storage *server)
{
    memset(id, 0, sizeof *id);
    id->idiag_cookie[0] = INET_DIAG_NOCOOKIE;
    id->idiag_cookie[1] = INET_DIAG_NOCOOKIE;
    if (client->ss_family == AF_INET) {
        const struct sockaddr_in *c = (const struct sockaddr_in *)(const void *)client;
        const struct sockaddr_in *s = (const struct sockaddr_in *)(const void *)server;

        id->idiag_sport = c->sin_port;
        id->idiag_dport = s->sin_port;
        memcpy(id->idiag_src, &c->sin_addr, sizeof c->sin_addr);
        memcpy(id->idiag_dst, &s->sin_addr, sizeof s->sin_addr);
    } else {
        const struct sockaddr_in6 *c = (const struct sockaddr_in6 *)(const void *)client;
        const struct sockaddr_in6 *s = (const struct sockaddr_in6 *)(const void *)server;

        id->idiag_sport = c->sin6_port;
        id->idiag_dport = s->sin6_port;
        memcpy(id->idiag_src, &c->sin6_addr, sizeof c->sin6_addr);
        memcpy(id->idiag_dst, &s->sin6_addr, sizeof s->sin6_addr);
    }
}

struct question {
    struct nlmsghdr header;
    struct inet_diag_req_v2 body;
};

struct answer {
    struct nlmsghdr header;
    union {
        struct inet_diag_msg found;
        struct nlmsgerr error;
        char room[1024]; /* attributes that nobody asked for */
    } body;
};

/* A socket that its owner has closed reports uid 0 and inode 0: nobody's. */
static enum cs_peer judge(const struct answer *answer, size_t len,
                          const struct inet_diag_sockid *asked)
{
    const struct inet_diag_msg *found = &answer->body.found;

    if (len < NLMSG_HDRLEN || answer->header.nlmsg_len > len)
        return CS_PEER_UNKNOWN;
    if (answer->header.nlmsg_type == NLMSG_ERROR &&
        answer->header.nlmsg_len >= NLMSG_LENGTH(sizeof answer->body.error))
        return answer->body.error.error == -ENOENT ? CS_PEER_OTHER : CS_PEER_UNKNOWN;
    if (answer->header.nlmsg_type != SOCK_DIAG_BY_FAMILY ||
        answer->header.nlmsg_len < NLMSG_LENGTH(sizeof *found))
        return CS_PEER_UNKNOWN;
    if (found->id.idiag_sport != asked->idiag_sport || found->id.idiag_dport != asked->idiag_dport)
        return CS_PEER_OTHER;
    return found->idiag_inode != 0 && found->idiag_uid == geteuid() ? CS_PEER_OURS : CS_PEER_OTHER;
}

enum cs_peer cs_peer_find(const struct sockaddr_storage *client,
                          const struct sockaddr_storage *server)
{
    struct question question;
    struct answer answer;
    struct timeval patience = {.tv_sec = 1};
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    enum cs_peer peer = CS_PEER_UNKNOWN;
    ssize_t got;
    int fd;

    if (client->ss_family != server->ss_family)
        return CS_PEER_OTHER;
    memset(&question, 0, sizeof question);
    question.header.nlmsg_len = sizeof question;
    question.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
    question.header.nlmsg_flags = NLM_F_REQUEST;
    question.body.sdiag_family = (unsigned char)client->ss_family;
    question.body.sdiag_protocol = IPPROTO_TCP;
    fill(&question.body.id, client, server);

    fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (fd < 0)
        return CS_PEER_UNKNOWN;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (sendto(fd, &question, sizeof question, 0, (struct sockaddr *)&kernel, sizeof kernel) ==
        (ssize_t)sizeof question) {
        got = recv(fd, &answer, sizeof answer, 0);
        if (got > 0)
            peer = judge(&answer, (size_t)got, &question.body.id);
    }
    (void)close(fd);
    return peer;
}
