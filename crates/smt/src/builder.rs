//! How endpoints and engines are configured and made.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use smt_datapath::fault::{Faulty, Rules};
use smt_datapath::pcap::PcapWriter;
use smt_datapath::{Datapath, OpenError, OpenOptions, Opened, PRIORITIES};
use smt_proto::padding::Padding;
use smt_proto::wire::{WANTS_SMT_TICKET, WANTS_TLS_TICKETS};
use smt_proto::{Config, Limits, Shard};

use crate::endpoint::Endpoint;
use crate::engine::Engine;
use crate::engine::shards::Group;
use crate::tls::pool::PoolConfig;
use crate::tls::{ClientTls, ServerTls};

pub use smt_datapath::{CLASS_SELECTORS, Kind as DatapathKind, XdpHook, XdpOptions};

/// How an [`Engine`] waits for packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wait {
    /// Busy-polls: the lowest latency, for a core of its own.
    Spin,
    /// Busy-polls for 50 us when there is nothing to do, as long as packets have come within that
    /// time of late, then sleeps. An idle engine takes no core, nor does one whose peers take their
    /// time.
    #[default]
    Adaptive,
    /// Sleeps whenever there is nothing to do. Timers against loss are then as coarse as the kernel's
    /// tick (1 to 10 ms), until one of them had to send something; then they are exact for 100 ms.
    /// This holds for adaptive engines too.
    Block,
}

impl Wait {
    /// How long an engine that waits like this may sleep before it answers, as told to peers.
    fn delay(self) -> Duration {
        match self {
            Wait::Spin => Duration::from_micros(50),
            Wait::Adaptive | Wait::Block => Duration::from_micros(200),
        }
    }
}

/// Faults injected into an endpoint's packets, for tests and demonstrations.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Decides which packets suffer.
    pub seed: u64,
    /// What happens to received packets.
    pub receive: Rules,
    /// What happens to sent packets.
    pub transmit: Rules,
}

/// Why an endpoint could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The datapath could not be opened.
    #[error(transparent)]
    Datapath(#[from] OpenError),
    /// The host refused something else.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The host's answer.
        source: io::Error,
    },
    /// One engine was asked for, and several shards.
    #[error("several shards are several engines: make them by `Builder::engines`")]
    SeveralShards,
    /// Neither a server's nor a client's TLS configuration was given, nor a role for sessions on
    /// secrets negotiated elsewhere.
    #[error("give the builder a server TLS configuration, a client TLS configuration, or both")]
    NoTls,
    /// `listen` and `server` go together.
    #[error("an endpoint that listens needs a server TLS configuration, and the reverse")]
    HalfAServer,
}

/// Configuration of an [`Endpoint`] or [`Engine`]. Everything but TLS has a default that is right for
/// most.
#[derive(Clone, Debug)]
pub struct Builder {
    bind: IpAddr,
    listen: Option<u16>,
    pub(crate) server: Option<ServerTls>,
    pub(crate) client: Option<ClientTls>,
    /// Ports for sessions on secrets negotiated elsewhere, as client.
    external_client: bool,
    smt_tickets: bool,
    datapath: DatapathKind,
    protocol: u8,
    dscp: Option<[u8; PRIORITIES]>,
    xdp: XdpOptions,
    pub(crate) wait: Wait,
    core: Config,
    shards: u8,
    pub(crate) connect_timeout: Duration,
    pub(crate) call_deadline: Duration,
    pub(crate) handshake_pool: PoolConfig,
    #[cfg(feature = "null-cipher")]
    pub(crate) null_cipher: bool,
    faults: Option<Faults>,
    capture: Option<PathBuf>,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            bind: Ipv4Addr::UNSPECIFIED.into(),
            listen: None,
            server: None,
            client: None,
            external_client: false,
            smt_tickets: true,
            datapath: DatapathKind::Raw,
            protocol: smt_datapath::DEFAULT_PROTOCOL,
            dscp: Some(smt_datapath::CLASS_SELECTORS),
            xdp: XdpOptions::default(),
            wait: Wait::default(),
            core: Config::default(),
            shards: 1,
            connect_timeout: Duration::from_secs(5),
            call_deadline: Duration::from_secs(10),
            handshake_pool: PoolConfig::default(),
            #[cfg(feature = "null-cipher")]
            null_cipher: false,
            faults: None,
            capture: None,
        }
    }
}

impl Builder {
    /// The defaults: all IPv4 addresses, native packets (protocol 253), adaptive waiting.
    #[must_use]
    pub fn new() -> Self {
        Builder::default()
    }

    /// Our address; a wildcard (the default is 0.0.0.0) means all of its IP version.
    #[must_use]
    pub fn bind(mut self, address: IpAddr) -> Self {
        self.bind = address;
        self
    }

    /// Takes sessions at SMT port `port` (0: any free one) under this TLS configuration.
    #[must_use]
    pub fn server(mut self, port: u16, tls: ServerTls) -> Self {
        self.listen = Some(port);
        self.server = Some(tls);
        self
    }

