/*
 * Two processes, OpenSSL's handshake over TCP, SMT's messages on the secrets that come of it.
 *
 *     secrets [--raw]
 *
 * The parent is the client, its child the server, both on 127.0.0.1. They make two sessions, one
 * after the other: the keys of the first are updated with TLS KeyUpdate messages, those of the
 * second by themselves. --raw sends SMT's own IP protocol instead of UDP and needs CAP_NET_RAW.
 *
 * Build, with libssl-dev and an installed libsmt (docs/c.md):
 *
 *     cc -o secrets secrets.c $(pkg-config --cflags --libs smt libssl libcrypto)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <smt.h>

#define SERVER_NAME "server.example"
#define SMT_PORT 4433
#define MAX_SECRET 48

static const char *who = "?";

static void die(const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fprintf(stderr, "%s: %s\n", who, text);
    ERR_print_errors_fp(stderr);
    exit(1);
}

/* Every call of libsmt goes through this: what fails is told in the library's words. */
#define SMT(call) smt_check((call), #call)
static void smt_check(smt_status status, const char *call) {
    if (status != SMT_OK) die("%s: %s", call, smt_last_error());
}

/* ---- one end --------------------------------------------------------------------------------- */

struct secret {
    uint8_t bytes[MAX_SECRET];
    size_t len;
};

struct end {
    uint32_t role; /* SMT_CLIENT or SMT_SERVER */
    smt_engine *engine;
    smt_session session;
    SSL *ssl;
    int epoll;
    uint16_t updates; /* SMT_UPDATES_DERIVED or SMT_UPDATES_REGISTERED */
    /* The present traffic secrets: [0] the client's, [1] the server's. */
    struct secret traffic[2];
};

/* ---- the secrets of OpenSSL ------------------------------------------------------------------ */

/* OpenSSL gives the secrets to nobody but key logs, so this is one: "<label> <random> <secret>". */
static void on_key_log(const SSL *ssl, const char *line) {
    static const char *const labels[2] = {"CLIENT_TRAFFIC_SECRET_0 ", "SERVER_TRAFFIC_SECRET_0 "};
    struct end *end = SSL_get_app_data(ssl);
    for (int side = 0; side < 2; side++) {
        struct secret *secret = &end->traffic[side];
        if (strncmp(line, labels[side], strlen(labels[side])) != 0) continue;
        const char *hex = strrchr(line, ' ') + 1;
        if (!OPENSSL_hexstr2buf_ex(secret->bytes, MAX_SECRET, &secret->len, hex, '\0'))
            die("a key log line without a secret");
    }
}

/* The next traffic secret (RFC 8446, 7.2): HKDF-Expand-Label(secret, "traffic upd", "", length). */
static void next_traffic_secret(SSL *ssl, struct secret *secret) {
    int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY;
    const EVP_MD *md = SSL_CIPHER_get_handshake_digest(SSL_get_current_cipher(ssl));
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)EVP_MD_get0_name(md), 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, secret->bytes, secret->len),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_PREFIX, "tls13 ", 6),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_LABEL, "traffic upd", 11),
        OSSL_PARAM_construct_end(),
    };
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "TLS13-KDF", NULL);
    EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);
    uint8_t next[MAX_SECRET];
    if (ctx == NULL || EVP_KDF_derive(ctx, next, secret->len, params) <= 0)
        die("the next traffic secret cannot be derived");
    memcpy(secret->bytes, next, secret->len);
    OPENSSL_cleanse(next, sizeof next);
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
}

/* Sees each message of TLS. A KeyUpdate moves the traffic secret of its sender. */
static void on_message(int sent, int version, int content_type, const void *data, size_t len,
                       SSL *ssl, void *arg) {
    struct end *end = arg;
    (void)version;
    if (content_type != SSL3_RT_HANDSHAKE || len == 0 ||
        *(const uint8_t *)data != SSL3_MT_KEY_UPDATE || end->session == 0)
        return;
    int client = (end->role == SMT_CLIENT) == (sent != 0);
    struct secret *secret = &end->traffic[client ? 0 : 1];
    next_traffic_secret(ssl, secret);
    SMT(smt_register_update(end->engine, end->session, sent ? SMT_SEND : SMT_RECEIVE,
                            secret->bytes, secret->len));
    printf("%s: TLS KeyUpdate %s, its secret is registered\n", who, sent ? "sent" : "received");
}

/* ---- the TLS connection ---------------------------------------------------------------------- */

