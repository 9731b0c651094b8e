//! An authoritative DNS server for tickets and nothing else.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{
    Edns, Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode,
};
use hickory_server::proto::rr::rdata::{NULL, SOA};
use hickory_server::proto::rr::{LowerName, Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

use super::{apex, owner, record_type};
use crate::ticket::{Ticket, TicketError, unix_seconds};

/// Longest time that caches may keep a ticket: after a change of keys clients go on with the old
/// one for as long, which is what the previous key is kept for.
pub const MAX_TTL: Duration = Duration::from_secs(60);
/// A TCP connection on which nothing is asked for so long is closed.
pub const TCP_IDLE: Duration = Duration::from_secs(5);

/// For how long caches may remember that there is no ticket.
const NEGATIVE_TTL: u32 = 5;
/// Answers that may wait to be sent on one TCP connection.
const TCP_ANSWERS: usize = 8;
/// Largest UDP answer, in bytes: what passes every network in one packet.
const MAX_UDP_ANSWER: u16 = 1232;
/// How often a port is looked for that is free for UDP and TCP.
const BIND_ATTEMPTS: usize = 16;

type Source = Arc<dyn Fn(SystemTime) -> Option<Ticket> + Send + Sync>;

/// The tickets that a DNS server knows, as the zones `_smt.HOST` of its hosts.
#[derive(Clone, Default)]
pub struct TicketZone {
    apexes: BTreeMap<LowerName, Name>,
    owners: BTreeMap<LowerName, Source>,
}

impl TicketZone {
    /// No tickets.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the server at SMT port `port` of `host`, whose ticket `source` gives: that of its
    /// issuer, or one read from a file. `None`: none at present.
    ///
    /// # Errors
    /// [`TicketError::Dns`] if `host` is no DNS name.
    pub fn serve(
        mut self,
        host: &str,
        port: u16,
        source: impl Fn(SystemTime) -> Option<Ticket> + Send + Sync + 'static,
    ) -> Result<Self, TicketError> {
        let (apex, owner) = (apex(host)?, owner(host, port)?);
        self.apexes.insert(LowerName::new(&apex), apex);
        self.owners.insert(LowerName::new(&owner), Arc::new(source));
        Ok(self)
    }

    /// What there is to say about `name`.
    fn answer(&self, name: &Name, kind: RecordType, now: SystemTime) -> Answer {
        let lower = LowerName::new(name);
        let Some((_, apex)) = self.apexes.iter().find(|(apex, _)| apex.zone_of(&lower)) else {
            return Answer { code: ResponseCode::Refused, answers: Vec::new(), soa: None };
        };
        let soa = soa(apex, now);
        let is_apex = lower == LowerName::new(apex);
        let source = self.owners.get(&lower);
        let answers: Vec<_> = match source {
            Some(source) if kind == record_type() || kind == RecordType::ANY => {
                source(now).and_then(|ticket| record(name, &ticket, now)).into_iter().collect()
            }
            None if is_apex && kind == RecordType::SOA => vec![soa.clone()],
            _ => Vec::new(),
        };
        let exists = source.is_some() || is_apex;
        let code = if exists { ResponseCode::NoError } else { ResponseCode::NXDomain };
        let soa = answers.is_empty().then_some(soa);
        Answer { code, answers, soa }
    }
}

impl fmt::Debug for TicketZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.owners.keys().map(ToString::to_string)).finish()
    }
}

struct Answer {
    code: ResponseCode,
    answers: Vec<Record>,
    soa: Option<Record>,
}

/// The record of a ticket; `None` once it has expired.
fn record(owner: &Name, ticket: &Ticket, now: SystemTime) -> Option<Record> {
    let left = ticket.validity().1.checked_sub(unix_seconds(now))?;
    let ttl = (left / 2).min(MAX_TTL.as_secs()) as u32;
    let rdata = NULL::with(ticket.bytes().to_vec());
    let data = RData::Unknown { code: record_type(), rdata };
    Some(Record::from_rdata(owner.clone(), ttl, data))
}