    /// Makes sessions under this TLS configuration.
    #[must_use]
    pub fn client(mut self, tls: ClientTls) -> Self {
        self.client = Some(tls);
        self
    }

    /// Takes an SMT port (0: any free one) for sessions on secrets that another TLS stack has
    /// negotiated as server ([`Engine::offer_external`]). Needs no TLS configuration.
    #[must_use]
    pub fn external_server(mut self, port: u16) -> Self {
        self.listen = Some(port);
        self
    }

    /// Takes client ports for sessions on secrets that another TLS stack has negotiated as client
    /// ([`Engine::offer_external`]). Needs no TLS configuration.
    #[must_use]
    pub fn external_client(mut self) -> Self {
        self.external_client = true;
        self
    }

    /// Whether a client asks servers for tickets with which a later connect can send early data; they go
    /// into the store of its TLS configuration. Default: true.
    #[must_use]
    pub fn smt_tickets(mut self, wanted: bool) -> Self {
        self.smt_tickets = wanted;
        self
    }

    /// Which datapath; the default is [`DatapathKind::Raw`].
    #[must_use]
    pub fn datapath(mut self, datapath: DatapathKind) -> Self {
        self.datapath = datapath;
        self
    }

    /// IP protocol number of native packets; the default is 253. Both ends must agree.
    #[must_use]
    pub fn protocol(mut self, protocol: u8) -> Self {
        self.protocol = protocol;
        self
    }

    /// The DSCP (6 bits) that packets of each of the eight priorities carry, lowest first; `None`
    /// leaves packets unmarked. By default the class selectors CS0 to CS7 (RFC 2474), which switches
    /// take for eight queues unless told otherwise. The two ends need not agree.
    #[must_use]
    pub fn dscp(mut self, dscp: Option<[u8; PRIORITIES]>) -> Self {
        self.dscp = dscp;
        self
    }

    /// Where the XDP program runs and the like; of effect with [`DatapathKind::Xdp`] alone. By default
    /// the kernel does the best that the device can.
    #[must_use]
    pub fn xdp(mut self, xdp: XdpOptions) -> Self {
        self.xdp = xdp;
        self
    }

    /// How many engines share the port and the sessions of this endpoint: 1 (the default), 2, 4, .. 64.
    /// Each is to run on a thread of its own, and handles the RPCs of its own lanes of each session
    /// (spec 3.5), which the kernel tells apart by message ID. Make them by [`engines`](Self::engines), or
    /// have an [`endpoint`](Self::endpoint) drive them all. The peers need not have as many.
    #[must_use]
    pub fn shards(mut self, shards: u8) -> Self {
        self.shards = shards;
        self
    }

    /// How many lanes sessions have, at least: a power of two up to 64; by default as many as the end with
    /// more shards has. More than that are of no use but to tests.
    ///
    /// # Panics
    /// If it is another number.
    #[must_use]
    pub fn lanes(mut self, lanes: u8) -> Self {
        assert!(lanes.is_power_of_two() && lanes <= 64, "lanes must be 1, 2, 4, .. 64");
        self.core.lanes = lanes;
        self
    }

