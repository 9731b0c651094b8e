//! Options of early data (0-RTT), at both ends.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::Args;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use smt::ticket::shared::KeyFile;
use smt::ticket::{
    DEFAULT_STRIKES, EarlyData, MemoryRegister, RedisRegister, StrikeRegister, Ticket, TicketError,
    TicketIssuer, VerifiedTicket,
};
use smt::tls::{ClientTls, ConfigError, Identity};
use smt::{Body, CallError};

use super::Error;

/// What a server takes of clients it does not know yet.
#[derive(Debug, Args)]
#[command(next_help_heading = "Early data (0-RTT)")]
pub struct ServerOptions {
    /// Answer requests that come with a client's first packet, encrypted to a ticket of this server's; clients get
    /// tickets at the end of each handshake. Such requests may be executed again if somebody replays them to a server
    /// that has the keys of this one's tickets and shares no --register with it
    #[arg(long)]
    pub early: bool,
    /// Keep the ticket of the moment in this file, for `smt call --ticket` and `smt ticket serve`
    #[arg(long, value_name = "FILE", requires = "early")]
    pub ticket_file: Option<PathBuf>,
    /// Share the tickets' private keys with the other instances of this server that have this file, and with itself after
    /// a restart: a client that has a ticket of one may send its first packet to any. It belongs to the user that runs
    /// them, with mode 0600, and is made if it is not there; its place is memory, as in /run, not a disk or a backup. All
    /// need the same certificate, the same options, and a --register in Redis; with one in memory only one instance may
    /// use the file at a time, and takes no early data in its first ten seconds
    #[arg(long, value_name = "FILE", requires = "early")]
    pub ticket_keys: Option<PathBuf>,
    /// What remembers which first packets were taken, so that none is taken twice: `memory`, or a Redis that several
    /// servers share, as redis://HOST, redis://HOST:PORT or redis://HOST:PORT/DB. While it does not answer, early
    /// requests are refused
    #[arg(long, value_name = "REGISTER", requires = "early", default_value = "memory")]
    pub register: String,
    /// Also take sessions that live on the ticket alone, without TLS and forward secrecy, if clients ask for them
    #[arg(long, requires = "early")]
    pub static_ok: bool,
    /// Take early requests although --client-ca asks for certificates: their senders are anonymous
    #[arg(long, requires = "early")]
    pub anonymous_early: bool,
}

impl ServerOptions {
    /// What takes early data by tickets that `identity` signs; `None` without --early.
    ///
    /// # Errors
    /// The certificate cannot vouch for tickets, or the register cannot be had.
    pub fn early_data(
        &self,
        identity: impl FnOnce() -> Result<Identity, ConfigError>,
    ) -> Result<Option<EarlyData>, Error> {
        if !self.early {
            return Ok(None);
        }
        let mut issuer = TicketIssuer::builder(identity()?);
        if let Some(path) = &self.ticket_keys {
            let file = KeyFile::open(path)
                .map_err(|error| Error::Failed(format!("cannot use --ticket-keys: {error}")))?;
            self.claim_keys(path)?;
            issuer = issuer.key_file(file);
        }
        let issuer = issuer
            .build()
            .map_err(|error| Error::Failed(format!("cannot issue tickets: {error}")))?;
        let early = EarlyData::new(issuer, self.strike_register()?)
            .static_ok(self.static_ok)
            .anonymous_ok(self.anonymous_early);
        Ok(Some(early))
    }

    /// Claims the use of shared keys for as long as this process lives: with a register of its own
    /// alone, else together with others. Two registers for one key would each take the same first
    /// packet once, and answer it twice under one key and nonce (spec 5.7).
    fn claim_keys(&self, keys: &Path) -> Result<(), Error> {
        static CLAIM: OnceLock<File> = OnceLock::new();
        let mut path = keys.as_os_str().to_owned();
        path.push(".users");
        let failed = |error| Error::Failed(format!("cannot use {}: {error}", path.display()));
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let file = file.map_err(|error| failed(error.to_string()))?;
        let how = match self.register.as_str() {
            "memory" => FlockOperation::NonBlockingLockExclusive,
            _ => FlockOperation::NonBlockingLockShared,
        };
        flock(&file, how).map_err(|error| match error {
            Errno::WOULDBLOCK => {
                let keys = keys.display();
                Error::Failed(format!(
                    "another server uses the keys in {keys}, and one of the two has a register of its \
                     own: give both the same --register redis://..."
                ))
            }
            error => failed(error.to_string()),
        })?;
        // Closing it would end the claim.
        let _ = CLAIM.set(file);
        Ok(())
    }

