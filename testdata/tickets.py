"""Tickets and what is derived of them (spec 5.7): HPKE in base mode, export only, as plain as possible."""

import hashlib
import hmac
import struct

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from mlkem_ciphertext import CIPHERTEXT
from reference import block, digest, entries_of, expand_label, hash_len

X25519, XWING = 0x0020, 0x647A
HKDF_SHA256, EXPORT_ONLY = 1, 0xFFFF
ED25519 = 0x0807


# RFC 9180, section 4 and 5, with HKDF-SHA256.


def labeled_extract(suite_id, salt, label, ikm):
    return hmac.digest(salt, b"HPKE-v1" + suite_id + label + ikm, "sha256")


def labeled_expand(suite_id, prk, label, info, length):
    info = struct.pack(">H", length) + b"HPKE-v1" + suite_id + label + info
    out, last, count = b"", b"", 1
    while len(out) < length:
        last = hmac.digest(prk, last + info + bytes([count]), "sha256")
        out, count = out + last, count + 1
    return out[:length]


def x25519(private, public):
    return X25519PrivateKey.from_private_bytes(private).exchange(
        X25519PublicKey.from_public_bytes(public)
    )


def x25519_public(private):
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def dhkem_decapsulate(private, key):
    suite_id = b"KEM" + struct.pack(">H", X25519)
    prk = labeled_extract(suite_id, b"", b"eae_prk", x25519(private, key))
    context = key + x25519_public(private)
    return labeled_expand(suite_id, prk, b"shared_secret", context, 32)


# X-Wing (draft-connolly-cfrg-xwing-kem): ML-KEM-768's part first, then X25519's.


def xwing_expand(seed):
    expanded = hashlib.shake_256(seed).digest(96)
    return MLKEM768PrivateKey.from_seed_bytes(expanded[:64]), expanded[64:]


def xwing_public(seed):
    post_quantum, classic = xwing_expand(seed)
    return post_quantum.public_key().public_bytes_raw() + x25519_public(classic)


def xwing_decapsulate(seed, key):
    post_quantum, classic = xwing_expand(seed)
    first, second = post_quantum.decapsulate(key[:1088]), x25519(classic, key[1088:])
    label = bytes.fromhex("5c2e2f2f5e5c")
    return hashlib.sha3_256(
        first + second + key[1088:] + x25519_public(classic) + label
    ).digest()


def exporter_secret(kem, shared_secret, info):
    suite_id = b"HPKE" + struct.pack(">HHH", kem, HKDF_SHA256, EXPORT_ONLY)
    context = (
        b"\0"
        + labeled_extract(suite_id, b"", b"psk_id_hash", b"")
        + labeled_extract(suite_id, b"", b"info_hash", info)
    )
    secret = labeled_extract(suite_id, shared_secret, b"secret", b"")
    exporter = labeled_expand(suite_id, secret, b"exp", context, 32)
    return lambda export_context, length: labeled_expand(
        suite_id, exporter, b"sec", export_context, length
    )


def ticket_content(kem, suite, alpn, params, public_key, certificates, signed_by):
    def sized(fmt, value):
        return struct.pack(fmt, len(value))[-{">B": 1, ">H": 2, ">I": 3}[fmt] :] + value

    content = (
        struct.pack(">H", 1)
        + bytes(range(16))
        + struct.pack(">QQHHI", 1_800_000_000, 1_800_003_600, kem, suite, 65536)
        + sized(">B", alpn)
        + sized(">H", block(entries_of({**params, "first_id": 6})))
        + sized(">H", public_key)
        + bytes([len(certificates)])
        + b"".join(sized(">I", certificate) for certificate in certificates)
    )
    message = b" " * 64 + b"SMT/1 ticket\0" + content
    key = Ed25519PrivateKey.from_private_bytes(signed_by)
    return content + struct.pack(">H", ED25519) + sized(">H", key.sign(message)), message


def ticket_vector(kem, suite, params, client_block, server_block, seeded):
    alpn, client_port, server_port, flight = b"smt/1+redis", 40000, 4791, seeded("flight 0", 300)
    private = seeded(f"ticket {kem:x}", 32)
    if kem == XWING:
        public = xwing_public(private)
        key = CIPHERTEXT + x25519_public(seeded("ephemeral", 32))
        shared_secret = xwing_decapsulate(private, key)
    else:
        public, key = x25519_public(private), x25519_public(seeded("ephemeral", 32))
        shared_secret = dhkem_decapsulate(private, key)
    certificates, signer = [seeded("leaf", 400), seeded("CA", 350)], seeded("signer", 32)
    ticket, message = ticket_content(kem, suite, alpn, params, public, certificates, signer)
    length = hash_len(suite)
    ports = struct.pack(">HH", client_port, server_port)
    head = struct.pack(">HB", suite, len(alpn)) + alpn + ports
    early_context = digest(
        suite,
        b"smt/1 early context"
        + head
        + digest(suite, ticket)
        + digest(suite, client_block)
        + digest(suite, flight),
    )
    key_context = digest(
        suite, b"smt/1 context" + head + digest(suite, client_block) + digest(suite, server_block)
    )
    info = b"smt/1 ticket" + hashlib.sha256(ticket).digest()
    export = exporter_secret(kem, shared_secret, info)
    server_early = export(b"smt/1 early server" + early_context, length)
    finished = export(b"smt/1 static finished" + key_context + early_context, length)
    return {
        "kem": kem,
        "suite": suite,
        "ticket": ticket,
        "signed": message,
        "signer": Ed25519PrivateKey.from_private_bytes(signer).public_key().public_bytes_raw(),
        "private_key": private,
        "encapsulated_key": key,
        "shared_secret": shared_secret,
        "info": info,
        "client_port": client_port,
        "server_port": server_port,
        "client_block": client_block,
        "server_block": server_block,
        "flight_0": flight,
        "early_context": early_context,
        "client_early": export(b"smt/1 early client" + early_context, length),
        "server_early": server_early,
        "server_answered": expand_label(
            suite, server_early, b"smt answer", digest(suite, server_block), length
        ),
        "key_context": key_context,
        "client_static": export(b"smt/1 static client" + key_context + early_context, length),
        "server_static": export(b"smt/1 static server" + key_context + early_context, length),
        "static_finished": expand_label(suite, finished, b"finished", key_context, 32),
        "offer": bytes(range(16)) + b"\1" + struct.pack(">Q", 1_800_000_000_123) + key,
        "strike": hashlib.sha256(key).digest()[:16],
    }


def tickets_file(suites, params, client_block, server_block, seeded):
    """`seeded(name, length)` gives bytes that look random and are the same each time."""
    return {
        "tickets": [
            ticket_vector(kem, suite, params, client_block, server_block, seeded)
            for kem in (X25519, XWING)
            for suite in suites
        ]
    }
