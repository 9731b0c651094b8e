//! What a handshake is made of, one step at a time: the time each takes on one core, by the libraries that SMT and
//! its peers use.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::pki_types::UnixTime;
use serde_json::{Value, json};
use smt::proto::crypto::{Suite, SuiteId, aws_lc};
use smt::proto::keys::{EpochKeys, HeaderKey, Secret, early_context};
use smt::ticket::{DEFAULT_STRIKES, EarlyData, Kem, MemoryRegister, TicketIssuer};
use smt::tls::ClientTls;

use super::failed;
use super::ground::{Credentials, SERVER_NAME, server_name};
use super::smt::{identity, roots};
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
    steps.ticket(credentials, Kem::X25519, X25519_TICKET_STEPS)?;
    steps.ticket(credentials, Kem::XWing, XWING_TICKET_STEPS)?;
    steps.derivation()?;
    Ok(steps.done)
}

/// Names and doers of three steps.
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

const X25519_TICKET_STEPS: Names = [
    ("ticket, X25519: encapsulate", "client, ahead"),
    ("ticket, X25519: derive", "client"),
    ("ticket, X25519: decapsulate, claim, derive", "server"),
];
const XWING_TICKET_STEPS: Names = [
    ("ticket, X-Wing: encapsulate", "client, ahead"),
    ("ticket, X-Wing: derive", "client"),
    ("ticket, X-Wing: decapsulate, claim, derive", "server"),
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

    fn ticket(
        &mut self,
        credentials: &Credentials,
        kem: Kem,
        [encapsulate, derive, accept]: Names,
    ) -> Result<(), Error> {
        let cannot = failed("tickets");
        let now = SystemTime::now();
        let issuer = TicketIssuer::builder(identity(credentials.server())?).kem(kem).build();
        let issuer = issuer.map_err(&cannot)?;
        let ticket = issuer.ticket(now).map_err(&cannot)?;
        let tls = ClientTls::builder(roots(credentials)?).build()?;
        let ticket =
            tls.verify_ticket(&ticket, SERVER_NAME, now).map_err(failed("ticket refused"))?;
        let context = |suite: &dyn Suite, ticket: &[u8], alpn: &[u8]| {
            early_context(suite, alpn, 1, 2, ticket, &[0; 200], &[0; 1500])
        };
        let encapsulated = || ticket.encapsulate().map_err(failed("encapsulation"));
        self.step(encapsulate, || Ok(()), |()| encapsulated())?;
        self.step(derive, encapsulated, |key| Ok(key.agree(context).secrets()))?;
        let register = MemoryRegister::started_at(DEFAULT_STRIKES, UNIX_EPOCH);
        let early = EarlyData::new(issuer, Arc::new(register));
        let offer = || Ok(encapsulated()?.offer(now, false));
        self.step(accept, offer, |offer| {
            let accepted = early.accept(&offer, false, now, context);
            Ok(accepted.map_err(failed("offer refused"))?.secrets())
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
