//! Structures and numbers are those of the header: a C compiler compares them.

use std::fmt::Write;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::abi::*;
use crate::status::Status;

fn include() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../include")
}

/// Has `cc` check a program's static assertions.
fn check(assertions: &str) {
    let program = format!("#include <smt.h>\n{assertions}");
    let mut cc = Command::new("cc")
        .args(["-std=c11", "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I"])
        .arg(include())
        .args(["-x", "c", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a C compiler, as in the package `gcc`");
    cc.stdin.take().unwrap().write_all(program.as_bytes()).unwrap();
    let output = cc.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn structures_have_the_headers_layout() {
    let structures = [
        ("smt_options", size_of::<smt_options>(), smt_options::LAYOUT),
        ("smt_session_options", size_of::<smt_session_options>(), smt_session_options::LAYOUT),
        ("smt_event", size_of::<smt_event>(), smt_event::LAYOUT),
        ("smt_counters", size_of::<smt_counters>(), smt_counters::LAYOUT),
        ("smt_rpc", size_of::<smt_rpc>(), &[("session", 0), ("id", 8)]),
    ];
    let mut program = String::new();
    for (name, size, members) in structures {
        writeln!(program, "_Static_assert(sizeof({name}) == {size}, \"{name}\");").unwrap();
        for (member, offset) in members {
            let place = format!("offsetof({name}, {member})");
            writeln!(program, "_Static_assert({place} == {offset}, \"{place}\");").unwrap();
        }
    }
    check(&program);
}

#[test]
fn numbers_are_the_headers() {
    let statuses = [
        ("OK", Status::Ok),
        ("ERR_INVALID", Status::Invalid),
        ("ERR_HANDLE", Status::Handle),
        ("ERR_BUSY", Status::Busy),
        ("ERR_BUG", Status::Bug),
        ("ERR_PRIVILEGE", Status::Privilege),
        ("ERR_PORT_IN_USE", Status::PortInUse),
        ("ERR_ADDRESS", Status::Address),
        ("ERR_IO", Status::Io),
        ("ERR_ROLE", Status::Role),
        ("ERR_PARAMETERS", Status::Parameters),
        ("ERR_UNREACHABLE", Status::Unreachable),
        ("ERR_LIMIT", Status::Limit),
        ("ERR_NO_SESSION", Status::NoSession),
        ("ERR_NOT_READY", Status::NotReady),
        ("ERR_TOO_LARGE", Status::TooLarge),
        ("ERR_OUTSTANDING", Status::Outstanding),
        ("ERR_BACKPRESSURE", Status::Backpressure),
        ("ERR_EXHAUSTED", Status::Exhausted),
        ("ERR_DEADLINE", Status::Deadline),
        ("ERR_CANCELLED", Status::Cancelled),
        ("ERR_OUTCOME_UNKNOWN", Status::OutcomeUnknown),
        ("ERR_CLOSED", Status::Closed),
        ("ERR_REFUSED", Status::Refused),
        ("ERR_GONE", Status::Gone),
    ];
    let others = [
        ("CLIENT", CLIENT),
        ("SERVER", SERVER),
        ("RAW", RAW.into()),
        ("UDP", UDP.into()),
        ("PACKET", PACKET.into()),
        ("XDP", XDP.into()),
        ("AES_128_GCM_SHA256", 0x1301),
        ("AES_256_GCM_SHA384", 0x1302),
        ("CHACHA20_POLY1305_SHA256", 0x1303),
        ("UPDATES_DERIVED", UPDATES_DERIVED.into()),
        ("UPDATES_REGISTERED", UPDATES_REGISTERED.into()),
        ("EVENT_NONE", EVENT_NONE),
        ("EVENT_REQUEST", EVENT_REQUEST),
        ("EVENT_REQUEST_CANCELLED", EVENT_REQUEST_CANCELLED),
        ("EVENT_RESPONSE", EVENT_RESPONSE),
        ("EVENT_CLOSED", EVENT_CLOSED),
        ("EVENT_KEY_UPDATE_WANTED", EVENT_KEY_UPDATE_WANTED),
        ("EVENT_JOINED", EVENT_JOINED),
        ("EVENT_SHARD_GONE", EVENT_SHARD_GONE),
        ("CLOSED_LOCAL", CLOSED_LOCAL),
        ("CLOSED_PEER", CLOSED_PEER),
        ("CLOSED_DEAD", CLOSED_DEAD),
        ("CLOSED_VIOLATION", CLOSED_VIOLATION),
        ("SEND", SEND),
        ("RECEIVE", RECEIVE),
    ];
    let statuses = statuses.map(|(name, status)| (name, status as u32));
    let known: Vec<_> = statuses.into_iter().chain(others).collect();
    let mut program = String::new();
    for (name, value) in &known {
        writeln!(program, "_Static_assert(SMT_{name} == {value}, \"SMT_{name}\");").unwrap();
    }
    check(&program);

    let header = std::fs::read_to_string(include().join("smt.h")).unwrap();
    let named = header
        .lines()
        .map(str::trim_start)
        .filter(|line| line.starts_with("SMT_") && line.split(' ').nth(1) == Some("="));
    assert_eq!(named.count(), known.len(), "numbers of the header that this test does not know");
}
