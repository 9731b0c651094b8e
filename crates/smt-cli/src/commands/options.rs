//! Options that several subcommands share, and what they come to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use smt::datapath::fault::Rules;
use smt::engine::SessionInfo;
use smt::proto::crypto::SuiteId;
use smt::tls::{ClientTls, Identity, KeyExchange, PeerIdentity, Roots};
use smt::{
    Builder, CallOptions, ConnectError, ConnectOptions, Engine, Event, Faults, Limits, Padding,
    SessionId,
};

use super::Error;
use super::datapath::DatapathChoice;
use super::early::{EarlyRequest, EarlyResult};
use crate::stop::{LOOK_EVERY, Stop};

/// The port of servers unless another is given.
pub const DEFAULT_PORT: u16 = 4433;

/// How packets are marked for the network.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum DscpChoice {
    /// CS0 to CS7.
    #[default]
    ClassSelectors,
    /// Not at all.
    Off,
}

impl DscpChoice {
    fn table(self) -> Option<[u8; 8]> {
        match self {
            DscpChoice::ClassSelectors => Some(smt::CLASS_SELECTORS),
            DscpChoice::Off => None,
        }
    }
}

/// How messages travel. Both ends have these options.
#[derive(Debug, Args)]
#[command(next_help_heading = "Transport")]
pub struct Transport {
    /// What carries the packets: `raw`, straight over IP (needs CAP_NET_RAW); `packet`, the same packets by way of
    /// packet sockets, which is faster and has network devices cut large messages where they can; `xdp`, the same
    /// packets past the kernel's stack, the fastest for small messages, for one process on a network device (needs
    /// CAP_BPF and CAP_NET_ADMIN too); `udp`, for hosts without privileges and networks without other protocols; or
    /// `auto`, the best of `packet`, `raw` and `udp` that works, as `smt doctor` explains. Both ends must agree on
    /// `udp` or not
    #[arg(long, value_enum, default_value_t)]
    pub datapath: DatapathChoice,
    /// IP protocol number of native packets; means nothing to `udp`. Both ends must agree
    #[arg(long, value_name = "1..255", default_value_t = 253, value_parser = clap::value_parser!(u8).range(1..))]
    pub protocol: u8,
    /// What the network sees of a packet's priority: `class-selectors` marks the eight priorities with DSCP CS0 to CS7,
    /// `off` marks nothing
    #[arg(long, value_enum, default_value_t)]
    pub dscp: DscpChoice,
    /// How to wait for packets: `spin` for the lowest latency and a whole core, `block` to sleep, `adaptive` to spin
    /// for 50 us, as long as that pays, and then sleep
    #[arg(long, value_enum, default_value_t)]
    pub wait: WaitChoice,
    /// Cipher suites in order of preference [default: all three in the order shown]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SUITE,...")]
    pub cipher: Vec<CipherChoice>,
    /// How a secret is agreed on: `hybrid` is X25519 with ML-KEM-768, or X25519 or P-256 with peers that lack it
    #[arg(long, value_enum, default_value_t)]
    pub key_exchange: KeyExchangeChoice,
    /// How far message lengths are hidden: not at all, or up to the next power of two
    #[arg(long, value_enum, default_value_t)]
    pub padding: PaddingChoice,
    /// Bits of message ID: fewer for larger messages, more for longer sessions
    #[arg(long, value_name = "40..56", default_value_t = 48, value_parser = clap::value_parser!(u8).range(40..=56))]
    pub id_bits: u8,
    /// Largest message that is accepted, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    pub max_message: u32,
    /// Write every packet to this file (pcap, for Wireshark and tcpdump); their payloads stay encrypted
    #[arg(long, value_name = "FILE")]
    pub capture: Option<PathBuf>,
    /// One JSON object per line on standard output, for programs
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    faults: FaultOptions,
}

/// What is done to packets, for experiments.
#[derive(Debug, Args)]
#[command(
    next_help_heading = "Experiments (probabilities from 0 to 1, for packets sent and for packets received)"
)]
struct FaultOptions {
    /// Lose packets
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability, hide_default_value = true)]
    drop: f64,
    /// Let packets arrive twice
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability, hide_default_value = true)]
    duplicate: f64,
    /// Let packets be overtaken by the next three
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability, hide_default_value = true)]
    reorder: f64,
    /// Flip a bit of packets
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability, hide_default_value = true)]
    corrupt: f64,
    /// Decides which packets suffer
    #[arg(long, value_name = "N", default_value_t = 1)]
    fault_seed: u64,
}

fn probability(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err("must be from 0 to 1".to_owned()) }
}

