/*
 * libsmt: Secure Message Transport for C.
 *
 * Encrypted RPCs between two ends that share the traffic secrets of a TLS 1.3 connection. Your own
 * TLS library does the handshake, over TCP for instance; this library takes the secrets and moves
 * the messages. docs/c.md is the tutorial, examples/c/secrets.c a whole program with OpenSSL, and
 * docs/spec.md the protocol.
 *
 * ORDER OF CALLS
 *
 *     smt_engine_new          once per thread that moves packets
 *     smt_engine_fd           the descriptor to watch
 *     for each session:
 *         smt_offer_new       after the TLS handshake: what to tell the peer
 *         (exchange offers)   over the TLS connection: port, UDP port, parameter block
 *         smt_open            with the peer's offer and the traffic secrets
 *         smt_offer_free
 *     smt_call, smt_reply, smt_refuse, smt_cancel, ...
 *     smt_next_event          until it gives SMT_EVENT_NONE; then wait for the descriptor
 *     smt_close               for each session
 *     smt_close_all           lets what is in flight end
 *     smt_engine_free
 *
 * Both ends may call and both may answer, whichever was the client of TLS.
 *
 * THREADS
 *
 * There are no threads of the library's own in an engine made here, no callbacks and no signal
 * handlers. An engine belongs to one thread at a time: it may move between threads, but where two
 * call at once, one of them gets SMT_ERR_BUSY and nothing has happened. Any number of engines may
 * be used side by side. A child made by fork(2) must not use its parent's engines, nor free them;
 * descriptors close by themselves at exec(3).
 *
 * ERRORS
 *
 * Functions return SMT_OK or say what is wrong; what they were to write is then untouched.
 * smt_strerror() has a sentence for each status, smt_last_error() the details of what failed last
 * on this thread. A NULL pointer where something must be, a structure of unknown size, a number out
 * of range: SMT_ERR_INVALID. A handle that was never given out or was freed: SMT_ERR_HANDLE, always
 * (handles are numbers in the guise of pointers, never to be followed). Should the library fail by
 * a mistake of its own, the call returns SMT_ERR_BUG, and so does every later one with that engine
 * but smt_engine_free(). Only exhausted memory ends the process.
 *
 * OWNERSHIP
 *
 * Whatever a function is given, it copies what it needs before it returns. Handles belong to the
 * caller, who frees them. What smt_next_event() points to belongs to the engine until the next call
 * of smt_next_event() or smt_engine_free(); other memory given out says so at its function.
 *
 * STRUCTURES
 *
 * Those with a member `size` may grow in later versions. Clear them and set `size` to their sizeof,
 * or use the initialisers SMT_..._INIT: a program keeps working with a later library, and one that
 * uses members which an older library does not know is told so by SMT_ERR_INVALID. Members named
 * `reserved` must be 0.
 */
#ifndef SMT_H
#define SMT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Version of this header. smt_version() tells the library's. */
#define SMT_VERSION_MAJOR 0
#define SMT_VERSION_MINOR 1
#define SMT_VERSION_PATCH 0

/* ---- status ---------------------------------------------------------------------------------- */

typedef int32_t smt_status;

