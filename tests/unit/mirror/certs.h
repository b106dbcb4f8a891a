/* Certificates for tests: an authority and what it signs, made on the spot.
 *
 * Functions assert.
 */
#ifndef TESTS_UNIT_MIRROR_CERTS_H
#define TESTS_UNIT_MIRROR_CERTS_H

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "server.h"

struct cert {
    EVP_PKEY *key;
    X509 *x509;
};

UNUSED_OK static void cert_extend(X509 *x509, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, x509, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    assert_non_null(extension);
    assert_int_equal(X509_add_ext(x509, extension, -1), 1);
    X509_EXTENSION_free(extension);
}

/* A certificate for @names ("DNS:h,IP:1.2.3.4"; NULL: an authority), valid until @seconds from now,
 * signed by @issuer (NULL: by itself). */
UNUSED_OK static struct cert cert_make(const struct cert *issuer, const char *names, long seconds)
{
    static long serial = 1;
    struct cert cert = {EVP_EC_gen("P-256"), X509_new()};
    assert_non_null(cert.key);
    assert_non_null(cert.x509);
    const struct cert *by = issuer ? issuer : &cert;
    X509_NAME *name = X509_get_subject_name(cert.x509);
    unsigned char text[40];
    (void)snprintf((char *)text, sizeof text, "%s %ld", names ? "server" : "authority", serial);
    (void)X509_set_version(cert.x509, 2);
    (void)ASN1_INTEGER_set(X509_get_serialNumber(cert.x509), serial++);
    (void)X509_gmtime_adj(X509_getm_notBefore(cert.x509), -86400);
    (void)X509_gmtime_adj(X509_getm_notAfter(cert.x509), seconds);
    (void)X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, text, -1, -1, 0);
    (void)X509_set_issuer_name(cert.x509, X509_get_subject_name(by->x509));
    (void)X509_set_pubkey(cert.x509, cert.key);
    cert_extend(cert.x509, by->x509, NID_basic_constraints,
                names ? "CA:FALSE" : "critical,CA:TRUE");
    if (names)
        cert_extend(cert.x509, by->x509, NID_subject_alt_name, names);
    assert_true(X509_sign(cert.x509, by->key, EVP_sha256()) > 0);
    return cert;
}

UNUSED_OK static void cert_free(struct cert *cert)
{
    X509_free(cert->x509);
    EVP_PKEY_free(cert->key);
}

/* Write a certificate and (unless NULL) its key as PEM files in @dir. */
UNUSED_OK static void cert_write(const struct cert *cert, const char *dir, const char *cert_name,
                                 const char *key_name)
{
    char path[100];
    (void)snprintf(path, sizeof path, "%s/%s", dir, cert_name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(PEM_write_X509(file, cert->x509), 1);
    (void)fclose(file);
    if (!key_name)
        return;
    (void)snprintf(path, sizeof path, "%s/%s", dir, key_name);
    file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(PEM_write_PrivateKey(file, cert->key, NULL, NULL, 0, NULL, NULL), 1);
    (void)fclose(file);
}

#endif
