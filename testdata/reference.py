"""A second implementation of docs/spec.md, as plain as possible: what the vectors are computed by."""

import hashlib
import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

SUITES = {
    0x1301: ("TLS_AES_128_GCM_SHA256", AESGCM, 16, hashes.SHA256(), hashlib.sha256),
    0x1302: ("TLS_AES_256_GCM_SHA384", AESGCM, 32, hashes.SHA384(), hashlib.sha384),
    0x1303: ("TLS_CHACHA20_POLY1305_SHA256", ChaCha20Poly1305, 32, hashes.SHA256(), hashlib.sha256),
}

DATA, GRANT, RESEND, UNKNOWN, BUSY, CUTOFFS = 0x10, 0x11, 0x12, 0x13, 0x14, 0x15
NEED_ACK, ACK, CANCEL, RETRY, UPDATE = 0x17, 0x18, 0x20, 0x21, 0x22
RETRANSMIT, EXPLICIT, PINNED, BUNDLE = 1, 2, 4, 8


# SipHash-2-4 (Aumasson, Bernstein), 64 bits.


def siphash(key, data):
    mask = 2**64 - 1
    k0, k1 = struct.unpack("<QQ", key)
    v = [
        k0 ^ 0x736F6D6570736575,
        k1 ^ 0x646F72616E646F6D,
        k0 ^ 0x6C7967656E657261,
        k1 ^ 0x7465646279746573,
    ]

    def rotate(x, n):
        return ((x << n) | (x >> (64 - n))) & mask

    def rounds(n):
        for _ in range(n):
            v[0] = (v[0] + v[1]) & mask
            v[2] = (v[2] + v[3]) & mask
            v[1] = rotate(v[1], 13) ^ v[0]
            v[3] = rotate(v[3], 16) ^ v[2]
            v[0] = rotate(v[0], 32)
            v[2] = (v[2] + v[1]) & mask
            v[0] = (v[0] + v[3]) & mask
            v[1] = rotate(v[1], 17) ^ v[2]
            v[3] = rotate(v[3], 21) ^ v[0]
            v[2] = rotate(v[2], 32)

    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 0xFF])
    for (word,) in struct.iter_unpack("<Q", padded):
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


# The vector of the SipHash paper, appendix A.
assert siphash(bytes(range(16)), bytes(range(15))) == 0xA129CA6149BE45E5


# Keys (spec 5.1).


def expand(suite, secret, info, length):
    return HKDFExpand(algorithm=SUITES[suite][3], length=length, info=info).derive(secret)


def expand_label(suite, secret, label, context, length):
    label = b"tls13 " + label
    info = struct.pack(">HB", length, len(label)) + label + bytes([len(context)]) + context
    return expand(suite, secret, info, length)


def digest(suite, data):
    return SUITES[suite][4](data).digest()


def hash_len(suite):
    return SUITES[suite][3].digest_size


class Keys:
    """Keys of one direction and epoch."""

    def __init__(self, suite, secret, epoch=3):
        self.suite, self.secret, self.epoch = suite, secret, epoch
        self.key = expand_label(suite, secret, b"key", b"", SUITES[suite][2])
        self.iv = expand_label(suite, secret, b"iv", b"", 12)

    def next(self):
        secret = expand_label(self.suite, self.secret, b"traffic upd", b"", hash_len(self.suite))
        return Keys(self.suite, secret, self.epoch + 1)

    def nonce(self, number):
        iv = int.from_bytes(self.iv, "big")
        return (iv ^ number).to_bytes(12, "big")

    def seal(self, number, plaintext):
        header = b"\x17\x03\x03" + struct.pack(">H", len(plaintext) + 17)
        aead = SUITES[self.suite][1](self.key)
        return header + aead.encrypt(self.nonce(number), plaintext + b"\x17", header)


def header_key(suite, secret):
    return expand_label(suite, secret, b"smt header", b"", 16)


def lane_secret(suite, secret, lane):
    """The secret of epoch 3 of a lane, from the session's."""
    if lane == 0:
        return secret
    return expand_label(suite, secret, b"smt lane", bytes([lane]), hash_len(suite))