fn soa(apex: &Name, now: SystemTime) -> Record {
    let seconds = unix_seconds(now) as u32;
    let timer = MAX_TTL.as_secs() as i32;
    let soa = SOA::new(apex.clone(), apex.clone(), seconds, timer, timer, timer, NEGATIVE_TTL);
    Record::from_rdata(apex.clone(), NEGATIVE_TTL, RData::SOA(soa))
}

/// A running DNS server; it ends when dropped.
pub struct TicketServer {
    server: Server<Handler>,
    address: SocketAddr,
}

impl TicketServer {
    /// Serves `zone` over UDP and TCP at `address`; port 0 stands for any free one.
    ///
    /// # Errors
    /// Those of the system when it gives no such socket.
    pub async fn bind(address: SocketAddr, zone: TicketZone) -> io::Result<Self> {
        let (udp, tcp) = sockets(address).await?;
        let address = tcp.local_addr()?;
        let mut server = Server::new(Handler { zone });
        server.register_socket(udp);
        server.register_listener(tcp, TCP_IDLE, TCP_ANSWERS);
        Ok(Self { server, address })
    }

    /// Where it serves.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until its sockets fail.
    ///
    /// # Errors
    /// What they failed by.
    pub async fn run(mut self) -> io::Result<()> {
        self.server.block_until_done().await.map_err(io::Error::other)
    }
}

impl fmt::Debug for TicketServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketServer").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A port that is free for TCP need not be so for UDP.
async fn sockets(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut attempt = 1;
    loop {
        let tcp = TcpListener::bind(address).await?;
        match UdpSocket::bind(tcp.local_addr()?).await {
            Ok(udp) => return Ok((udp, tcp)),
            Err(e) if address.port() != 0 || attempt == BIND_ATTEMPTS => return Err(e),
            Err(_) => attempt += 1,
        }
    }
}

struct Handler {
    zone: TicketZone,
}

type Responded<'a> = Pin<Box<dyn Future<Output = ResponseInfo> + Send + 'a>>;

impl RequestHandler for Handler {
    fn handle_request<'a, 'b, 'c, R, T>(
        &'a self,
        request: &'b Request,
        mut response: R,
    ) -> Responded<'c>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
        R: ResponseHandler + 'c,
        T: Time + 'c,
    {
        Box::pin(async move {
            let answer = self.decide(request);
            let mut metadata = Metadata::response_from_request(&request.metadata);
            metadata.response_code = answer.code;
            metadata.authoritative = answer.code != ResponseCode::Refused;
            let edns = request.edns.as_ref().map(|asked| {
                let mut edns = Edns::new();
                edns.set_max_payload(asked.max_payload().clamp(512, MAX_UDP_ANSWER));
                edns
            });
            let builder = MessageResponseBuilder::new(&request.queries, edns.as_ref());
            let message = builder.build(metadata, &answer.answers, [], &answer.soa, []);
            response.send_response(message).await.unwrap_or_else(|_| {
                // The asker is gone; what would have been sent is only counted.
                ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
            })
        })
    }
}

impl Handler {
    fn decide(&self, request: &Request) -> Answer {
        let refuse = |code| Answer { code, answers: Vec::new(), soa: None };
        if request.metadata.message_type != MessageType::Query {
            return refuse(ResponseCode::FormErr);
        }
        if request.metadata.op_code != OpCode::Query {
            return refuse(ResponseCode::NotImp);
        }
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return refuse(ResponseCode::BADVERS);
        }
        let Ok(info) = request.request_info() else { return refuse(ResponseCode::FormErr) };
        // The name as it was written: askers compare the case of its letters.
        let query = info.query.original();
        self.zone.answer(query.name(), query.query_type(), SystemTime::now())
    }
}
