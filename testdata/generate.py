#!/usr/bin/env python3
"""Computes the test vectors of this directory from docs/spec.md, independently of the Rust code.

Needs the PyPI package `cryptography`. Run it here; it writes *.json anew, byte for byte the same each
time. `published.json` holds vectors of others, which are checked here, too.

Bytes are hexadecimal. `pattern(n)` below is the application content of the messages.
"""

import hashlib
import json
import struct
from pathlib import Path

from published import published_file
from reference import (
    ACK,
    BUSY,
    CANCEL,
    CUTOFFS,
    GRANT,
    NEED_ACK,
    RESEND,
    RETRY,
    SUITES,
    UNKNOWN,
    UPDATE,
    Keys,
    block,
    bundle,
    control_packet,
    data_packet,
    digest,
    entries_of,
    epoch_byte,
    expand_label,
    hash_len,
    header_key,
    lane_request_id,
    lane_secret,
    preamble,
    retry_packet,
)
from tickets import tickets_file

CLIENT_PARAMS = {
    "id_bits": 48,
    "first_id": 0x3A5F00C0F4,
    "max_rpcs": 1024,
    "max_message": 1 << 24,
    "unscheduled": 65536,
    "wake_delay_us": 50,
    "max_id_bits": 56,
}
SERVER_PARAMS = {
    "id_bits": 56,
    "first_id": 6,
    "max_rpcs": 0,
    "max_message": 4294967295,
    "unscheduled": 0,
    "wake_delay_us": 0,
    "max_id_bits": 40,
}


def pattern(length):
    return bytes((31 * i + 7) & 0xFF for i in range(length))


def seeded(name, length):
    """Bytes that look random and are the same each time."""
    return hashlib.shake_256(name.encode()).digest(length)


def keys_file():
    suites = []
    for suite in SUITES:
        client_block = block(entries_of(CLIENT_PARAMS, 100))
        server_block = block(entries_of(SERVER_PARAMS))
        alpn, client_port, server_port = b"smt/1+redis", 40000, 4791
        context = digest(
            suite,
            b"smt/1 context"
            + struct.pack(">HB", suite, len(alpn))
            + alpn
            + struct.pack(">HH", client_port, server_port)
            + digest(suite, client_block)
            + digest(suite, server_block),
        )
        directions = []
        for role in ("client", "server"):
            traffic = seeded(f"{role} traffic {suite:x}", hash_len(suite))
            secret = expand_label(suite, traffic, b"smt 1", context, hash_len(suite))
            keys, epochs = Keys(suite, secret), []
            for _ in range(4):
                epochs.append(
                    {
                        "epoch": keys.epoch,
                        "secret": keys.secret,
                        "key": keys.key,
                        "iv": keys.iv,
                        "record": {"number": 77, "wire": keys.seal(77, b"smt")},
                    }
                )
                keys = keys.next()
            # Where secrets are registered: epoch 4 from TLS's next traffic secret (RFC 8446, 7.2).
            updated = expand_label(suite, traffic, b"traffic upd", b"", hash_len(suite))
            registered = expand_label(suite, updated, b"smt 1", context, hash_len(suite))
            directions.append(
                {
                    "role": role,
                    "traffic_secret": traffic,
                    "updated_traffic_secret": updated,
                    "registered_secret": registered,
                    "header_key": header_key(suite, secret),
                    "epochs": epochs,
                }
            )
        suites.append(
            {
                "suite": suite,
                "name": SUITES[suite][0],
                "alpn": alpn,
                "client_port": client_port,
                "server_port": server_port,
                "client_block": client_block,
                "server_block": server_block,
                "context": context,
                "directions": directions,
            }
        )
    epochs = [0, 1, 2, 3, 4, 100, 255, 256, 257, 508, 509, 2**32 - 1]
    return {"suites": suites, "epoch_bytes": [[e, epoch_byte(e)] for e in epochs]}