static void tls_write(SSL *ssl, const void *data, size_t len) {
    size_t written;
    if (!SSL_write_ex(ssl, data, len, &written)) die("cannot write to the TLS connection");
}

static void tls_read(SSL *ssl, void *data, size_t len) {
    for (size_t done = 0, count; done < len; done += count) {
        count = 0;
        if (!SSL_read_ex(ssl, (char *)data + done, len - done, &count) &&
            SSL_get_error(ssl, 0) != SSL_ERROR_WANT_READ)
            die("cannot read from the TLS connection");
    }
}

static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                   const unsigned char *in, unsigned int in_len, void *arg) {
    static const unsigned char ours[] = "\x05smt/1";
    (void)ssl, (void)arg;
    if (SSL_select_next_proto((unsigned char **)out, out_len, ours, sizeof ours - 1, in, in_len) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    return SSL_TLSEXT_ERR_OK;
}

/* TLS 1.3 with ALPN smt/1. The server shows `cert`; the client trusts that one alone. */
static SSL_CTX *make_context(uint32_t role, X509 *cert, EVP_PKEY *key) {
    SSL_CTX *ctx = SSL_CTX_new(TLS_method());
    int ok = ctx != NULL && SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
    if (role == SMT_SERVER) {
        ok = ok && SSL_CTX_use_certificate(ctx, cert) && SSL_CTX_use_PrivateKey(ctx, key);
        /* Session tickets would come later, among what the session does. */
        ok = ok && SSL_CTX_set_num_tickets(ctx, 0);
        SSL_CTX_set_alpn_select_cb(ctx, on_alpn, NULL);
    } else {
        ok = ok && X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), cert);
        ok = ok && SSL_CTX_set_alpn_protos(ctx, (const unsigned char *)"\x05smt/1", 6) == 0;
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    }
    if (!ok) die("cannot set TLS up");
    SSL_CTX_set_keylog_callback(ctx, on_key_log);
    /* A KeyUpdate is no data: reading returns after it instead of waiting for some. */
    SSL_CTX_clear_mode(ctx, SSL_MODE_AUTO_RETRY);
    return ctx;
}

static void handshake(struct end *end, SSL_CTX *ctx, int fd) {
    end->ssl = SSL_new(ctx);
    if (end->ssl == NULL || !SSL_set_fd(end->ssl, fd)) die("cannot set TLS up");
    SSL_set_app_data(end->ssl, end);
    SSL_set_msg_callback(end->ssl, on_message);
    SSL_set_msg_callback_arg(end->ssl, end);
    if (end->role == SMT_CLIENT) {
        if (!SSL_set1_host(end->ssl, SERVER_NAME) ||
            !SSL_set_tlsext_host_name(end->ssl, SERVER_NAME))
            die("cannot set TLS up");
        SSL_set_connect_state(end->ssl);
    } else {
        SSL_set_accept_state(end->ssl);
    }
    if (SSL_do_handshake(end->ssl) != 1) die("the TLS handshake failed");
}

/* ---- the session ----------------------------------------------------------------------------- */

/* Tells the peer our offer over TLS, takes its own, and opens the session on the secrets. */
static void open_session(struct end *end) {
    smt_offer *offer;
    SMT(smt_offer_new(end->engine, end->role, &offer));
    size_t block_len;
    const uint8_t *block = smt_offer_block(offer, &block_len);

    /* Port, UDP port, length of the block: 16 bits each. Then the block. */
    uint16_t head[3] = {htons(smt_offer_port(offer)), htons(smt_offer_udp_port(offer)),
                        htons((uint16_t)block_len)};
    tls_write(end->ssl, head, sizeof head);
    tls_write(end->ssl, block, block_len);
    uint16_t peer_head[3];
    tls_read(end->ssl, peer_head, sizeof peer_head);
    static uint8_t peer_block[UINT16_MAX];
    size_t peer_block_len = ntohs(peer_head[2]);
    tls_read(end->ssl, peer_block, peer_block_len);

    struct sockaddr_storage peer;
    socklen_t peer_len = sizeof peer;
    if (getpeername(SSL_get_fd(end->ssl), (struct sockaddr *)&peer, &peer_len) != 0)
        die("getpeername: %s", strerror(errno));
    const unsigned char *alpn;
    unsigned int alpn_len;
    SSL_get0_alpn_selected(end->ssl, &alpn, &alpn_len);

    smt_session_options options = SMT_SESSION_OPTIONS_INIT;
    options.peer = (struct sockaddr *)&peer;
    options.peer_len = peer_len;
    options.peer_port = ntohs(peer_head[0]);
    options.peer_udp_port = ntohs(peer_head[1]);
    options.peer_block = peer_block;
    options.peer_block_len = peer_block_len;
    options.suite = SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(end->ssl));
    options.updates = end->updates;
    options.alpn = alpn;
    options.alpn_len = alpn_len;
    options.client_secret = end->traffic[0].bytes;
    options.client_secret_len = end->traffic[0].len;
    options.server_secret = end->traffic[1].bytes;
    options.server_secret_len = end->traffic[1].len;
    SMT(smt_open(end->engine, offer, &options, &end->session));
    SMT(smt_offer_free(offer));
    printf("%s: session on the secrets of %s\n", who, SSL_get_cipher_name(end->ssl));
}