    fn strike_register(&self) -> Result<Arc<dyn StrikeRegister>, Error> {
        if self.register == "memory" {
            return Ok(Arc::new(match self.ticket_keys {
                // What was accepted before this process started, by the same keys, it cannot know.
                Some(_) => MemoryRegister::default(),
                // The keys are this process's own: nothing was accepted before it started.
                None => MemoryRegister::started_at(DEFAULT_STRIKES, UNIX_EPOCH),
            }));
        }
        let register = RedisRegister::new(&self.register).map_err(|error| {
            Error::Usage(format!("--register takes `memory` or a Redis: {error}"))
        })?;
        Ok(Arc::new(register))
    }
}

/// Keeps a server's ticket of the moment in a file.
pub struct TicketFile {
    path: PathBuf,
    written: Option<Ticket>,
}

impl TicketFile {
    /// Nothing is written yet.
    pub fn new(path: &Path) -> TicketFile {
        TicketFile { path: path.to_owned(), written: None }
    }

    /// Writes the ticket of the moment, if it is another one than that in the file.
    ///
    /// # Errors
    /// There is no ticket, or the file cannot be written.
    pub fn update(&mut self, early: &EarlyData) -> Result<(), Error> {
        let ticket = early
            .issuer()
            .ticket(SystemTime::now())
            .map_err(|error| Error::Failed(format!("cannot issue a ticket: {error}")))?;
        if self.written.as_ref() != Some(&ticket) {
            write_ticket(&self.path, &ticket)?;
            self.written = Some(ticket);
        }
        Ok(())
    }
}

/// Writes a ticket in one go: readers see the old one or the new one.
///
/// # Errors
/// The file cannot be written.
pub fn write_ticket(path: &Path, ticket: &Ticket) -> Result<(), Error> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, ticket.bytes())
        .and_then(|()| fs::rename(&new, path))
        .map_err(Error::io(format!("cannot write {}", path.display())))
}

/// A request that may leave with the first packet.
pub(super) struct EarlyRequest<'a> {
    pub(super) options: &'a ClientOptions,
    pub(super) body: Bytes,
    pub(super) deadline: Duration,
}

/// What an early request has led to, and how long after the begin of the handshake.
pub(super) type EarlyResult = (Result<Body, CallError>, Duration);

/// How a client sends its first request.
#[derive(Debug, Args)]
#[command(next_help_heading = "Early data (0-RTT)")]
pub struct ClientOptions {
    /// Send the request with the first packet, encrypted to the server's ticket. It must be idempotent: it may be
    /// executed more than once. Without a usable ticket, or if the server refuses it, the request leaves as soon as the
    /// handshake allows
    #[arg(long)]
    pub early: bool,
    /// The server's ticket, from this file
    #[arg(long, value_name = "FILE", requires = "early", conflicts_with_all = ["ticket_dns", "ticket_store"])]
    pub ticket: Option<PathBuf>,
    /// Ask this DNS server for the server's ticket; `system` is the one of this host
    #[arg(long, value_name = "ADDR[:PORT]", requires = "early", conflicts_with = "ticket_store")]
    pub ticket_dns: Option<String>,
    /// Take the server's ticket from this file, if it is there and valid, and put there the one that the server sends
    #[arg(long, value_name = "FILE", requires = "early")]
    pub ticket_store: Option<PathBuf>,
    /// Do without TLS if there is a ticket and the server agrees: quicker, anonymous, and without forward secrecy
    #[arg(long = "static", requires = "early")]
    pub is_static: bool,
}

impl ClientOptions {
    /// The server's ticket, or why a request of so many bytes cannot go early: the call goes on.
    ///
    /// # Errors
    /// A DNS server that cannot be meant.
    pub fn verified_ticket(
        &self,
        tls: &ClientTls,
        server_name: &str,
        port: u16,
        request_len: usize,
    ) -> Result<Result<VerifiedTicket, String>, Error> {
        let (found, source) = match (&self.ticket, &self.ticket_dns, &self.ticket_store) {
            (Some(file), _, _) => (Ticket::from_file(file), Some(file)),
            (None, Some(server), _) => {
                (super::ticket::fetch_from_dns(server, server_name, port)?, None)
            }
            (None, None, Some(file)) if file.exists() => (Ticket::from_file(file), Some(file)),
            (None, None, Some(file)) => {
                return Ok(Err(format!("there is no ticket in {} yet", file.display())));
            }
            (None, None, None) => {
                let sources = "--ticket, --ticket-dns or --ticket-store";
                return Ok(Err(format!("no ticket was given ({sources})")));
            }
        };
        let verified =
            found.and_then(|ticket| tls.verify_ticket(&ticket, server_name, SystemTime::now()));
        if let Ok(ticket) = &verified
            && let most = ticket.ticket().max_early() as usize
            && request_len > most
        {
            let why = format!("it has {request_len} bytes, and the ticket lets {most} go early");
            return Ok(Err(why));
        }
        Ok(verified.map_err(|error| match (source, &error) {
            // Its message has the file's name.
            (None, _) | (_, TicketError::File { .. }) => error.to_string(),
            (Some(file), _) => format!("{}: {error}", file.display()),
        }))
    }
}