    /// How to wait for packets; of no effect with tokio, which waits its own way.
    #[must_use]
    pub fn wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// Bounds on memory and work.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.core.limits = limits;
        self
    }

    /// How message lengths are hidden; the default is not at all.
    #[must_use]
    pub fn padding(mut self, padding: Padding) -> Self {
        self.core.padding = padding;
        self
    }

    /// Bits of message ID we send under, 40..=56 (default 48): fewer give larger messages, more give
    /// longer sessions (spec 3.1).
    ///
    /// # Panics
    /// If out of range.
    #[must_use]
    pub fn id_bits(mut self, bits: u8) -> Self {
        assert!((40..=56).contains(&bits), "ID bits must be 40 to 56");
        self.core.id_bits = bits;
        self
    }

    /// Lowers the AEAD limits after which keys move on, for tests.
    #[must_use]
    pub fn aead_limits(mut self, limits: smt_proto::AeadLimits) -> Self {
        self.core.aead_limits = Some(limits);
        self
    }

    /// How long a handshake may take; the default is 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Deadline of calls that name none; the default is 10 s.
    #[must_use]
    pub fn call_deadline(mut self, deadline: Duration) -> Self {
        self.call_deadline = deadline;
        self
    }

    /// Runs TLS steps on the thread that polls instead of a worker thread beside it. Established
    /// sessions then wait up to milliseconds for each handshake.
    #[must_use]
    pub fn handshakes_inline(mut self) -> Self {
        self.handshake_pool = PoolConfig::inline();
        self
    }

    /// Encrypts and authenticates nothing once a handshake is complete, to measure what that costs; both ends have to
    /// agree on it. Sessions on tickets and on secrets of others encrypt as always.
    #[cfg(feature = "null-cipher")]
    #[must_use]
    pub fn null_cipher(mut self) -> Self {
        self.null_cipher = true;
        self
    }

    /// Injects faults into packets, for tests and demonstrations.
    #[must_use]
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = Some(faults);
        self
    }

    /// Writes every packet to a pcap file. Payloads in it are encrypted.
    #[must_use]
    pub fn capture(mut self, file: PathBuf) -> Self {
        self.capture = Some(file);
        self
    }

    pub(crate) fn bind_address(&self) -> IpAddr {
        self.bind
    }

    /// Makes an [`Engine`].
    ///
    /// # Errors
    /// [`BindError`]; [`BindError::SeveralShards`] where there are to be several.
    pub fn engine(self) -> Result<Engine, BindError> {
        if self.shards != 1 {
            return Err(BindError::SeveralShards);
        }
        let opened = smt_datapath::open(self.open_options()?)?;
        self.engine_over(opened)
    }

    /// Makes the engines of all [`shards`](Self::shards), the first of which makes all sessions: there
    /// connects are asked for, and [`Accepted`](crate::Event::Accepted) is told; at the others
    /// [`Joined`](crate::Event::Joined) is. Each can be moved to a thread of its own. Limits on all
    /// sessions together are divided among them, with equal parts. A session that one of them closes is
    /// closed at all; when one is dropped, all sessions of all end.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn engines(self) -> Result<Vec<Engine>, BindError> {
        let options = self.open_options()?;
        let opened = smt_datapath::open_shards(options, self.shards)?;
        let group = Group::new(opened.len());
        let count = self.shards;
        let mut engines = Vec::new();
        for (index, opened) in (0..count).zip(opened) {
            let mut builder = self.clone();
            builder.core.shard = Shard { index, count };
            let limits = &mut builder.core.limits;
            limits.max_incoming_bytes_total /= u64::from(count);
            limits.max_no_session_answers = limits.max_no_session_answers.div_ceil(count.into());
            if index > 0 {
                builder.faults = builder.faults.map(|faults| Faults {
                    seed: faults.seed.wrapping_add(index.into()),
                    ..faults
                });
                builder.capture = builder.capture.map(|file| {
                    let extension = format!("{index}.pcap");
                    file.with_extension(extension)
                });
                (builder.server, builder.client) = (None, None);
            }
            let mut engine = builder.engine_over(opened)?;
            if count > 1 {
                engine.join_group(index.into(), Arc::clone(&group));
            }
            engines.push(engine);
        }
        Ok(engines)
    }

    fn open_options(&self) -> Result<OpenOptions, BindError> {
        let client = self.client.is_some() || self.external_client;
        if self.listen.is_none() && !client {
            return Err(BindError::NoTls);
        }
        Ok(OpenOptions {
            kind: self.datapath,
            bind: self.bind,
            listen: self.listen,
            client,
            protocol: self.protocol,
            dscp: self.dscp,
            xdp: self.xdp,
        })
    }

    /// Makes an [`Engine`] over a datapath opened elsewhere.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn engine_over(self, opened: Opened) -> Result<Engine, BindError> {
        let Opened { mut datapath, listen, client_ports } = opened;
        if let Some(Faults { seed, receive, transmit }) = self.faults {
            datapath = Box::new(Faulty::new(datapath, seed, receive, transmit));
        }
        if let Some(file) = &self.capture {
            let capture = File::create(file)
                .and_then(|file| {
                    let output = Box::new(io::BufWriter::new(file));
                    PcapWriter::new(datapath, output, self.protocol, self.bind)
                })
                .map_err(|source| BindError::Io { what: "writing the capture file", source })?;
            datapath = Box::new(capture);
        }
        let mut core = self.core.clone();
        core.wake_delay = self.wait.delay();
        let tls_tickets = self.client.as_ref().is_some_and(ClientTls::wants_tickets);
        core.wants = if tls_tickets { WANTS_TLS_TICKETS } else { 0 }
            | if self.smt_tickets { WANTS_SMT_TICKET } else { 0 };
        core.receive_credit = credit(&*datapath);
        Engine::new(self, core, Opened { datapath, listen, client_ports })
            .map_err(|source| BindError::Io { what: "making the engine's descriptors", source })
    }

    /// Makes an [`Endpoint`] driven by the current tokio runtime, with a task for each of its
    /// [`shards`](Self::shards).
    ///
    /// # Errors
    /// [`BindError`].
    ///
    /// # Panics
    /// Outside a tokio runtime with IO enabled.
    pub fn endpoint(self) -> Result<Endpoint, BindError> {
        Endpoint::new(self.engines()?)
            .map_err(|source| BindError::Io { what: "registering with the runtime", source })
    }
}

/// Bytes that peers may be granted at once: half of what the receive buffer holds, so that small
/// messages, which need no grant, find room beside them.
fn credit(datapath: &dyn Datapath) -> u32 {
    u32::try_from(datapath.caps().rx_capacity / 2).unwrap_or(u32::MAX).clamp(64 << 10, 8 << 20)
}