enum {
    SMT_OK = 0,
    /* Misuse. */
    SMT_ERR_INVALID = 1,        /* an argument cannot be what it is */
    SMT_ERR_HANDLE = 2,         /* no such engine or offer, or it was freed */
    SMT_ERR_BUSY = 3,           /* another thread is using the engine */
    SMT_ERR_BUG = 4,            /* a mistake of the library; please report smt_last_error() */
    /* Making an engine. */
    SMT_ERR_PRIVILEGE = 16,     /* raw IP sockets need CAP_NET_RAW */
    SMT_ERR_PORT_IN_USE = 17,   /* another process or engine owns the port, or all ports are owned */
    SMT_ERR_ADDRESS = 18,       /* no interface has the address */
    SMT_ERR_IO = 19,            /* the host refused something */
    /* Opening a session. */
    SMT_ERR_ROLE = 32,          /* the engine was not made for this role, or has no port left */
    SMT_ERR_PARAMETERS = 33,    /* the peer's parameter block is damaged or does not fit ours */
    SMT_ERR_UNREACHABLE = 34,   /* no route to the peer */
    SMT_ERR_LIMIT = 35,         /* the engine has as many sessions as it may */
    /* Starting a call: nothing was sent. */
    SMT_ERR_NO_SESSION = 48,    /* the session is closed or never was */
    SMT_ERR_NOT_READY = 49,     /* not possible yet */
    SMT_ERR_TOO_LARGE = 50,     /* longer than the peer takes */
    SMT_ERR_OUTSTANDING = 51,   /* as many calls are outstanding as the peer allows: wait for one */
    SMT_ERR_BACKPRESSURE = 52,  /* too many bytes wait to be sent: wait for a call to end */
    SMT_ERR_EXHAUSTED = 53,     /* the session is used up: open a new one */
    /* How a call ended, in smt_event.status. */
    SMT_ERR_DEADLINE = 64,      /* its deadline passed; the request may or may not have run */
    SMT_ERR_CANCELLED = 65,     /* by smt_cancel(); the request may or may not have run */
    SMT_ERR_OUTCOME_UNKNOWN = 66, /* the peer restarted or is gone; the request may have run */
    SMT_ERR_CLOSED = 67,        /* the session was closed; the request may have run */
    SMT_ERR_REFUSED = 68,       /* the peer answered with an error: smt_event.code and .data */
    /* Answering. */
    SMT_ERR_GONE = 80           /* nobody waits for the answer any more */
};

/* A sentence for a status, in English; static, never NULL. */
const char *smt_strerror(smt_status status);

/*
 * What failed last in this thread, in more words than smt_strerror() has; "" if nothing has yet.
 * The text belongs to the library and holds until the next call that fails in this thread.
 */
const char *smt_last_error(void);

/* The library's version: major << 16 | minor << 8 | patch. */
uint32_t smt_version(void);

/* ---- engines --------------------------------------------------------------------------------- */

/* Sessions, sockets and timers that one thread drives. */
typedef struct smt_engine smt_engine;

/* Roles, which are those of TLS. */
enum {
    SMT_CLIENT = 1,     /* sent the ClientHello */
    SMT_SERVER = 2      /* answered it */
};

/* How packets travel. Both ends must agree. */
enum {
    SMT_RAW = 0,        /* an IP protocol of its own; needs CAP_NET_RAW */
    SMT_UDP = 1,        /* the same packets in UDP; needs no privilege */
    SMT_PACKET = 2,     /* as SMT_RAW, sent by packet sockets, segmented by devices that can */
    SMT_XDP = 3         /* as SMT_RAW, past the kernel's stack (AF_XDP), for one process per device */
};

typedef struct smt_options {
    size_t size;                    /* sizeof(smt_options) */
    /* Our address, an IPv4 or IPv6 one (its port means nothing). NULL: all IPv4 addresses. An
     * engine speaks the IP version of this address alone. */
    const struct sockaddr *bind;
    size_t bind_len;                /* bytes at `bind` */
    uint32_t roles;                 /* SMT_CLIENT, SMT_SERVER or both, joined by | */
    uint16_t port;                  /* a server's SMT port; 0: any free one */
    uint8_t datapath;               /* SMT_RAW, SMT_UDP, SMT_PACKET or SMT_XDP */
    uint8_t protocol;               /* IP protocol number of all but SMT_UDP; 0: 253 */
    uint64_t call_deadline_us;      /* deadline of calls that name none; 0: 10 s */
} smt_options;

#define SMT_OPTIONS_INIT { sizeof(smt_options), NULL, 0, SMT_CLIENT, 0, SMT_RAW, 0, 0 }

/*
 * Makes an engine; smt_engine_free() frees it.
 *
 * SMT_ERR_INVALID, SMT_ERR_PRIVILEGE, SMT_ERR_PORT_IN_USE, SMT_ERR_ADDRESS, SMT_ERR_IO
 */
smt_status smt_engine_new(const smt_options *options, smt_engine **engine);

