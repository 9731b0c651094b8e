//! What is derived of an agreed secret (spec 5.7).

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use smt_proto::crypto::aws_lc::suite;
use smt_proto::crypto::{MAX_HASH_LEN, Suite, SuiteId};
use smt_proto::keys::{Secret, expand_label};
use zeroize::Zeroizing;

use super::format::Ticket;
use super::hpke::Exporter;

const INFO: &[u8] = b"smt/1 ticket";
const EARLY: &[u8] = b"smt/1 early ";
const STATIC: &[u8] = b"smt/1 static ";
const FINISHED: &str = "finished";

/// Length of what a client proves a session without TLS by, in bytes.
pub const STATIC_FINISHED_LEN: usize = 32;

/// The secrets of early data.
#[derive(Clone, Debug)]
pub struct EarlySecrets {
    /// The cipher suite: that of the ticket.
    pub suite: SuiteId,
    /// The client's secret of epoch 1.
    pub client: Secret,
    /// The server's secret of epoch 1.
    pub server: Secret,
}

/// The secrets of a session without TLS.
#[derive(Clone)]
pub struct StaticSecrets {
    /// The cipher suite: that of the ticket.
    pub suite: SuiteId,
    /// The client's secret of epoch 3.
    pub client: Secret,
    /// The server's secret of epoch 3.
    pub server: Secret,
    finished: Zeroizing<[u8; STATIC_FINISHED_LEN]>,
}

impl StaticSecrets {
    /// The client's flight 2, which shows that it has the secrets.
    #[must_use]
    pub fn finished(&self) -> &[u8; STATIC_FINISHED_LEN] {
        &self.finished
    }

    /// Whether `flight` is the client's flight 2; takes the same time for every wrong one.
    #[must_use]
    pub fn is_finished(&self, flight: &[u8]) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.finished.as_slice(), flight).is_ok()
    }
}

impl fmt::Debug for StaticSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticSecrets").field("suite", &self.suite).finish_non_exhaustive()
    }
}

/// HPKE's info: what ties the agreed secret to this very ticket, signature and all.
pub(super) fn info(ticket: &[u8]) -> Vec<u8> {
    let mut info = INFO.to_vec();
    info.extend_from_slice(digest(&SHA256, ticket).as_ref());
    info
}

/// What one offer of early data leads to, at either end.
pub(super) struct Agreed {
    exporter: Exporter,
    suite: &'static dyn Suite,
    early_context: Vec<u8>,
}

impl Agreed {
    /// `context` makes the early context of suite, ticket and application protocol.
    pub(super) fn new(
        exporter: Exporter,
        ticket: &Ticket,
        context: impl FnOnce(&dyn Suite, &[u8], &[u8]) -> Vec<u8>,
    ) -> Self {
        let suite = suite(ticket.suite());
        let early_context = context(suite, ticket.bytes(), ticket.alpn());
        Self { exporter, suite, early_context }
    }

    pub(super) fn early(&self) -> EarlySecrets {
        EarlySecrets {
            suite: self.suite.id(),
            client: self.export(&[EARLY, b"client", &self.early_context]),
            server: self.export(&[EARLY, b"server", &self.early_context]),
        }
    }

    pub(super) fn static_secrets(&self, key_context: &[u8]) -> StaticSecrets {
        let secret = |role: &[u8]| self.export(&[STATIC, role, key_context, &self.early_context]);
        let mut finished = Zeroizing::new([0; STATIC_FINISHED_LEN]);
        expand_label(
            self.suite,
            secret(b"finished").as_bytes(),
            FINISHED,
            key_context,
            finished.as_mut_slice(),
        );
        StaticSecrets {
            suite: self.suite.id(),
            client: secret(b"client"),
            server: secret(b"server"),
            finished,
        }
    }

    fn export(&self, context: &[&[u8]]) -> Secret {
        let mut secret = Zeroizing::new([0; MAX_HASH_LEN]);
        let (secret, _) = secret.split_at_mut(self.suite.hash_len());
        self.exporter.export(&context.concat(), secret);
        Secret::new(secret)
    }
}

impl fmt::Debug for Agreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agreed").field("suite", &self.suite).finish_non_exhaustive()
    }
}