/* Sends a KeyUpdate of TLS. on_message() registers the secret that follows from it. */
static void send_key_update(struct end *end) {
    if (!SSL_key_update(end->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) || SSL_do_handshake(end->ssl) != 1)
        die("cannot send a KeyUpdate");
}

/* The TLS connection has something: a KeyUpdate, or its end. */
static void on_tls_readable(struct end *end) {
    char byte;
    if (SSL_read(end->ssl, &byte, 1) > 0) die("the peer sent data over TLS");
    if (SSL_get_error(end->ssl, 0) != SSL_ERROR_WANT_READ) {
        epoll_ctl(end->epoll, EPOLL_CTL_DEL, SSL_get_fd(end->ssl), NULL);
    } else if (end->role == SMT_SERVER) {
        send_key_update(end); /* in our direction, too */
        SMT(smt_update_keys(end->engine, end->session));
    }
}

/* The next event of the session. Waits for it, and for the TLS connection meanwhile. */
static smt_event next_event(struct end *end) {
    for (;;) {
        smt_event event = SMT_EVENT_INIT;
        SMT(smt_next_event(end->engine, &event, 0));
        if (event.kind != SMT_EVENT_NONE) return event;
        /* Nothing is left to do: now the descriptors may be waited for. */
        struct epoll_event ready;
        int count = epoll_wait(end->epoll, &ready, 1, -1);
        if (count < 0 && errno != EINTR) die("epoll_wait: %s", strerror(errno));
        if (count > 0 && ready.data.ptr == end->ssl) on_tls_readable(end);
    }
}

static void watch(struct end *end, int fd, void *what) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = what};
    if (epoll_ctl(end->epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        die("epoll_ctl: %s", strerror(errno));
}

/* One call: asks, waits, prints the answer. */
static void ask(struct end *end, const char *request) {
    SMT(smt_call(end->engine, end->session, request, strlen(request), 5 * 1000000, 0, NULL));
    smt_event event = next_event(end);
    if (event.kind != SMT_EVENT_RESPONSE) die("unexpected event %u", event.kind);
    if (event.status != SMT_OK) die("the call: %s", smt_strerror(event.status));
    printf("%s: \"%s\" -> \"%.*s\"\n", who, request, (int)event.len, (const char *)event.data);
}

static void be_client(struct end *end) {
    ask(end, "hello");
    if (end->updates == SMT_UPDATES_REGISTERED) send_key_update(end);
    SMT(smt_update_keys(end->engine, end->session));
    ask(end, "hello under a new key");
    ask(end, "and once more");
    SMT(smt_close_all(end->engine, 5000));
}

/* Answers in capitals until the client closes the session. */
static void be_server(struct end *end) {
    for (;;) {
        smt_event event = next_event(end);
        if (event.kind == SMT_EVENT_CLOSED) return;
        if (event.kind != SMT_EVENT_REQUEST) continue;
        char answer[256];
        size_t len = event.len;
        if (len > sizeof answer) {
            SMT(smt_refuse(end->engine, event.rpc, 256, "too long for me"));
            continue;
        }
        for (size_t i = 0; i < len; i++) {
            uint8_t c = event.data[i];
            answer[i] = c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c;
        }
        SMT(smt_reply(end->engine, event.rpc, answer, len));
    }
}

/* TLS over `fd`, one session, its end. */
static void run(struct end *end, SSL_CTX *ctx, int fd, uint16_t updates) {
    end->updates = updates;
    end->session = 0;
    handshake(end, ctx, fd);
    open_session(end);
    watch(end, fd, end->ssl);
    if (end->role == SMT_CLIENT)
        be_client(end);
    else
        be_server(end);
    OPENSSL_cleanse(end->traffic, sizeof end->traffic);
    SSL_shutdown(end->ssl);
    SSL_free(end->ssl);
    close(fd);
}

/* ---- both ends ------------------------------------------------------------------------------- */

static void make_certificate(X509 **cert_out, EVP_PKEY **key_out) {
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    X509_NAME *name = X509_get_subject_name(cert);
    X509_EXTENSION *alt =
        X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "DNS:" SERVER_NAME);
    if (key == NULL || alt == NULL || !X509_set_version(cert, 2) ||
        !ASN1_INTEGER_set(X509_get_serialNumber(cert), 1) ||
        !X509_gmtime_adj(X509_getm_notBefore(cert), -60) ||
        !X509_gmtime_adj(X509_getm_notAfter(cert), 3600) ||
        !X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const uint8_t *)SERVER_NAME, -1, -1,
                                    0) ||
        !X509_set_issuer_name(cert, name) || !X509_set_pubkey(cert, key) ||
        !X509_add_ext(cert, alt, -1) || !X509_sign(cert, key, EVP_sha256()))
        die("cannot make a certificate");
    X509_EXTENSION_free(alt);
    *cert_out = cert;
    *key_out = key;
}