/*
 * Makes `count` engines (1, 2, 4, .. 64) that share a port and every session, and puts them at
 * `engines`, which has room for as many. Each is for a thread of its own, has a descriptor of its
 * own, and handles the RPCs of its own part of each session; the kernel tells the parts apart.
 *
 * Offers and sessions are made with the first. The others hear of a session by SMT_EVENT_JOINED,
 * which tells its name there; calls may be made at all of them, requests come at all of them and are
 * answered where they came. A session that is closed at one is closed at all. When one is freed,
 * all sessions of the others end, and they are told by SMT_EVENT_SHARD_GONE. The peer need not have
 * as many. Sessions with SMT_UPDATES_REGISTERED need one engine at both ends.
 *
 * SMT_ERR_INVALID, SMT_ERR_PRIVILEGE, SMT_ERR_PORT_IN_USE, SMT_ERR_ADDRESS, SMT_ERR_IO
 */
smt_status smt_engines_new(const smt_options *options, uint32_t count, smt_engine *engines[]);

/*
 * Frees an engine and closes its descriptors. Sessions that still are end without a word to the
 * peer, who notices after a while: smt_close_all() first is kinder. NULL is let be.
 *
 * SMT_ERR_HANDLE, SMT_ERR_BUSY
 */
smt_status smt_engine_free(smt_engine *engine);

/*
 * A descriptor for poll(2), epoll(7) or select(2), readable when smt_next_event() has something to
 * do, timers included. Only wait for it after smt_next_event() has given SMT_EVENT_NONE. It is the
 * engine's: neither read nor close it.
 *
 * SMT_ERR_HANDLE, SMT_ERR_BUSY, SMT_ERR_BUG, SMT_ERR_INVALID, SMT_ERR_IO (no more descriptors)
 */
smt_status smt_engine_fd(smt_engine *engine, int32_t *fd);

/* ---- sessions -------------------------------------------------------------------------------- */

/* What one end tells the other before both open a session. */
typedef struct smt_offer smt_offer;

/* Names a session of an engine; never reused there. 0 names none. */
typedef uint64_t smt_session;

/*
 * Makes an offer for one session in which this end has `role`, its role in the TLS connection.
 * smt_offer_free() frees it, at the latest before its engine. The three parts of it must reach the
 * peer over the TLS connection: port, UDP port, block.
 *
 * SMT_ERR_HANDLE, SMT_ERR_BUSY, SMT_ERR_BUG, SMT_ERR_INVALID, SMT_ERR_ROLE
 */
smt_status smt_offer_new(smt_engine *engine, uint32_t role, smt_offer **offer);

/* Our SMT port. 0 if there is no such offer. */
uint16_t smt_offer_port(const smt_offer *offer);

/* Our UDP port with SMT_UDP, else 0. 0 if there is no such offer. */
uint16_t smt_offer_udp_port(const smt_offer *offer);

/* The longest parameter block that there is, in bytes. */
#define SMT_BLOCK_MAX 65537

/*
 * Our parameter block, `*len` bytes (some 40; at most SMT_BLOCK_MAX), opaque. The offer keeps them
 * until it is freed. NULL, and `*len` 0, if there is no such offer.
 */
const uint8_t *smt_offer_block(const smt_offer *offer, size_t *len);

/* Frees an offer. NULL is let be. SMT_ERR_HANDLE */
smt_status smt_offer_free(smt_offer *offer);

/* TLS 1.3 cipher suites, by their numbers in TLS. */
enum {
    SMT_AES_128_GCM_SHA256 = 0x1301,
    SMT_AES_256_GCM_SHA384 = 0x1302,
    SMT_CHACHA20_POLY1305_SHA256 = 0x1303
};

/* Where the keys after the first come from. Both ends must agree. */
enum {
    SMT_UPDATES_DERIVED = 0,    /* each from the one before, by itself */
    SMT_UPDATES_REGISTERED = 1  /* from traffic secrets given to smt_register_update() */
};