def lane_request_id(first_id, lanes, lane, number):
    place = -(-(first_id // 4) // lanes) * lanes + number * lanes + lane
    return 4 * place + first_id % 4


def epoch_byte(epoch):
    return epoch if epoch < 3 else 3 + (epoch - 3) % 253


# Parameter blocks and preambles (spec 5.1, 4.1).

PARAMETERS = {
    "id_bits": (1, "B"),
    "first_id": (2, "Q"),
    "max_rpcs": (3, "I"),
    "max_message": (4, "I"),
    "unscheduled": (5, "I"),
    "wake_delay_us": (6, "I"),
    "max_id_bits": (7, "B"),
}


def block(entries, version=1):
    body = struct.pack(">H", version)
    for kind, value in entries:
        body += struct.pack(">HH", kind, len(value)) + value
    return struct.pack(">H", len(body)) + body


def entries_of(params, padding=0, offer=None, answer=None):
    entries = [
        (kind, struct.pack(">" + form, params[name])) for name, (kind, form) in PARAMETERS.items()
    ]
    entries += [(8, bytes(padding))] if padding else []
    entries += [(9, offer)] if offer is not None else []
    entries += [(10, answer)] if answer is not None else []
    entries += [(11, bytes([params["wants"]]))] if params.get("wants") else []
    return entries + ([(12, bytes([params["lanes"]]))] if params.get("lanes", 1) != 1 else [])


KINDS = {"application": 0, "post": 1, "error": 2}


def preamble(p):
    return struct.pack(
        ">BBHIIIIIQQ",
        1,
        KINDS[p["kind"]],
        p["record_size"],
        p["app_len"],
        p["wire_len"],
        p["highest_peer_epoch"],
        p["oldest_epoch"],
        p["response_limit"],
        p["ack_floor"],
        p["ack_bitmap"],
    )


def bundle(head, entries):
    """The plaintext of a bundle (spec 4.5); `entries` are pairs of what is said of a message and its bytes."""
    plain = struct.pack(
        ">BBHIIQQ",
        1,
        0,
        len(entries),
        head["highest_peer_epoch"],
        head["oldest_epoch"],
        head["ack_floor"],
        head["ack_bitmap"],
    )
    for entry, text in entries:
        plain += struct.pack(
            ">QBBHI", entry["message_id"], KINDS[entry["kind"]], 0, len(text), entry["response_limit"]
        )
        plain += text
    return plain.ljust(64, b"\0")


# Packets (spec 2, 5.4).


def common(kind, ports, epoch, message_id, sequence=0, record_size=0, segment_size=0):
    doff = 13 if kind == DATA else 5
    return struct.pack(
        ">HHIBHBBBHHHQ",
        ports[0],
        ports[1],
        sequence,
        epoch_byte(epoch),
        record_size,
        kind,
        doff << 4,
        0,
        segment_size,
        0,
        0,
        message_id,
    )


def data_packet(key, d, payload):
    head = common(
        DATA,
        (d["src_port"], d["dst_port"]),
        d["epoch"],
        d["message_id"],
        d["sequence"],
        d["record_size"],
        d["segment_size"],
    )
    flags = (
        RETRANSMIT * d["retransmit"]
        | EXPLICIT * d["explicit"]
        | PINNED * d["pinned"]
        | BUNDLE * d.get("bundle", False)
    )
    tail = struct.pack(">II", d["cutoffs"], flags << 24 | d["tso_offset"])
    lengths = struct.pack(">II", d["message_len"], d["incoming"])
    covered = head + lengths + bytes(8) + tail
    if not d["explicit"]:
        covered = covered[:4] + bytes(4) + covered[8:]
    if d["pinned"]:
        covered += payload
    tag = siphash(key, covered) if d["epoch"] else d["tag"]
    return head + lengths + struct.pack(">Q", tag) + tail + payload


def retry_packet(ports, new_token, token):
    return common(RETRY, ports, 0, 0, 0) + struct.pack(">QQ", new_token, token)


def control_packet(key, kind, epoch, message_id, number, body=b"", code=0):
    packet = common(kind, (4791, 40000), epoch, message_id, code) + body
    packet += struct.pack(">Q", number)
    tag = siphash(key, packet + bytes(8)) if epoch else 0
    return packet + struct.pack(">Q", tag)
