//! The header and the library agree: every function of the one is in the other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cc;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;

/// Names of functions that follow `before` in `text`.
fn functions(text: &str, before: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(before)
        .map(|(at, _)| &text[at + before.len()..])
        .filter_map(|rest| rest.split_once('('))
        .filter(|(name, _)| name.starts_with("smt_") && name.chars().all(is_name))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// The header without comments and macros.
fn declarations() -> String {
    let header = fs::read_to_string(cc::repository("include/smt.h")).unwrap();
    let mut parts = header.split("/*");
    let mut text = parts.next().unwrap().to_owned();
    for part in parts {
        text += part.split_once("*/").expect("comments end").1;
    }
    text.lines().filter(|line| !line.starts_with('#')).fold(String::new(), |text, line| {
        // One declaration may have several lines.
        text + line + "\n"
    })
}

fn declared() -> BTreeSet<String> {
    let text = declarations();
    let types = ["smt_status ", "uint16_t ", "uint32_t ", "char *", "uint8_t *"];
    types.iter().flat_map(|before| functions(&text, before)).collect()
}

fn exported() -> BTreeSet<String> {
    let sources = fs::read_dir(cc::repository("crates/smt-capi/src")).unwrap();
    sources
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| fs::read_to_string(path).unwrap())
        .flat_map(|text| functions(&text, "extern \"C\" fn "))
        .collect()
}

#[test]
fn header_and_library_have_the_same_functions() {
    assert!(declared().len() > 20, "{:?}", declared());
    assert_eq!(declared(), exported());
}

/// A strict C11 program that takes every function's address and uses every initialiser links and
/// runs.
#[test]
fn a_program_links_with_every_function() {
    let mut program = String::from("#include <smt.h>\n#include <stdio.h>\n");
    program += "typedef void (*any)(void);\nint main(void) {\n";
    program += "    static const any functions[] = {\n";
    for name in declared() {
        writeln!(program, "        (any){name},").unwrap();
    }
    program += "    };\n";
    for (kind, macro_name) in [
        ("smt_options", "SMT_OPTIONS_INIT"),
        ("smt_session_options", "SMT_SESSION_OPTIONS_INIT"),
        ("smt_event", "SMT_EVENT_INIT"),
        ("smt_counters", "SMT_COUNTERS_INIT"),
    ] {
        writeln!(
            program,
            "    {{ {kind} value = {macro_name}; if (value.size != sizeof value) return 2; }}"
        )
        .unwrap();
    }
    program += "    if (smt_version() != (SMT_VERSION_MAJOR << 16 | SMT_VERSION_MINOR << 8 | \
                SMT_VERSION_PATCH)) return 3;\n";
    program += "    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)\n";
    program += "        if (!functions[i]) return 4;\n";
    program += "    printf(\"%zu\\n\", sizeof functions / sizeof *functions);\n    return 0;\n}\n";

    let source = cc::scratch("every-function.c");
    let binary = cc::scratch("every-function");
    fs::write(&source, program).unwrap();
    let mut cc = cc::cc();
    cc.args(["-std=c11", "-pedantic", "-Wno-cast-function-type", "-o"]).arg(&binary).arg(&source);
    cc.arg(cc::static_library()).args(cc::SYSTEM_LIBRARIES);
    cc::run(&mut cc);
    let count = cc::run(&mut std::process::Command::new(&binary));
    assert_eq!(count.trim().parse(), Ok(declared().len()));
}