/*
 * What a session is made of. The secrets are TLS 1.3's application traffic secrets number 0 (RFC
 * 8446, 7.1), which key logs call CLIENT_TRAFFIC_SECRET_0 and SERVER_TRAFFIC_SECRET_0: 32 bytes, or
 * 48 with SHA-384. Use those of one connection for one session only, and send no application data
 * over that connection once the session is open. Wipe your copies.
 */
typedef struct smt_session_options {
    size_t size;                    /* sizeof(smt_session_options) */
    const struct sockaddr *peer;    /* the peer's address; its port means nothing */
    size_t peer_len;                /* bytes at `peer` */
    uint16_t peer_port;             /* from the peer's offer */
    uint16_t peer_udp_port;         /* from the peer's offer */
    uint16_t suite;                 /* the negotiated suite, SMT_AES_... or SMT_CHACHA20_... */
    uint16_t updates;               /* SMT_UPDATES_DERIVED or SMT_UPDATES_REGISTERED */
    const uint8_t *peer_block;      /* from the peer's offer */
    size_t peer_block_len;
    const uint8_t *alpn;            /* the negotiated application protocol, "smt/1" or */
    size_t alpn_len;                /* "smt/1+" and your own name; 1 to 255 bytes */
    const uint8_t *client_secret;
    size_t client_secret_len;
    const uint8_t *server_secret;
    size_t server_secret_len;
} smt_session_options;

#define SMT_SESSION_OPTIONS_INIT \
    { sizeof(smt_session_options), NULL, 0, 0, 0, 0, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0 }

/*
 * Opens the session that `offer` was made for. It works at once and in both directions; no event
 * announces it. That the peer does not know it yet does no harm: requests are repeated.
 *
 * An offer opens one session. It may be freed afterwards.
 *
 * SMT_ERR_HANDLE, SMT_ERR_BUSY, SMT_ERR_BUG, SMT_ERR_INVALID (also an offer of another engine, or
 * one that was used), SMT_ERR_PARAMETERS, SMT_ERR_UNREACHABLE, SMT_ERR_LIMIT
 */
smt_status smt_open(smt_engine *engine, const smt_offer *offer,
                    const smt_session_options *options, smt_session *session);

/*
 * Closes a session: its calls end with SMT_ERR_CLOSED, the peer is told, SMT_EVENT_CLOSED follows.
 * A session that is gone is let be.
 *
 * SMT_ERR_HANDLE, SMT_ERR_BUSY, SMT_ERR_BUG
 */
smt_status smt_close(smt_engine *engine, smt_session session);

/*
 * Lets what is in flight end, closes all sessions and waits until the peers have confirmed it, all
 * within `timeout_ms`. Blocks. Events are thrown away, and requests that still arrive are not
 * answered.
 *
 * SMT_ERR_HANDLE, SMT_ERR_BUSY, SMT_ERR_BUG, SMT_ERR_IO
 */
smt_status smt_close_all(smt_engine *engine, uint32_t timeout_ms);

/* ---- messages -------------------------------------------------------------------------------- */

/* Names an RPC of an engine; never reused there. Compare both members; read nothing into them. */
typedef struct smt_rpc {
    smt_session session;    /* the session it belongs to */
    uint64_t id;
} smt_rpc;

/*
 * Starts a call: sends the `len` bytes at `data` as a request, which runs at most once at the peer.
 * SMT_EVENT_RESPONSE follows in any case, with `user`, at the latest `deadline_us` from now (0: the
 * engine's default; more than a year counts as a year). `rpc` may be NULL. `data` may be NULL if
 * `len` is 0.
 *
 * The request leaves with the next smt_next_event() or smt_flush().
 *
 * SMT_ERR_HANDLE, SMT_ERR_BUSY, SMT_ERR_BUG, SMT_ERR_INVALID, SMT_ERR_NO_SESSION,
 * SMT_ERR_NOT_READY, SMT_ERR_TOO_LARGE, SMT_ERR_OUTSTANDING, SMT_ERR_BACKPRESSURE,
 * SMT_ERR_EXHAUSTED
 */