/// A way of waiting on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the option's help says it")]
pub enum WaitChoice {
    Spin,
    #[default]
    Adaptive,
    Block,
}

/// A cipher suite on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the names are the suites'")]
pub enum CipherChoice {
    #[value(name = "aes-128-gcm")]
    Aes128Gcm,
    #[value(name = "aes-256-gcm")]
    Aes256Gcm,
    #[value(name = "chacha20-poly1305")]
    ChaCha20Poly1305,
}

/// A key exchange on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the option's help and the variants' own say it")]
pub enum KeyExchangeChoice {
    #[default]
    Hybrid,
    /// X25519 with ML-KEM-768 and nothing else
    HybridOnly,
    /// X25519 or P-256
    Classic,
    /// P-256 and nothing else
    P256,
}

/// A padding policy on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the option's help says it")]
pub enum PaddingChoice {
    #[default]
    None,
    PowerOfTwo,
}

impl Transport {
    /// A builder with these options, bound to `address`.
    pub fn builder(&self, address: IpAddr) -> Builder {
        let wait = match self.wait {
            WaitChoice::Spin => smt::Wait::Spin,
            WaitChoice::Adaptive => smt::Wait::Adaptive,
            WaitChoice::Block => smt::Wait::Block,
        };
        let padding = match self.padding {
            PaddingChoice::None => Padding::None,
            PaddingChoice::PowerOfTwo => Padding::PowerOfTwo,
        };
        let limits = Limits { max_message: self.max_message, ..Limits::default() };
        let builder = Builder::new()
            .bind(address)
            .datapath(self.datapath.kind())
            .protocol(self.protocol)
            .dscp(self.dscp.table())
            .wait(wait)
            .padding(padding)
            .id_bits(self.id_bits)
            .limits(limits);
        let builder = match self.faults.to_faults() {
            Some(faults) => builder.faults(faults),
            None => builder,
        };
        match &self.capture {
            Some(file) => builder.capture(file.clone()),
            None => builder,
        }
    }

    /// The cipher suites to allow; `None` for the default.
    pub fn suites(&self) -> Option<Vec<SuiteId>> {
        let suite = |choice: &CipherChoice| match choice {
            CipherChoice::Aes128Gcm => SuiteId::Aes128GcmSha256,
            CipherChoice::Aes256Gcm => SuiteId::Aes256GcmSha384,
            CipherChoice::ChaCha20Poly1305 => SuiteId::ChaCha20Poly1305Sha256,
        };
        (!self.cipher.is_empty()).then(|| self.cipher.iter().map(suite).collect())
    }

    /// How a secret is agreed on.
    pub fn key_exchange(&self) -> KeyExchange {
        match self.key_exchange {
            KeyExchangeChoice::Hybrid => KeyExchange::HybridPostQuantum,
            KeyExchangeChoice::HybridOnly => KeyExchange::HybridOnly,
            KeyExchangeChoice::Classic => KeyExchange::Classic,
            KeyExchangeChoice::P256 => KeyExchange::NistP256,
        }
    }

    /// What `engine`'s packets go in, in words, and by which datapath if that was left to it.
    pub fn carrier_text(&self, engine: &Engine) -> String {
        let name = engine.datapath_name();
        let carrier = match name {
            "udp" => "UDP".to_owned(),
            _ => format!("IP protocol {}", self.protocol),
        };
        match self.datapath {
            DatapathChoice::Auto => format!("{carrier}, datapath {name}"),
            _ => carrier,
        }
    }
}

impl FaultOptions {
    fn to_faults(&self) -> Option<Faults> {
        let FaultOptions { drop, duplicate, reorder, corrupt, fault_seed } = *self;
        let rules = Rules { drop, duplicate, reorder, corrupt, ..Rules::NONE };
        let any = rules != Rules::NONE;
        any.then_some(Faults { seed: fault_seed, receive: rules, transmit: rules })
    }
}

/// Whom a client calls, and who it is.
#[derive(Debug, Args)]
pub struct Client {
    /// The server: a DNS name, an IPv4 address or an IPv6 address in brackets, and its port [default port: 4433]
    #[arg(value_name = "HOST[:PORT]")]
    target: String,
    /// Certificates of the authorities that may vouch for the server (PEM)
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    ca: PathBuf,
    /// Refuse the server if this list revokes its certificate, as `smt pki revoke` writes it (PEM; repeatable). With
    /// one, every authority in the server's chain needs one
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    crl: Vec<PathBuf>,
    /// This client's certificate, for servers that ask for one (PEM)
    #[arg(long, value_name = "FILE", requires = "key", help_heading = "Identity")]
    cert: Option<PathBuf>,
    /// The private key of --cert (PEM)
    #[arg(long, value_name = "FILE", requires = "cert", help_heading = "Identity")]
    key: Option<PathBuf>,
    /// The name in the server's certificate [default: HOST]
    #[arg(long, help_heading = "Identity")]
    name: Option<String>,
    /// How long the handshake may take, in seconds; of a host with IPv4 and IPv6 addresses, half for each
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    connect_timeout: f64,
}