int main(int argc, char **argv) {
    int raw = argc > 1 && strcmp(argv[1], "--raw") == 0;
    if (argc > 1 + raw) {
        fprintf(stderr, "usage: %s [--raw]\n", argv[0]);
        return 2;
    }
    X509 *cert;
    EVP_PKEY *key;
    make_certificate(&cert, &key);

    /* The server's TCP socket, made before there are two processes, so that the client finds it. */
    struct sockaddr_in local = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t local_len = sizeof local;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&local, sizeof local) != 0 ||
        listen(listener, 2) != 0 ||
        getsockname(listener, (struct sockaddr *)&local, &local_len) != 0)
        die("cannot listen: %s", strerror(errno));
    pid_t child = fork();
    if (child < 0) die("fork: %s", strerror(errno));
    if (child == 0) prctl(PR_SET_PDEATHSIG, SIGTERM); /* no server is left behind */

    struct end end = {.role = child == 0 ? SMT_SERVER : SMT_CLIENT};
    who = child == 0 ? "server" : "client";
    setvbuf(stdout, NULL, _IOLBF, 0);

    struct sockaddr_in bind_to = {.sin_family = AF_INET, .sin_addr = local.sin_addr};
    smt_options options = SMT_OPTIONS_INIT;
    options.bind = (struct sockaddr *)&bind_to;
    options.bind_len = sizeof bind_to;
    options.roles = end.role;
    options.datapath = raw ? SMT_RAW : SMT_UDP;
    if (end.role == SMT_SERVER) options.port = raw ? SMT_PORT : 0;
    SMT(smt_engine_new(&options, &end.engine));
    int32_t fd;
    SMT(smt_engine_fd(end.engine, &fd));
    end.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (end.epoll < 0) die("epoll_create1: %s", strerror(errno));
    watch(&end, fd, NULL);

    static const uint16_t updates[] = {SMT_UPDATES_REGISTERED, SMT_UPDATES_DERIVED};
    SSL_CTX *ctx = make_context(end.role, cert, key);
    for (size_t i = 0; i < sizeof updates / sizeof *updates; i++) {
        int tcp;
        if (end.role == SMT_SERVER) {
            tcp = accept(listener, NULL, NULL);
        } else {
            tcp = socket(AF_INET, SOCK_STREAM, 0);
            if (connect(tcp, (struct sockaddr *)&local, sizeof local) != 0)
                die("connect: %s", strerror(errno));
        }
        if (tcp < 0) die("no TCP connection: %s", strerror(errno));
        run(&end, ctx, tcp, updates[i]);
    }
    if (end.role == SMT_SERVER) SMT(smt_close_all(end.engine, 5000));

    smt_counters counters = SMT_COUNTERS_INIT;
    SMT(smt_engine_counters(end.engine, &counters));
    printf("%s: %llu key updates\n", who, (unsigned long long)counters.key_updates);
    SMT(smt_engine_free(end.engine));
    close(end.epoll);
    close(listener);
    SSL_CTX_free(ctx);
    X509_free(cert);
    EVP_PKEY_free(key);
    if (child == 0) return 0;
    int status;
    if (waitpid(child, &status, 0) != child || status != 0) die("the server failed");
    return 0;
}