smt_status smt_call(smt_engine *engine, smt_session session, const void *data, size_t len,
                    uint64_t deadline_us, uint64_t user, smt_rpc *rpc);

/*
 * Gives up a call. Its SMT_EVENT_RESPONSE follows, with SMT_ERR_CANCELLED unless it was over
 * before. A call that is over is let be.
 *
 * SMT_ERR_HANDLE, SMT_ERR_BUSY, SMT_ERR_BUG
 */
smt_status smt_cancel(smt_engine *engine, smt_rpc rpc);

/*
 * Answers a request. Leaves with the next smt_next_event() or smt_flush(). Each request wants one
 * smt_reply() or smt_refuse(); the peer's call waits for it until its deadline.
 *
 * SMT_ERR_HANDLE, SMT_ERR_BUSY, SMT_ERR_BUG, SMT_ERR_INVALID, SMT_ERR_GONE
 */
smt_status smt_reply(smt_engine *engine, smt_rpc rpc, const void *data, size_t len);

/*
 * Answers a request with an error. `code`: 256 and above are the application's own, those below are
 * in docs/spec.md, section 7. `text` is for people: UTF-8, ends with 0, may be NULL for none.
 *
 * SMT_ERR_HANDLE, SMT_ERR_BUSY, SMT_ERR_BUG, SMT_ERR_INVALID, SMT_ERR_GONE
 */
smt_status smt_refuse(smt_engine *engine, smt_rpc rpc, uint32_t code, const char *text);

/* Sends what waits. SMT_ERR_HANDLE, SMT_ERR_BUSY, SMT_ERR_BUG, SMT_ERR_IO */
smt_status smt_flush(smt_engine *engine);

/* ---- events ---------------------------------------------------------------------------------- */

enum {
    SMT_EVENT_NONE = 0,
    /* The peer asks `rpc`: answer it. data, len: the request. */
    SMT_EVENT_REQUEST = 1,
    /* The peer no longer waits for the answer to `rpc`. */
    SMT_EVENT_REQUEST_CANCELLED = 2,
    /* Our call `rpc` is over. user: as given to smt_call(). status SMT_OK: data, len are the
     * response. SMT_ERR_REFUSED: code, and the peer's words in data, len. Else: how it ended, or
     * SMT_ERR_EXHAUSTED. */
    SMT_EVENT_RESPONSE = 3,
    /* `session` is over, all its calls have ended. code: one of SMT_CLOSED_... */
    SMT_EVENT_CLOSED = 4,
    /* `session` needs the next traffic secret of its sending direction: smt_register_update(). */
    SMT_EVENT_KEY_UPDATE_WANTED = 5,
    /* A session opened at the first of several engines works here as `session`. user: its name at
     * the first. Only of smt_engines_new(), and not at the first. */
    SMT_EVENT_JOINED = 6,
    /* One of several engines was freed: all sessions end. code: its place in the array. */
    SMT_EVENT_SHARD_GONE = 7
};

/* Why a session ended. */
enum {
    SMT_CLOSED_LOCAL = 0,       /* this end closed it */
    SMT_CLOSED_PEER = 1,        /* the peer closed it */
    SMT_CLOSED_DEAD = 2,        /* the peer no longer answers, or does not know the session */
    SMT_CLOSED_VIOLATION = 3    /* the peer broke the protocol in an authentic packet */
};

typedef struct smt_event {
    size_t size;            /* sizeof(smt_event), set by the caller before each call */
    uint32_t kind;          /* SMT_EVENT_... */
    smt_status status;
    smt_session session;    /* whose it is */
    smt_rpc rpc;
    uint64_t user;
    const uint8_t *data;    /* never NULL where the event has data; may be followed by anything */
    size_t len;
    uint32_t code;
    uint32_t reserved;
} smt_event;

#define SMT_EVENT_INIT { sizeof(smt_event), 0, 0, 0, { 0, 0 }, 0, NULL, 0, 0, 0 }

