//! Asking DNS for tickets.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData};

use super::{owner, record_type};
use crate::ticket::{Ticket, TicketError, VerifiedTicket};
use crate::tls::ClientTls;

/// How long one question may take; two are asked at most.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// Most records of an answer that are looked at.
pub const MAX_RECORDS: usize = 4;

/// Answers are not kept longer, whatever they say: tickets are short-lived.
const MAX_CACHED: Duration = Duration::from_secs(60);
/// Most answers kept.
const MAX_CACHE_ENTRIES: u64 = 256;

/// A DNS resolver for tickets. Its methods run in a tokio runtime.
#[derive(Clone, Debug)]
pub struct TicketResolver {
    resolver: TokioResolver,
}

impl TicketResolver {
    /// A resolver that asks the system's DNS servers.
    ///
    /// # Errors
    /// [`TicketError::Dns`] if the system's settings cannot be read.
    pub fn from_system() -> Result<Self, TicketError> {
        let builder = TokioResolver::builder_tokio().map_err(|e| unusable(&e))?;
        let mut options = builder_options();
        options.ndots = 0;
        let resolver = builder.with_options(options).build().map_err(|e| unusable(&e))?;
        Ok(Self { resolver })
    }

    /// A resolver that asks these DNS servers, over UDP and, where an answer is too long for
    /// that, over TCP.
    ///
    /// # Errors
    /// [`TicketError::Dns`] if there is none.
    pub fn with_servers(servers: &[SocketAddr]) -> Result<Self, TicketError> {
        if servers.is_empty() {
            return Err(TicketError::Dns {
                name: String::new(),
                detail: "the list of DNS servers is empty".to_owned(),
            });
        }
        let servers = servers.iter().map(|server| {
            let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
            for connection in &mut connections {
                connection.port = server.port();
            }
            NameServerConfig::new(server.ip(), true, connections)
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(builder_options())
            .build()
            .map_err(|e| unusable(&e))?;
        Ok(Self { resolver })
    }

    /// The tickets that DNS has for the server at SMT port `port` of `host`, those that are valid
    /// for longest first. Nothing about them is verified.
    ///
    /// # Errors
    /// [`TicketError::NoRecord`] if there are none, [`TicketError::Dns`] if DNS cannot be asked;
    /// what is wrong with the first record, if all are malformed.
    pub async fn lookup(&self, host: &str, port: u16) -> Result<Vec<Ticket>, TicketError> {
        if host.parse::<IpAddr>().is_ok() {
            return Err(TicketError::NoRecord { name: host.to_owned() });
        }
        let name = owner(host, port)?;
        let answer = self
            .resolver
            .lookup(name.clone(), record_type())
            .await
            .map_err(|e| failed(&name, &e))?;
        let (mut tickets, mut wrong) = (Vec::new(), None);
        let records = answer.answers().iter().filter_map(|record| match &record.data {
            RData::Unknown { code, rdata } if *code == record_type() => Some(rdata),
            _ => None,
        });
        for record in records.take(MAX_RECORDS) {
            match Ticket::parse(&record.anything) {
                Ok(ticket) => tickets.push(ticket),
                Err(e) => wrong = wrong.or(Some(e)),
            }
        }
        if tickets.is_empty() {
            return Err(wrong.unwrap_or_else(|| no_record(&name)));
        }
        tickets.sort_by_key(|ticket| std::cmp::Reverse(ticket.validity().1));
        Ok(tickets)
    }

    /// Looks up the ticket of a server, verifies it by `tls` at `now`, and keeps it in `tls`'s
    /// [store](ClientTls::tickets).
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup); or why the ticket that is valid for longest is not to be
    /// trusted, if none is.
    pub async fn fetch(
        &self,
        tls: &ClientTls,
        host: &str,
        port: u16,
        now: SystemTime,
    ) -> Result<VerifiedTicket, TicketError> {
        let mut wrong = None;
        // Before anything is verified: a configuration that is replaced meanwhile has another.
        let store = tls.tickets();
        for ticket in self.lookup(host, port).await? {
            match tls.verify_ticket(&ticket, host, now) {
                Ok(verified) => {
                    store.put(port, verified.clone());
                    return Ok(verified);
                }
                Err(e) => wrong = wrong.or(Some(e)),
            }
        }
        Err(wrong.unwrap_or_else(|| TicketError::NoRecord { name: host.to_owned() }))
    }
}

fn builder_options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = LOOKUP_TIMEOUT;
    options.attempts = 1;
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = MAX_CACHE_ENTRIES;
    options.positive_max_ttl = Some(MAX_CACHED);
    options.negative_max_ttl = Some(MAX_CACHED);
    options.case_randomization = true;
    options
}

fn unusable(error: &NetError) -> TicketError {
    TicketError::Dns { name: String::new(), detail: error.to_string() }
}

fn failed(name: &Name, error: &NetError) -> TicketError {
    if error.is_no_records_found() {
        return no_record(name);
    }
    TicketError::Dns { name: name.to_string(), detail: error.to_string() }
}

fn no_record(name: &Name) -> TicketError {
    TicketError::NoRecord { name: name.to_string() }
}