def records_file():
    records = []
    for suite in SUITES:
        keys = Keys(suite, seeded(f"record {suite:x}", hash_len(suite)))
        for message_id, id_bits, index, length in [
            (4, 48, 0, 1),
            (0x3A5F00C0F5, 48, 65534, 64),
            (2**40 - 1, 40, 2**24 - 2, 63),
            (2**56 - 1, 56, 254, 300),
        ]:
            number = (message_id << (64 - id_bits)) + index
            records.append(
                {
                    "suite": suite,
                    "secret": keys.secret,
                    "message_id": message_id,
                    "id_bits": id_bits,
                    "index": index,
                    "number": number,
                    "nonce": keys.nonce(number),
                    "plaintext": pattern(length),
                    "wire": keys.seal(number, pattern(length)),
                }
            )
    # The last index of each message ID is that of bundles.
    refused = [[4, 48, 65536], [2**48, 48, 0], [2**40, 40, 0], [4, 56, 256], [4, 40, 2**24]]
    refused += [[4, 48, 65535], [4, 56, 255], [4, 40, 2**24 - 1]]
    bundles = [
        [message_id, id_bits, (message_id << (64 - id_bits)) + 2 ** (64 - id_bits) - 1]
        for message_id, id_bits in [(4, 48), (0x3A5F00C0F5, 40), (2**56 - 1, 56)]
    ]
    return {"records": records, "refused": refused, "bundles": bundles}