/*
 * Moves packets, and gives the next event. `timeout_ms` 0 does not wait, a negative one waits for
 * ever. SMT_EVENT_NONE: nothing is left to do (now the descriptor may be waited for), or the
 * time has passed. What the event before pointed to is invalid from here on.
 *
 * SMT_ERR_HANDLE, SMT_ERR_BUSY, SMT_ERR_BUG, SMT_ERR_INVALID, SMT_ERR_IO (the sockets no longer
 * work: free the engine)
 */
smt_status smt_next_event(smt_engine *engine, smt_event *event, int32_t timeout_ms);

/* ---- keys ------------------------------------------------------------------------------------ */

/* Directions of a session, as seen from this end. */
enum {
    SMT_SEND = 0,
    SMT_RECEIVE = 1
};

/*
 * Moves our sending direction to its next key: for new messages, as soon as the peer has used the
 * present one and, with SMT_UPDATES_REGISTERED, the next secret is registered. Keys move by
 * themselves before they have protected too much; this is for other reasons. Each direction moves by
 * itself.
 *
 * SMT_ERR_HANDLE, SMT_ERR_BUSY, SMT_ERR_BUG, SMT_ERR_NO_SESSION
 */
smt_status smt_update_keys(smt_engine *engine, smt_session session);

/*
 * Asks the peer to move its sending direction.
 *
 * SMT_ERR_HANDLE, SMT_ERR_BUSY, SMT_ERR_BUG, SMT_ERR_NO_SESSION
 */
smt_status smt_request_update(smt_engine *engine, smt_session session);

/*
 * Gives a session with SMT_UPDATES_REGISTERED the next traffic secret of a direction: number 1 the
 * first time, then 2, and so on, at both ends. TLS makes them with KeyUpdate messages (RFC 8446, 4.6.3
 * and 7.2): when your end sends one, register the new secret for SMT_SEND; when it receives one, for
 * SMT_RECEIVE. A registered secret is used once smt_update_keys() was called, the peer has asked, or
 * the present key has protected much. A receiver that has not registered it yet loses nothing: what
 * comes early is repeated. SMT_EVENT_KEY_UPDATE_WANTED says when one is needed and missing.
 *
 * SMT_ERR_HANDLE, SMT_ERR_BUSY, SMT_ERR_BUG, SMT_ERR_INVALID (also of a session with
 * SMT_UPDATES_DERIVED), SMT_ERR_NO_SESSION, SMT_ERR_LIMIT (four wait to be used already)
 */
smt_status smt_register_update(smt_engine *engine, smt_session session, uint32_t direction,
                               const uint8_t *secret, size_t secret_len);

/* ---- counters -------------------------------------------------------------------------------- */

/* Of an engine since it was made, all sessions together. */
typedef struct smt_counters {
    size_t size;                    /* sizeof(smt_counters), set by the caller */
    uint64_t sessions;              /* open now */
    uint64_t packets_sent;
    uint64_t packets_received;
    uint64_t packets_retransmitted;
    uint64_t requests_sent;
    uint64_t requests_received;
    uint64_t responses_sent;
    uint64_t responses_received;
    uint64_t records_sealed;        /* TLS records */
    uint64_t records_opened;
    uint64_t records_not_authentic; /* damaged, forged, or under another key */
    uint64_t packets_dropped;       /* of no session, malformed, repeated, or with a wrong tag */
    uint64_t violations;            /* of the protocol, by authentic peers */
    uint64_t sessions_dead;         /* ended because the peer no longer answered */
    uint64_t key_updates;           /* of our sending directions */
} smt_counters;

#define SMT_COUNTERS_INIT { sizeof(smt_counters), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

/* Reads the counters. SMT_ERR_HANDLE, SMT_ERR_BUSY, SMT_ERR_BUG, SMT_ERR_INVALID */
smt_status smt_engine_counters(smt_engine *engine, smt_counters *counters);

/*
 * Calls of ours in a session that are not over. 0 for a session that is gone.
 *
 * SMT_ERR_HANDLE, SMT_ERR_BUSY, SMT_ERR_BUG, SMT_ERR_INVALID
 */
smt_status smt_outstanding(smt_engine *engine, smt_session session, uint32_t *calls);

#ifdef __cplusplus
}
#endif

#endif
