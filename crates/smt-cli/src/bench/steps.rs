//! What a handshake is made of, one step at a time: the time each takes on one core, by the libraries that SMT and
//! its peers use.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use hpke::aead::ExportOnlyAead;
use hpke::kdf::HkdfSha256;
use hpke::kem::{X25519HkdfSha256, XWing};
use hpke::{Kem, OpModeR, OpModeS, setup_receiver, setup_sender};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::pki_types::UnixTime;
use serde_json::{Value, json};
use smt::proto::crypto::{SuiteId, aws_lc};
use smt::proto::keys::{EpochKeys, HeaderKey, Secret};

use super::failed;
use super::ground::{Credentials, server_name};
use crate::commands::Error;
use crate::output::time;
use crate::times::Times;

/// Runs of a step before those that count.
const WARM_UP: usize = 10;

/// One step, and what it takes.
pub struct Step {
    /// What is done.
    pub name: &'static str,
    /// Who does it, in which handshake.
    pub who: &'static str,
    /// Times of single runs.
    pub times: Times,
}

/// Measures each step `count` times.
///
/// # Errors
/// A library refuses.
pub fn measure(credentials: &Credentials, count: usize) -> Result<Vec<Step>, Error> {
    let mut steps = Steps { count, done: Vec::new() };
    steps.agreement(kx_group::X25519, X25519_STEPS)?;
    steps.agreement(kx_group::X25519MLKEM768, HYBRID_STEPS)?;
    steps.signatures()?;
    steps.chain(credentials)?;
    steps.kem::<X25519HkdfSha256>(DHKEM_STEPS)?;
    steps.kem::<XWing>(XWING_STEPS)?;
    steps.derivation()?;
    Ok(steps.done)
}

/// Names of generation, of the server's part and of the client's.
type Names = [(&'static str, &'static str); 3];

const X25519_STEPS: Names = [
    ("X25519: generate", "client, server"),
    ("X25519: generate and agree", "server"),
    ("X25519: agree", "client"),
];
const HYBRID_STEPS: Names = [
    ("X25519MLKEM768: generate", "client"),
    ("X25519MLKEM768: generate, encapsulate, agree", "server"),
    ("X25519MLKEM768: decapsulate, agree", "client"),
];

const DHKEM_STEPS: Names = [
    ("ticket, X25519: generate key", "server, rarely"),
    ("ticket, X25519: encapsulate", "client, ahead"),
    ("ticket, X25519: decapsulate", "server"),
];
const XWING_STEPS: Names = [
    ("ticket, X-Wing: generate key", "server, rarely"),
    ("ticket, X-Wing: encapsulate", "client, ahead"),
    ("ticket, X-Wing: decapsulate", "server"),
];

struct Steps {
    count: usize,
    done: Vec<Step>,
}

impl Steps {
    /// Measures `run` on what `prepare` makes for each run.
    fn step<T, R>(
        &mut self,
        (name, who): (&'static str, &'static str),
        mut prepare: impl FnMut() -> Result<T, Error>,
        mut run: impl FnMut(T) -> Result<R, Error>,
    ) -> Result<(), Error> {
        let mut times = Times::default();
        for round in 0..WARM_UP + self.count {
            let prepared = prepare()?;
            let start = Instant::now();
            let result = run(prepared)?;
            let elapsed = start.elapsed();
            black_box(result);
            if round >= WARM_UP {
                times.add(elapsed);
            }
        }
        self.done.push(Step { name, who, times });
        Ok(())
    }

    fn agreement(
        &mut self,
        group: &'static dyn SupportedKxGroup,
        [generate, server, client]: Names,
    ) -> Result<(), Error> {
        let cannot = failed("key exchange");
        let nothing = || Ok(());
        self.step(generate, nothing, |()| group.start().map_err(&cannot))?;
        let offer = || Ok(group.start().map_err(&cannot)?.pub_key().to_vec());
        self.step(server, offer, |share| group.start_and_complete(&share).map_err(&cannot))?;
        let answered = || {
            let active = group.start().map_err(&cannot)?;
            let answer = group.start_and_complete(active.pub_key()).map_err(&cannot)?;
            Ok((active, answer.pub_key))
        };
        self.step(client, answered, |(active, answer)| active.complete(&answer).map_err(&cannot))
    }