def message(name, suite, epochs_on, record_size, app_len, plain_len, cut, v6=False):
    """A message and its packets; `cut(wire_len)` lists what differs from packet to packet. It is
    `epochs_on` key updates after epoch 3, or early data if that is None."""
    early = epochs_on is None
    epochs_on = epochs_on or 0
    keys = Keys(suite, seeded(f"message {name}", hash_len(suite)), 1 if early else 3)
    tag_key = header_key(suite, keys.secret)
    first_secret = keys.secret
    for _ in range(epochs_on):
        keys = keys.next()
    message_id = 0x3A5F00C0F4 + 4 * app_len
    records = -(-plain_len // record_size)
    wire_len = plain_len + 22 * records
    head = {
        "kind": "application",
        "record_size": record_size,
        "app_len": app_len,
        "wire_len": wire_len,
        "highest_peer_epoch": 0 if early else 3,
        "oldest_epoch": keys.epoch,
        "response_limit": 24000 * epochs_on,
        "ack_floor": 0x3A5F00C0F4,
        "ack_bitmap": 0x8000000000000001,
    }
    plain = (preamble(head) + pattern(app_len)).ljust(plain_len, b"\0")
    wire = b"".join(
        keys.seal((message_id << 16) + i, plain[i * record_size : (i + 1) * record_size])
        for i in range(records)
    )
    assert len(wire) == wire_len
    packets = []
    for offset, length, ip_id, varying in cut(wire_len):
        fields = {
            "src_port": 40000,
            "dst_port": 4791,
            "epoch": keys.epoch,
            "message_id": message_id,
            "cutoffs": 257 * epochs_on,
            "record_size": record_size,
            "segment_size": record_size + 22,
            "message_len": wire_len,
            "incoming": min(wire_len, 3000),
            "sequence": offset,
            "retransmit": False,
            "explicit": True,
            "pinned": False,
            "tso_offset": 0,
            **varying,
        }
        payload = wire[offset : offset + length]
        packets.append(
            {
                "ip_id": ip_id,
                "fields": fields,
                "offset": offset,
                "packet": data_packet(tag_key, fields, payload),
            }
        )
    return {
        "name": name,
        "suite": suite,
        "first_secret": first_secret,
        "header_key": tag_key,
        "ip_version": 6 if v6 else 4,
        "id_bits": 48,
        "preamble": head,
        "plain_len": plain_len,
        "packets": packets,
    }


def whole_records(record_size):
    def cut(wire_len):
        step = record_size + 22
        for offset in range(0, wire_len, step):
            yield offset, min(step, wire_len - offset), 0x1234, {}

    return cut


def segments(record_size, packet, per_segment, v6=False):
    """As a NIC cuts segments of whole records: the IPv4 ID counts, the header repeats."""

    def cut(wire_len):
        stride = record_size + 22
        for first in range(0, wire_len, per_segment):
            end = min(first + per_segment, wire_len)
            for i, offset in enumerate(range(first, end, packet)):
                yield offset, min(packet, end - offset), None if v6 else i, {
                    "explicit": False,
                    "sequence": first,
                    "segment_size": packet,
                    "tso_offset": first // stride,
                }

    return cut


def counted(wire_len):
    """As a NIC cuts that counts the sequence number, too."""
    for offset, length, ip_id, varying in segments(2834, 1428, 2 * 2856)(wire_len):
        yield offset, length, ip_id, {**varying, "sequence": offset}


def again(wire_len):
    for offset, length in [(0, 1000), (1000, 428), (700, wire_len - 700)]:
        yield offset, length, 0, {"retransmit": True, "pinned": offset > 0}


def announced(wire_len):
    yield 0, 0, 0, {"explicit": False}
    yield 0, wire_len, 0, {"explicit": False}


def data_file():
    size = 1406
    good = message("good", 0x1301, 0, size, 100, 140, whole_records(size))["packets"][0]["packet"]

    def with_byte(why, at, value):
        return {"why": why, "packet": good[:at] + bytes([value]) + good[at + 1 :]}

    return {
        "messages": [
            message("empty", 0x1301, 0, size, 0, 40, whole_records(size)),
            message("one byte, padded to 64", 0x1303, 0, size, 1, 64, whole_records(size)),
            message("one full record", 0x1302, 0, size, size - 40, size, whole_records(size)),
            message("a byte more", 0x1301, 1, size, size - 39, size + 1, whole_records(size)),
            message("several records, epoch 256", 0x1303, 253, 500, 2000, 2040, whole_records(500)),
            message("early data", 0x1301, None, size, 3000, 3040, whole_records(size)),
            message("retransmitted and pinned", 0x1301, 0, size, 1400, 1440, again),
            message("announced, then one super-packet", 0x1301, 2, size, 3000, 3040, announced),
            message("segments", 0x1301, 0, 2834, 6000, 6040, segments(2834, 1428, 2 * 2856)),
            message("counted segments", 0x1302, 0, 2834, 6000, 6040, counted),
            message(
                "IPv6 segments",
                0x1301,
                0,
                2500,
                6000,
                6040,
                segments(2500, 1408, 2522, v6=True),
                v6=True,
            ),
        ],
        "flight": flight(),
        "refused": [
            with_byte("PINNED without EXPLICIT", 48, 4),
            with_byte("unknown data flag", 48, 16),
            with_byte("a bundle of two records", 48, 10),
            with_byte("reserved epoch", 8, 2),
            with_byte("record size", 9, 0xFF),
            with_byte("more promised than there is", 32, 0xFF),
            with_byte("reserved field", 45, 1),
            with_byte("data offset", 12, 0x50),
        ],
    }


def bundled(name, suite, epochs_on, lengths):
    """A bundle of messages of these lengths: every third is a response, the last of those an error."""
    keys = Keys(suite, seeded(f"bundle {name}", hash_len(suite)), 3)
    tag_key, first_secret = header_key(suite, keys.secret), keys.secret
    for _ in range(epochs_on):
        keys = keys.next()
    head = {
        "highest_peer_epoch": 3,
        "oldest_epoch": keys.epoch,
        "ack_floor": 0x3A5F00C0F4,
        "ack_bitmap": 0x8000000000000001,
    }
    entries = []
    for i, length in enumerate(lengths):
        response = i % 3 == 2
        entries.append(
            {
                "message_id": 0x3A5F00C104 + 4 * i if not response else 0x1F00C107 + 4 * i,
                "kind": "error" if response and i + 3 >= len(lengths) else "application",
                "app_len": length,
                "response_limit": 0 if response else 24000,
            }
        )
    plain = bundle(head, [(entry, pattern(entry["app_len"])) for entry in entries])
    first = entries[0]["message_id"]
    fields = {
        "src_port": 40000,
        "dst_port": 4791,
        "epoch": keys.epoch,
        "message_id": first,
        "cutoffs": 257,
        "record_size": len(plain),
        "segment_size": len(plain) + 22,
        "message_len": len(plain) + 22,
        "incoming": len(plain) + 22,
        "sequence": 0,
        "retransmit": False,
        "explicit": True,
        "pinned": False,
        "bundle": True,
        "tso_offset": 0,
    }
    return {
        "name": name,
        "suite": suite,
        "first_secret": first_secret,
        "header_key": tag_key,
        "id_bits": 48,
        "head": head,
        "entries": entries,
        "fields": fields,
        "packet": data_packet(tag_key, fields, keys.seal((first << 16) + 65535, plain)),
    }


def bundles_file():
    good = bundled("good", 0x1301, 0, [64, 64, 10])["packet"]

    def with_byte(why, at, value):
        return {"why": why, "packet": good[:at] + bytes([value]) + good[at + 1 :]}

    return {
        "bundles": [
            bundled("one message, filled up", 0x1301, 0, [3]),
            bundled("two empty ones", 0x1303, 0, [0, 0]),
            bundled("many", 0x1301, 0, [64] * 17),
            bundled("of both directions, epoch 256", 0x1302, 253, [1, 200, 64, 0, 7, 4]),
        ],
        "refused": [
            with_byte("BUNDLE without EXPLICIT", 48, 8),
            with_byte("BUNDLE and PINNED", 48, 14),
            with_byte("BUNDLE and RETRANSMIT", 48, 11),
            with_byte("an offset", 7, 1),
            with_byte("a TSO offset", 51, 1),
            with_byte("early data", 8, 1),
            with_byte("another record size", 10, good[10] ^ 1),
            with_byte("another length", 31, good[31] ^ 1),
            with_byte("not all promised", 35, good[35] ^ 1),
            with_byte("another segment size", 15, good[15] ^ 1),
        ],
    }


def flight():
    fields = {
        "src_port": 40000,
        "dst_port": 4791,
        "cutoffs": 0,
        "epoch": 0,
        "message_id": 1,
        "record_size": 0,
        "segment_size": 1428,
        "message_len": 2000,
        "incoming": 2000,
        "sequence": 1428,
        "retransmit": True,
        "explicit": True,
        "pinned": False,
        "tso_offset": 0,
        "tag": int.from_bytes(seeded("token", 8), "big"),
    }
    return {"fields": fields, "packet": data_packet(b"", fields, pattern(572))}


def control_file():
    suite, secret = 0x1303, seeded("control", 32)
    key = header_key(suite, secret)
    message_id, number = 0x3A5F00C0F4, 0xFEDCBA987654
    packets = []

    def add(name, kind, fields, body=b"", code=0, epoch=3, message_id=message_id, number=number):
        packets.append(
            {
                "name": name,
                "type": kind,
                "epoch": epoch,
                "message_id": message_id,
                "number": number,
                **fields,
                "packet": control_packet(key, kind, epoch, message_id, number, body, code),
            }
        )

    def ack(floor, ranges):
        body = struct.pack(">QB7x", floor, len(ranges))
        body += b"".join(struct.pack(">QQ", *r) for r in ranges)
        return {"floor": floor, "ranges": ranges}, body

    grant = {"offset": 0xFFFF0001, "priority": 7}
    add("GRANT", GRANT, grant, struct.pack(">IB3x", *grant.values()))
    for pinned in (False, True):
        resend = {"offset": 1428, "length": 70000, "priority": 3, "pinned": pinned}
        name = "RESEND, pinned" if pinned else "RESEND"
        add(name, RESEND, resend, struct.pack(">IIBB2x", *resend.values()), epoch=5)
    add("UNKNOWN, never accepted", UNKNOWN, {"code": 0}, code=0)
    add("UNKNOWN, forgotten", UNKNOWN, {"code": 1}, code=1, epoch=256)
    add("UNKNOWN, no session", UNKNOWN, {"code": 2}, code=2, epoch=0, number=0)
    add("BUSY", BUSY, {}, message_id=message_id + 1, number=1)
    cutoffs = {"cutoffs": [2**32 - 1, 1 << 20, 65536, 9000, 1428, 500, 64, 0], "version": 513}
    cutoffs["unscheduled"] = 9800
    body = struct.pack(">8IH2xI", *cutoffs["cutoffs"], 513, 9800)
    add("CUTOFFS", CUTOFFS, cutoffs, body, message_id=0)
    add("NEED_ACK", NEED_ACK, {})
    add("NEED_ACK of the session", NEED_ACK, {}, message_id=0, number=2**48 - 1)
    for name, floor, ranges in [
        ("ACK", 0x3A5F00C0F4, []),
        ("ACK of ranges", 0x3A5F00C0F4, [[0x3A5F00C0FC, 0x3A5F00C100], [0x3A5F00C200] * 2]),
        ("ACK of most ranges", 6, [[6 + 16 * i, 10 + 16 * i] for i in range(1, 33)]),
    ]:
        fields, body = ack(floor, ranges)
        add(name, ACK, fields, body, message_id=0)
    add("CANCEL", CANCEL, {"code": 0}, code=0)
    add("CANCEL, confirmed", CANCEL, {"code": 1}, code=1)
    add("CANCEL of the session", CANCEL, {"code": 0}, code=0, message_id=0)
    for name, leave in [("UPDATE", 3), ("UPDATE, later", 2**32 - 2)]:
        add(name, UPDATE, {"leave": leave}, struct.pack(">I", leave), message_id=0)
    return {
        "suite": suite,
        "first_secret": secret,
        "header_key": key,
        "src_port": 4791,
        "dst_port": 40000,
        "packets": packets,
    }


def retries_file():
    valid = []
    for ports, new_token, token in [
        ((4791, 40000), int.from_bytes(seeded("new token", 8), "big"), 0x0123456789ABCDEF),
        ((65535, 1), 0, 2**64 - 1),
    ]:
        valid.append(
            {
                "src_port": ports[0],
                "dst_port": ports[1],
                "new_token": new_token,
                "token": token,
                "packet": retry_packet(ports, new_token, token),
            }
        )
    good = valid[0]["packet"]

    def with_byte(why, at, value):
        return {"why": why, "packet": good[:at] + bytes([value]) + good[at + 1 :]}

    invalid = [
        {"why": "cut short", "packet": good[:-1]},
        {"why": "too long", "packet": good + b"\0"},
        with_byte("another type", 11, UNKNOWN),
        with_byte("a code", 7, 1),
        with_byte("an epoch", 8, 3),
        with_byte("record size", 10, 1),
        with_byte("data offset", 12, 0xD0),
        with_byte("segment size", 15, 1),
        with_byte("urgent", 19, 1),
        with_byte("message ID", 27, 1),
    ]
    assert RETRY == good[11]
    return {"valid": valid, "invalid": invalid}


UNSEEN = "unseen"


def offsets_file():
    """Spec 4.3, each expectation worked out by hand."""
    cases = []

    def case(why, offset, message_len, payload_len, ip, **fields):
        usual = {"record_size": 1406, "segment_size": 1428, "explicit": False}
        usual |= {"sequence": 0, "tso_offset": 0} | fields
        cases.append(
            {
                "why": why,
                **usual,
                "message_len": message_len,
                "payload_len": payload_len,
                "ip_version": 6 if ip == 6 else 4,
                "ip_id": None if ip in (6, UNSEEN) else ip,
                "offset": offset,
            }
        )

    # IPv4 whose ID the datapath does not show.
    case("unseen, explicit", 5000, 9000, 1000, UNSEEN, explicit=True, sequence=5000, tso_offset=2)
    case("unseen, a packet of a segment", None, 9000, 1428, UNSEEN, sequence=2856, tso_offset=2)
    case("unseen, last of a segment or first", None, 9000, 432, UNSEEN, sequence=8568, tso_offset=6)
    case("unseen, super-packet", 1428, 9000, 7572, UNSEEN, sequence=1428, tso_offset=1)
    case("unseen, whole message", 0, 300, 300, UNSEEN)
    case("unseen, counted by the NIC", 4284, 9000, 1428, UNSEEN, sequence=4284, tso_offset=2)
    case("explicit", 5000, 9000, 1000, 3, explicit=True, sequence=5000, tso_offset=2)
    case("explicit, to the end", 8000, 9000, 1000, 6, explicit=True, sequence=8000)
    case("explicit, beyond", None, 9000, 1001, 6, explicit=True, sequence=8000)
    case("explicit, far beyond", None, 2**32 - 1, 1, 6, explicit=True, sequence=2**32 - 1)
    case("explicit, nothing at the end", 9000, 9000, 0, 6, explicit=True, sequence=9000)
    case("IPv4, first", 2856, 9000, 1428, 0, sequence=2856, tso_offset=2)
    case("IPv4, third", 2856 + 2856, 9000, 1428, 2, sequence=2856, tso_offset=2)
    case("IPv4, beyond", None, 9000, 1428, 5, sequence=2856, tso_offset=2)
    case("counted by the NIC", 4284, 9000, 1428, 1, sequence=4284, tso_offset=2)
    case("counted, ID not", 5712, 9000, 1428, 0, sequence=5712, tso_offset=2)
    case("super-packet", 1428, 9000, 7572, 0, sequence=1428, tso_offset=1)
    case("announcement", 0, 9000, 0, 0)
    case("IPv6, first", 1428, 9000, 1428, 6, sequence=1428, tso_offset=1)
    case("IPv6, second", 2856, 9000, 1427, 6, sequence=1428, tso_offset=1)
    case("IPv6, super-packet", 1428, 9000, 3000, 6, sequence=1428, tso_offset=1)
    case("IPv6, short and last", 8568, 9000, 432, 6, sequence=8568, tso_offset=6)
    case("IPv6, second and last", 8568, 9000, 432, 6, sequence=7140, tso_offset=5)
    case("base of over 32 bits, so counted", 0, 2**32 - 1, 1, 0, record_size=16384, tso_offset=2**24 - 1)
    base = 3000000 * 1428
    case("ID beyond 32 bits", None, 2**32 - 1, 1, 65535, sequence=base, tso_offset=3000000)
    return {"cases": cases}


def params_file():
    valid = []
    for params, padding in [(CLIENT_PARAMS, 0), (CLIENT_PARAMS, 1000), (SERVER_PARAMS, 1)]:
        valid.append({"params": params, "padding": padding, "block": block(entries_of(params, padding))})
    wishes = {**CLIENT_PARAMS, "wants": 3}
    for params, extra in [
        (wishes, {"offer": bytes(range(60))}),
        (SERVER_PARAMS, {"answer": seeded("answer", 32)}),
    ]:
        whole = block(entries_of(params, 5, **extra))
        valid.append({"params": params, "padding": 5, **extra, "block": whole})
    required = entries_of(CLIENT_PARAMS)[:5]
    defaults = {**CLIENT_PARAMS, "wake_delay_us": 0, "max_id_bits": 56}
    valid.append({"params": defaults, "padding": None, "block": block(required)})
    valid.append({"params": {**wishes, "lanes": 64}, "padding": 0, "block": block(entries_of({**wishes, "lanes": 64}))})
    unknown = [(0, b"?")] + required + [(99, b""), (0xFFFF, bytes(3))]
    valid.append({"params": defaults, "padding": None, "block": block(unknown)})

    def refuse(why, flight):
        return {"why": why, "block": flight}

    def changed(**values):
        return block(entries_of({**CLIENT_PARAMS, **values}))

    good = block(required)
    invalid = [
        refuse("nothing", b""),
        refuse("cut short", good[:-1]),
        refuse("another version", block(required, version=2)),
        refuse("twice", block(required + required[-1:])),
        refuse("descending", block([required[1], required[0]] + required[2:])),
        refuse("value of a wrong length", block([(1, b"\0\x30")] + required[1:])),
        refuse("entry beyond the block", good[:-5] + b"\x05" + good[-4:]),
        refuse("padding that is not zero", block(required + [(8, b"\1")])),
        refuse("early offer too long", block(required + [(9, bytes((16 << 10) + 1))])),
        refuse("early answer too short", block(required + [(10, bytes(31))])),
        refuse("early answer too long", block(required + [(10, bytes(33))])),
        refuse("wants of a wrong length", block(required + [(11, b"")])),
        refuse("no lanes", block(required + [(12, b"\0")])),
        refuse("three lanes", block(required + [(12, b"\3")])),
        refuse("too many lanes", block(required + [(12, b"\x80")])),
        refuse("lanes of a wrong length", block(required + [(12, b"\0\2")])),
        refuse("answer before offer", block(required + [(10, bytes(32)), (9, b"?")])),
        refuse("too few ID bits", changed(id_bits=39)),
        refuse("too many ID bits", changed(id_bits=57)),
        refuse("accepts too few ID bits", changed(max_id_bits=39)),
        refuse("first ID below 4", changed(first_id=2)),
        refuse("first ID of a response", changed(first_id=5)),
        refuse("first ID too large", changed(first_id=2**39)),
    ]
    invalid += [
        refuse(f"parameter {kind} missing", block([e for e in required if e[0] != kind]))
        for kind, _ in required
    ]
    return {"valid": valid, "invalid": invalid}


def lanes_file():
    secrets = []
    for suite in SUITES:
        secret = seeded("lanes", hash_len(suite))
        for lane in [0, 1, 63]:
            of_lane = lane_secret(suite, secret, lane)
            secrets.append(
                {
                    "suite": suite,
                    "secret": secret,
                    "lane": lane,
                    "lane_secret": of_lane,
                    "header_key": header_key(suite, of_lane),
                }
            )
    ids = [
        {
            "first_id": first,
            "lanes": lanes,
            "lane": lane,
            "number": number,
            "request_id": lane_request_id(first, lanes, lane, number),
        }
        for first in [4, 6, 0x3A5F00C0F4, 2**39 - 2]
        for lanes, lane in [(1, 0), (2, 0), (2, 1), (8, 5), (64, 63)]
        for number in [0, 1, 1000]
    ]
    return {"secrets": secrets, "ids": ids}


def preambles_file():
    usual = {
        "kind": "application",
        "record_size": 1406,
        "app_len": 64,
        "wire_len": 126,
        "highest_peer_epoch": 0,
        "oldest_epoch": 3,
        "response_limit": 0,
        "ack_floor": 4,
        "ack_bitmap": 0,
    }
    largest = {
        "kind": "error",
        "record_size": 16384,
        "app_len": 2**32 - 1,
        "wire_len": 2**32 - 1,
        "highest_peer_epoch": 2**32 - 1,
        "oldest_epoch": 2**32 - 1,
        "response_limit": 2**32 - 1,
        "ack_floor": 2**56 - 2,
        "ack_bitmap": 2**64 - 1,
    }
    valid = [usual, {**usual, "oldest_epoch": 1}, {**usual, "kind": "post", "ack_bitmap": 5, "record_size": 64}, largest]
    good = preamble(usual)

    def with_byte(why, at, value):
        return {"why": why, "bytes": good[:at] + bytes([value]) + good[at + 1 :]}

    return {
        "valid": [{"preamble": p, "bytes": preamble(p)} for p in valid],
        "invalid": [
            {"why": "cut short", "bytes": good[:-1]},
            with_byte("another version", 0, 2),
            with_byte("unknown kind", 1, 3),
            with_byte("record size", 2, 0xFF),
            with_byte("epoch of the peer", 15, 2),
            with_byte("an early epoch of the peer", 15, 1),
            with_byte("oldest epoch", 19, 0),
            with_byte("reserved oldest epoch", 19, 2),
            with_byte("floor of a response", 31, 5),
        ],
    }


def tickets():
    client_block = block(entries_of(CLIENT_PARAMS, 100))
    server_block = block(entries_of(SERVER_PARAMS, answer=seeded("answer", 32)))
    return tickets_file(SUITES, SERVER_PARAMS, client_block, server_block, seeded)


def main():
    files = {
        "keys": keys_file(),
        "records": records_file(),
        "data": data_file(),
        "bundles": bundles_file(),
        "control": control_file(),
        "retries": retries_file(),
        "offsets": offsets_file(),
        "params": params_file(),
        "lanes": lanes_file(),
        "preambles": preambles_file(),
        "tickets": tickets(),
        "published": published_file(),
    }
    here = Path(__file__).resolve().parent
    for name, content in files.items():
        text = json.dumps(content, indent=1, default=bytes.hex)
        (here / f"{name}.json").write_text(text + "\n")


main()
