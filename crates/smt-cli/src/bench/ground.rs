//! Where a measurement takes place: two hosts, a core for each, and what identifies them.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, ServerName};
use smt_testbed::{Pair, PairOptions, Wire, pair};

use super::serving::Server;
use super::{RPC_BYTES, failed};
use crate::commands::Error;
use crate::cores;
use crate::pki::{Authority, Identity, Profile};
use crate::times::Times;

/// The name in the server's certificate.
pub const SERVER_NAME: &str = "server.bench";
/// The name in the client's certificate.
const CLIENT_NAME: &str = "client.bench";
/// The network whose addresses a flood claims to come from: 2^20 of them.
pub const SPOOFED: (Ipv4Addr, u8) = (Ipv4Addr::new(172, 16, 0, 0), 12);
/// Echoes that tell what a link does by itself.
const ECHOES: usize = 400;
/// Echoes before those.
const WARM_UP: usize = 100;
/// After this long an echo is lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// An authority and what it issued: ECDSA on P-256 throughout.
pub struct Credentials {
    authority: CertificateDer<'static>,
    server: Identity,
    client: Identity,
}

impl Credentials {
    /// Makes new ones.
    ///
    /// # Errors
    /// The cryptographic library refuses.
    pub fn new() -> Result<Credentials, Error> {
        let cannot = failed("cannot make certificates");
        let profile = Profile::default();
        let authority = Authority::new("SMT benchmark authority", profile).map_err(&cannot)?;
        Credentials::issued_by(&authority)
    }

    /// New ones of this authority.
    ///
    /// # Errors
    /// The cryptographic library refuses.
    pub fn issued_by(authority: &Authority) -> Result<Credentials, Error> {
        let cannot = failed("cannot make certificates");
        let profile = Profile::default();
        Ok(Credentials {
            server: authority.server(&[SERVER_NAME], profile).map_err(&cannot)?,
            client: authority.client(CLIENT_NAME, profile).map_err(&cannot)?,
            authority: authority.certificate(),
        })
    }

    /// The certificate that both ends trust.
    pub fn authority(&self) -> CertificateDer<'static> {
        self.authority.clone()
    }

    /// What the server shows.
    pub fn server(&self) -> &Identity {
        &self.server
    }

    /// What the client shows, where it is asked.
    pub fn client(&self) -> &Identity {
        &self.client
    }

    /// The authority as rustls takes it.
    ///
    /// # Errors
    /// rustls does not.
    pub fn roots(&self) -> Result<Arc<RootCertStore>, Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority()).map_err(failed("cannot use the authority"))?;
        Ok(Arc::new(roots))
    }
}

/// The server's name as rustls takes it.
///
/// # Errors
/// None: it is a valid name.
pub fn server_name() -> Result<ServerName<'static>, Error> {
    ServerName::try_from(SERVER_NAME).map_err(failed("not a server's name"))
}

/// Two hosts joined by a link, the client's `a` and the server's `b`.
pub struct Ground {
    /// The hosts.
    pub pair: Pair,
    /// A core for the client and one for the server, if there are two.
    pub cores: Option<[usize; 2]>,
    /// Who they are.
    pub credentials: Arc<Credentials>,
}

impl Ground {
    /// Makes the hosts. With a round trip of 0 they are joined directly, otherwise by a link that delays.
    ///
    /// # Errors
    /// The kernel does not make them.
    pub fn new(credentials: &Arc<Credentials>, round_trip: Duration) -> Result<Ground, Error> {
        let wire = if round_trip.is_zero() { Wire::Veth } else { Wire::Delay(round_trip / 2) };
        let options = PairOptions { wire, behind_a: Some(SPOOFED), ..PairOptions::default() };
        Ground::on(credentials, options)
    }

    /// Makes the hosts, joined by any link.
    ///
    /// # Errors
    /// The kernel does not make them.
    pub fn on(credentials: &Arc<Credentials>, options: PairOptions) -> Result<Ground, Error> {
        let pair = pair(options).map_err(Error::io("cannot make two hosts joined by a link"))?;
        let cores = match cores::allowed().unwrap_or_default()[..] {
            [client, server, ..] => Some([client, server]),
            _ => None,
        };
        Ok(Ground { pair, cores, credentials: Arc::clone(credentials) })
    }

    /// An address of the server.
    pub fn server_address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.pair.b_v4.into(), port)
    }

    /// Runs `work` on the client's host and core.
    ///
    /// # Errors
    /// Those of `work`, or the thread cannot go there.
    pub fn as_client<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        let core = self.cores.map(|[client, _]| client);
        self.pair.a.run(|| stay_on(core).and_then(|()| work())).map_err(Error::io("no thread"))?
    }

    /// Round trips of a UDP datagram between the hosts, both ends asleep in between: what is lost to the link, the
    /// kernel and waking up, whoever the peer is.
    ///
    /// # Errors
    /// A datagram is lost.
    pub fn echo(&self) -> Result<Times, Error> {
        let address = self.server_address(7);
        let server = Server::start(self, move |serving| {
            let socket = UdpSocket::bind(address).map_err(Error::io("cannot bind"))?;
            socket
                .set_read_timeout(Some(super::serving::LOOK_EVERY))
                .map_err(Error::io("cannot set a timeout"))?;
            serving.ready();
            let mut datagram = [0; RPC_BYTES];
            while !serving.is_over() {
                if let Ok((_, from)) = socket.recv_from(&mut datagram) {
                    socket.send_to(&datagram, from).map_err(Error::io("cannot answer"))?;
                }
            }
            Ok(())
        })?;
        let times = self.as_client(|| echoes(address).map_err(Error::io("no echo")));
        server.stop()?;
        times
    }
}

fn echoes(server: SocketAddr) -> std::io::Result<Times> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut times = Times::default();
    for round in 0..WARM_UP + ECHOES {
        let start = Instant::now();
        socket.send(&[7; RPC_BYTES])?;
        socket.recv(&mut [0; RPC_BYTES])?;
        if round >= WARM_UP {
            times.add(start.elapsed());
        }
    }
    Ok(times)
}

/// Keeps the calling thread on `core`, if there is one for it.
pub(super) fn stay_on(core: Option<usize>) -> Result<(), Error> {
    core.map_or(Ok(()), cores::pin_to).map_err(Error::io("cannot stay on one core"))
}