    fn signatures(&mut self) -> Result<(), Error> {
        let cannot = failed("ECDSA");
        // As long as what a CertificateVerify signs (RFC 8446, 4.4.3).
        let message = [7; 64 + 34 + 32];
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(&cannot)?;
        let random = SystemRandom::new();
        let sign = || key.sign(&random, &message).map_err(&cannot);
        let who = "server; client with mTLS";
        self.step(("ECDSA P-256: sign", who), || Ok(()), |()| sign())?;
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key());
        let who = "client; server with mTLS";
        self.step(("ECDSA P-256: verify", who), sign, |signature| {
            public.verify(&message, signature.as_ref()).map_err(&cannot)
        })
    }

    fn chain(&mut self, credentials: &Credentials) -> Result<(), Error> {
        let cannot = failed("certificate check");
        let provider = Arc::new(default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(credentials.roots()?, provider)
            .build()
            .map_err(failed("certificate check"))?;
        let (certificate, name) = (credentials.server().certificate(), server_name()?);
        let who = "client; server with mTLS";
        self.step(
            ("certificate chain of one: check", who),
            || Ok(()),
            |()| {
                verifier
                    .verify_server_cert(&certificate, &[], &name, &[], UnixTime::now())
                    .map_err(&cannot)
            },
        )
    }

    /// HPKE as tickets use it, secrets not yet exported.
    fn kem<K: Kem>(&mut self, [generate, encapsulate, decapsulate]: Names) -> Result<(), Error> {
        let cannot = failed("HPKE");
        let info = [7; 44];
        let nothing = || Ok(());
        self.step(generate, nothing, |()| Ok(K::gen_keypair()))?;
        let (private, public) = K::gen_keypair();
        let send = || {
            setup_sender::<ExportOnlyAead, HkdfSha256, K>(&OpModeS::Base, &public, &info)
                .map_err(&cannot)
        };
        self.step(encapsulate, nothing, |()| send())?;
        let encapsulated = || send().map(|(key, _)| key);
        self.step(decapsulate, encapsulated, |key| {
            let mode = OpModeR::Base;
            setup_receiver::<ExportOnlyAead, HkdfSha256, K>(&mode, &private, &key, &info)
                .map_err(&cannot)
        })
    }

    fn derivation(&mut self) -> Result<(), Error> {
        let suite = aws_lc::suite(SuiteId::Aes128GcmSha256);
        let secret = || Ok(Secret::new(&[7; 32]));
        self.step(
            ("record, IV and header keys, one direction: derive", "both, twice"),
            secret,
            |secret| {
                let header = HeaderKey::derive(suite, &secret);
                Ok((header, EpochKeys::new(suite, secret, 3)))
            },
        )
    }
}

/// Lines of a table, the heading first.
pub fn table(steps: &[Step]) -> Vec<String> {
    let heading = format!("{:<50} {:>9} {:>9}  {}", "step", "p50", "min", "who");
    let rows = steps.iter().map(|step| {
        let (p50, min) = (time(step.times.quantile_ns(0.50)), time(step.times.min_ns()));
        format!("{:<50} {p50:>9} {min:>9}  {}", step.name, step.who)
    });
    std::iter::once(heading).chain(rows).collect()
}

/// One object for each step.
pub fn objects(steps: &[Step]) -> Vec<Value> {
    let object = |step: &Step| {
        json!({
            "bench": "step", "step": step.name, "who": step.who, "count": step.times.count(),
            "min_ns": step.times.min_ns(), "p50_ns": step.times.quantile_ns(0.50),
            "p99_ns": step.times.quantile_ns(0.99),
        })
    };
    steps.iter().map(object).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_measured_and_told() {
        let steps = measure(&Credentials::new().unwrap(), 3).unwrap();
        assert_eq!(steps.len(), 16);
        assert!(steps.iter().all(|step| step.times.count() == 3));
        for line in table(&steps) {
            assert!(line.chars().count() <= 100, "{line}");
        }
        assert_eq!(objects(&steps)[0]["bench"], "step");
    }
}