/// Where and how one address of a server is tried.
struct Target<'a> {
    remote: SocketAddr,
    name: &'a str,
    timeout: Duration,
    tls: ClientTls,
}

/// A positive number of seconds, at most a day.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    let possible = value > 0.0 && value <= 86_400.0;
    if possible { Ok(value) } else { Err("must be above 0 and at most 86400 seconds".to_owned()) }
}

/// A session that works, and the engine it lives in.
pub struct Connected {
    /// The engine.
    pub engine: Engine,
    /// The session.
    pub session: SessionId,
    /// What the handshake established.
    pub info: Arc<SessionInfo>,
    /// How long it took.
    pub handshake: Duration,
    /// What an early request has led to, if that came first.
    pub(super) early: Option<EarlyResult>,
    /// Why nothing could go early, if that was known before.
    pub(super) no_ticket: Option<String>,
    /// The configuration in use, with the tickets that the server has sent.
    pub(super) tls: ClientTls,
    /// The name in the server's certificate.
    pub(super) name: String,
    /// When the handshake began.
    pub(super) start: Instant,
}

impl Client {
    /// The server as the user named it.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Makes an engine and a session in it. `None` if the user stopped it.
    ///
    /// # Errors
    /// Whatever keeps us from having one.
    pub fn connect(&self, transport: &Transport, stop: &Stop) -> Result<Option<Connected>, Error> {
        self.connect_calling(transport, stop, None)
    }

    /// As [`connect`](Self::connect), with a request that may leave with the first packet.
    pub(super) fn connect_calling(
        &self,
        transport: &Transport,
        stop: &Stop,
        early: Option<&EarlyRequest<'_>>,
    ) -> Result<Option<Connected>, Error> {
        let (host, addresses) = self.resolve()?;
        let tls = self.tls(transport)?;
        let timeout = Duration::from_secs_f64(self.connect_timeout) / addresses.len().max(1) as u32;
        let name = self.name.as_deref().unwrap_or(host);
        let mut result = Err(self.failed(ConnectError::Unreachable));
        for remote in addresses {
            let target = Target { remote, name, timeout, tls: tls.clone() };
            result = self.connect_to(target, transport, stop, early);
            match &result {
                Err(Error::Bind(_)) => {}
                Err(Error::Connect { error, .. }) if is_silent(error) => {}
                _ => break,
            }
        }
        result
    }

