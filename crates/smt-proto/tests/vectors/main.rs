//! The vectors of `testdata`, which `testdata/generate.py` computes without our code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod bundles;
mod crypto;
mod messages;
mod wire;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error};
use smt_proto::crypto::{Suite, SuiteId, aws_lc};
use smt_proto::keys::{HeaderKey, Secret};

/// Reads a file of vectors.
fn read<T: DeserializeOwned>(name: &str) -> T {
    let path = format!("{}/../../testdata/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect(&path);
    serde_json::from_str(&text).expect(&path)
}

/// Bytes, hexadecimal in the file.
#[derive(Clone, PartialEq, Eq)]
struct Hex(Vec<u8>);

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if !text.is_ascii() || text.len() % 2 != 0 {
            return Err(Error::custom("no hexadecimal bytes"));
        }
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).map_err(Error::custom))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl std::ops::Deref for Hex {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// A cipher suite by its code point.
fn suite(code_point: u16) -> &'static dyn Suite {
    let id = [SuiteId::Aes128GcmSha256, SuiteId::Aes256GcmSha384, SuiteId::ChaCha20Poly1305Sha256];
    let id = id.into_iter().find(|&id| id as u16 == code_point).expect("a known suite");
    aws_lc::suite(id)
}

/// What the application says in every message.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (31 * i + 7) as u8).collect()
}

/// The header key of a direction, from its secret of epoch 3.
fn header_key(code_point: u16, first_secret: &[u8]) -> HeaderKey {
    HeaderKey::derive(suite(code_point), &Secret::new(first_secret))
}