    fn connect_to(
        &self,
        target: Target<'_>,
        transport: &Transport,
        stop: &Stop,
        early: Option<&EarlyRequest<'_>>,
    ) -> Result<Option<Connected>, Error> {
        let Target { remote, name, timeout, tls } = target;
        let any: IpAddr = match remote {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let mut options = ConnectOptions::new(name);
        let mut no_ticket = None;
        if let Some(EarlyRequest { options: early, body, .. }) = early {
            options = options.early(true).forward_secrecy(!early.is_static);
            match early.verified_ticket(&tls, name, remote.port(), body.len())? {
                Ok(ticket) => options.ticket = Some(ticket),
                Err(why) => no_ticket = Some(why),
            }
        }
        let mut engine =
            transport.builder(any).client(tls.clone()).connect_timeout(timeout).engine()?;
        let start = Instant::now();
        let connect = engine.connect_with(remote, options).map_err(|error| self.failed(error))?;
        if let Some(EarlyRequest { body, deadline, .. }) = early {
            let options = CallOptions { deadline: Some(*deadline), ..CallOptions::default() };
            engine.call_early(connect, body.clone(), options);
        }
        let mut first = None;
        while !stop.is_set() {
            match engine.next(Some(LOOK_EVERY)).map_err(Error::io("the datapath failed"))? {
                Some(Event::Connected { session, info, .. }) => {
                    let handshake = start.elapsed();
                    let (early, name) = (first, name.to_owned());
                    return Ok(Some(Connected {
                        engine,
                        session,
                        info,
                        handshake,
                        early,
                        no_ticket,
                        tls,
                        name,
                        start,
                    }));
                }
                Some(Event::ConnectFailed { error, .. }) => return Err(self.failed(error)),
                Some(Event::Response { result, .. }) => first = Some((result, start.elapsed())),
                _ => {}
            }
        }
        Ok(None)
    }

    pub(super) fn tls(&self, transport: &Transport) -> Result<ClientTls, Error> {
        let roots = self
            .crl
            .iter()
            .try_fold(Roots::from_pem_file(&self.ca)?, |roots, crl| roots.with_crl_pem_file(crl))?;
        let mut tls =
            ClientTls::builder(roots).key_exchange(transport.key_exchange()).key_log_from_env();
        if let Some(suites) = transport.suites() {
            tls = tls.cipher_suites(&suites);
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            tls = tls.identity(Identity::from_pem_files(cert, key)?);
        }
        Ok(tls.build()?)
    }

    /// The name in the server's certificate, and its port.
    pub(super) fn server_name_and_port(&self) -> Result<(String, u16), Error> {
        let (host, port) = split_target(&self.target)
            .ok_or_else(|| Error::Usage(format!("`{}` is not HOST[:PORT]", self.target)))?;
        Ok((self.name.clone().unwrap_or_else(|| host.to_owned()), port))
    }

    fn failed(&self, error: ConnectError) -> Error {
        Error::Connect { target: self.target.clone(), error }
    }

    /// The host's name without port and brackets, and its first address of each kind: `localhost` is often both, while
    /// its server listens at one.
    fn resolve(&self) -> Result<(&str, Vec<SocketAddr>), Error> {
        let (host, port) = split_target(&self.target)
            .ok_or_else(|| Error::Usage(format!("`{}` is not HOST[:PORT]", self.target)))?;
        let found = (host, port)
            .to_socket_addrs()
            .map_err(|source| Error::Resolve { host: host.to_owned(), source })?;
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in found {
            if addresses.iter().all(|known| known.is_ipv4() != address.is_ipv4()) {
                addresses.push(address);
            }
        }
        Ok((host, addresses))
    }
}

/// Whether nobody has answered, so that another address of the host is worth a try.
fn is_silent(error: &ConnectError) -> bool {
    use ConnectError::{Refused, TimedOut, Unreachable};
    matches!(error, TimedOut(_) | Refused | Unreachable)
}

/// Splits HOST[:PORT], where an IPv6 address with a port stands in brackets.
fn split_target(target: &str) -> Option<(&str, u16)> {
    if target.parse::<Ipv6Addr>().is_ok() {
        return Some((target, DEFAULT_PORT));
    }
    let (host, port) = match target.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) };
            (host, port)
        }
        None => target.split_once(':').map_or((target, None), |(host, port)| (host, Some(port))),
    };
    let port =
        port.map_or(Some(DEFAULT_PORT), |port| port.parse().ok().filter(|&port| port > 0))?;
    (!host.is_empty()).then_some((host, port))
}

/// The registered name of a cipher suite.
pub fn suite_name(suite: SuiteId) -> &'static str {
    match suite {
        SuiteId::Aes128GcmSha256 => "TLS_AES_128_GCM_SHA256",
        SuiteId::Aes256GcmSha384 => "TLS_AES_256_GCM_SHA384",
        SuiteId::ChaCha20Poly1305Sha256 => "TLS_CHACHA20_POLY1305_SHA256",
    }
}

/// The first of a peer's names, by which people know it.
pub fn peer_name(peer: &PeerIdentity) -> String {
    let ip = peer.ips().first().map(ToString::to_string);
    let name = peer.uris().first().or(peer.dns_names().first()).cloned().or(ip);
    name.or_else(|| peer.common_name().map(str::to_owned)).unwrap_or_else(|| "anonymous".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_split() {
        assert_eq!(split_target("db.example:7000"), Some(("db.example", 7000)));
        assert_eq!(split_target("10.0.0.2"), Some(("10.0.0.2", DEFAULT_PORT)));
        assert_eq!(split_target("[fd00::2]:7000"), Some(("fd00::2", 7000)));
        assert_eq!(split_target("[fd00::2]"), Some(("fd00::2", DEFAULT_PORT)));
        assert_eq!(split_target("fd00::2"), Some(("fd00::2", DEFAULT_PORT)));
        for nonsense in ["", ":1", "a:", "a:0", "a:65536", "a:b", "[::1", "[::1]7"] {
            assert_eq!(split_target(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn probabilities_and_seconds_have_bounds() {
        assert_eq!(probability("0.05"), Ok(0.05));
        assert!(["1.1", "-0.1", "NaN", "x"].iter().all(|text| probability(text).is_err()));
        assert_eq!(seconds("0.5"), Ok(0.5));
        assert!(["0", "-1", "inf", "NaN", "1e9"].iter().all(|text| seconds(text).is_err()));
    }
}
