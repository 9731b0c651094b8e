//! The RPC over TLS 1.3 on TCP where the kernel seals and opens records: rustls makes the handshake, AES-128-GCM,
//! X25519, certificates on both sides, and hands the keys over (`TCP_ULP`). From then on the connection is read and
//! written as plain TCP is.
//!
//! Records of the handshake are taken from the kernel one by one, so that what follows them is left to it. Nobody here
//! updates keys or sends tickets, so that nothing but messages comes; a peer that ended its stream properly would be
//! met as an error, which ends the connection as well.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::errno::Errno;
use nix::sys::socket::sockopt::{SetBool, TcpTlsRx, TcpTlsTx, TcpUlp, TlsCryptoInfo};
use nix::sys::socket::{AddressFamily, SetSockOpt, SockFlag, SockType, setsockopt, socket};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, ConnectionTrafficSecrets, ExtractedSecrets, ServerConfig};

use super::buffered::Buffered;
use super::connection::Unwaiting;
use super::fleet::{self, Room};
use super::pipe::{Link, Pipe, accept_each};
use super::tls::{Tls, TlsChannel, client_channel, server_channel};
use super::{Channel, Pipeline, Plan, SILENCE, Wait, ping, serve};

/// The kernel's name of what it puts on a TCP connection.
const ULP: &str = "tls";
/// Room for records of the handshake: two of them.
const INCOMING_BYTES: usize = 2 * (RECORD_HEADER_BYTES + (1 << 14) + 256);
/// Bytes in front of a record, the last two of which are its length.
const RECORD_HEADER_BYTES: usize = 5;
/// Bytes of a key's IV that the kernel calls its salt.
const SALT_BYTES: usize = 4;

// Records without padding can be opened in the reader's memory; nix does not know the option.
#[derive(Clone, Copy)]
struct ExpectNoPad;
nix::setsockopt_impl!(ExpectNoPad, libc::SOL_TLS, libc::TLS_RX_EXPECT_NO_PAD, bool, SetBool);

/// Whether the kernel has TLS; loads it if this process may.
///
/// # Errors
/// Why it has none.
pub fn available() -> Result<(), String> {
    let socket = socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .or_else(|_| socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None))
        .map_err(|errno| errno.to_string())?;
    match setsockopt(&socket, TcpUlp::default(), &ULP) {
        // It is there, and wants a connection.
        Ok(()) | Err(Errno::ENOTCONN) => Ok(()),
        Err(Errno::ENOENT) => Err("the kernel has no kTLS (CONFIG_TLS, modprobe tls)".to_owned()),
        Err(errno) => Err(format!("the kernel refuses kTLS: {errno}")),
    }
}

/// Serves the clients of `listener`, one after the other, until `stop` becomes true.
///
/// Clients may connect as soon as `listener` exists.
///
/// # Errors
///
/// The listener fails; a connection that fails is dropped.
pub fn serve_ktls(
    listener: &TcpListener,
    config: &Arc<ServerConfig>,
    wait: Wait,
    stop: &AtomicBool,
) -> io::Result<()> {
    let config = server_config(config);
    accept_each(listener, wait, stop, |pipe| serve(&mut accepted(pipe, &config)?))
}

/// Connects to the server at `server`, whose certificate has to name it `name`; what it returns measures round trips
/// on that one connection, in nanoseconds, in order. Whatever a plan says of waiting, it waits as told here.
///
/// # Errors
///
/// No connection, a failed handshake, or a kernel without TLS; then no answer for ten seconds, or a wrong answer.
pub fn pinger_ktls(
    server: SocketAddr,
    name: ServerName<'static>,
    config: &Arc<ClientConfig>,
    wait: Wait,
) -> io::Result<impl FnMut(&Plan) -> io::Result<Vec<u64>> + use<>> {
    let pipe = Pipe::connect(server, wait, SILENCE)?;
    let mut channel = connected(pipe, &client_config(config), name)?;
    channel.establish()?;
    Ok(move |plan: &Plan| ping(&mut channel, plan))
}

/// Serves all clients of `listener`, many RPCs at a time, as [`fleet::serve_tls`] does.
///
/// # Errors
///
/// The listener or epoll fails; a connection that fails is dropped.
pub fn serve_fleet(
    listener: &TcpListener,
    config: &Arc<ServerConfig>,
    room: Room,
    wait: Wait,
    stop: &AtomicBool,
) -> io::Result<()> {
    let config = server_config(config);
    fleet::serve(listener, room, wait, stop, |link| accepted(link, &config))
}

/// A client with `count` connections to [`serve_fleet`].
///
/// # Errors
///
/// No connection, a failed handshake, or a kernel without TLS.
pub fn connect_fleet(
    server: SocketAddr,
    name: &ServerName<'static>,
    config: &Arc<ClientConfig>,
    count: usize,
    room: Room,
    wait: Wait,
) -> io::Result<Box<dyn Pipeline>> {
    let config = client_config(config);
    fleet::connect(server, count, room, wait, |link| {
        let mut channel = connected(link, &config, name.clone())?;
        fleet::finish(|| channel.establish())?;
        Ok(channel)
    })
}

fn server_config(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.enable_secret_extraction = true;
    Arc::new(config)
}

fn client_config(config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.enable_secret_extraction = true;
    Arc::new(config)
}

fn accepted<L: Link + AsFd>(
    link: L,
    config: &Arc<ServerConfig>,
) -> io::Result<KtlsChannel<L, UnbufferedServerConnection>> {
    let channel = server_channel(Records::of(link), config, INCOMING_BYTES)?;
    Ok(KtlsChannel { state: State::Handshake(Box::new(channel)) })
}

fn connected<L: Link + AsFd>(
    link: L,
    config: &Arc<ClientConfig>,
    name: ServerName<'static>,
) -> io::Result<KtlsChannel<L, UnbufferedClientConnection>> {
    let channel = client_channel(Records::of(link), config, name, INCOMING_BYTES)?;
    Ok(KtlsChannel { state: State::Handshake(Box::new(channel)) })
}

/// A connection that the kernel encrypts once it is established.
struct KtlsChannel<L, T> {
    state: State<L, T>,
}

enum State<L, T> {
    Handshake(Box<TlsChannel<Records<L>, T>>),
    Established(L),
    /// The kernel did not take the keys.
    Failed,
}

impl<L: Link + AsFd, T: Tls> KtlsChannel<L, T> {
    /// Completes the handshake and gives the kernel the keys; with a link that does not wait, it is to be called again
    /// after `WouldBlock`.
    fn establish(&mut self) -> io::Result<()> {
        if let State::Handshake(channel) = &mut self.state {
            channel.handshake()?;
            let State::Handshake(channel) = std::mem::replace(&mut self.state, State::Failed)
            else {
                return Ok(());
            };
            let (records, secrets) = channel.into_secrets()?;
            hand_over(&records.link, secrets)?;
            self.state = State::Established(records.link);
        }
        Ok(())
    }

    fn link_mut(&mut self) -> io::Result<&mut L> {
        self.establish()?;
        match &mut self.state {
            State::Established(link) => Ok(link),
            State::Handshake(_) | State::Failed => Err(ErrorKind::NotConnected.into()),
        }
    }
}

impl<L: Link + AsFd, T: Tls> Channel for KtlsChannel<L, T> {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.link_mut()?.write_all(bytes)
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.link_mut()?.read(into)
    }
}

impl<T: Tls> Unwaiting for KtlsChannel<Buffered, T> {
    fn link(&mut self) -> io::Result<&mut Buffered> {
        match &mut self.state {
            State::Handshake(channel) => Ok(&mut channel.link().link),
            State::Established(link) => Ok(link),
            State::Failed => Err(ErrorKind::NotConnected.into()),
        }
    }
}

/// From here on the kernel seals what is written and opens what is read.
fn hand_over(link: &impl AsFd, secrets: ExtractedSecrets) -> io::Result<()> {
    setsockopt(link, TcpUlp::default(), &ULP)?;
    setsockopt(link, TcpTlsTx, &crypto_info(secrets.tx)?)?;
    setsockopt(link, TcpTlsRx, &crypto_info(secrets.rx)?)?;
    // Before Linux 6.0 there is no such option, and each record is copied once more.
    let _ = ExpectNoPad.set(link, &true);
    Ok(())
}

fn crypto_info((number, keys): (u64, ConnectionTrafficSecrets)) -> io::Result<TlsCryptoInfo> {
    let unknown = || io::Error::new(ErrorKind::InvalidData, "keys of an unexpected kind");
    let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = keys else { return Err(unknown()) };
    let (salt, iv) = iv.as_ref().split_at_checked(SALT_BYTES).ok_or_else(unknown)?;
    Ok(TlsCryptoInfo::Aes128Gcm(libc::tls12_crypto_info_aes_gcm_128 {
        info: libc::tls_crypto_info {
            version: libc::TLS_1_3_VERSION,
            cipher_type: libc::TLS_CIPHER_AES_GCM_128,
        },
        iv: iv.try_into().map_err(|_| unknown())?,
        key: key.as_ref().try_into().map_err(|_| unknown())?,
        salt: salt.try_into().map_err(|_| unknown())?,
        rec_seq: number.to_be_bytes(),
    }))
}

/// A link from which no more is taken at a time than is left of one record.
struct Records<L> {
    link: L,
    header: [u8; RECORD_HEADER_BYTES],
    /// Bytes of the header that have come.
    have: usize,
    /// Bytes of the record behind it that have not.
    left: usize,
}

impl<L> Records<L> {
    fn of(link: L) -> Records<L> {
        Records { link, header: [0; RECORD_HEADER_BYTES], have: 0, left: 0 }
    }
}

impl<L: Link> Link for Records<L> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.have == RECORD_HEADER_BYTES && self.left == 0 {
            self.have = 0;
        }
        let in_header = self.have < RECORD_HEADER_BYTES;
        let wanted = if in_header { RECORD_HEADER_BYTES - self.have } else { self.left };
        let room = wanted.min(into.len());
        let read = self.link.read(into.get_mut(..room).unwrap_or_default())?;
        if !in_header {
            self.left -= read.min(self.left);
            return Ok(read);
        }
        for (place, byte) in self.header.iter_mut().skip(self.have).zip(into.iter().take(read)) {
            *place = *byte;
        }
        self.have += read;
        if let [_, _, _, high, low] = self.header
            && self.have == RECORD_HEADER_BYTES
        {
            self.left = usize::from(u16::from_be_bytes([high, low]));
        }
        Ok(read)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.link.write_all(bytes)
    }
}

impl<L: AsFd> AsFd for Records<L> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytes(Vec<u8>);

    impl Link for Bytes {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let read = into.len().min(self.0.len());
            into[..read].copy_from_slice(&self.0[..read]);
            self.0.drain(..read);
            Ok(read)
        }

        fn write_all(&mut self, _: &[u8]) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_byte_behind_a_record_is_taken_with_it() {
        let mut records = Records::of(Bytes(vec![22, 3, 3, 0, 2, 7, 8, 20, 3, 3, 0, 0, 23, 3, 3]));
        let mut into = [0; 64];
        let mut taken = Vec::new();
        while let Some(read) = Some(records.read(&mut into).unwrap()).filter(|read| *read > 0) {
            taken.push(into[..read].to_vec());
        }
        assert_eq!(
            taken,
            [&[22, 3, 3, 0, 2][..], &[7, 8], &[20, 3, 3, 0, 0], &[23, 3, 3]].map(<[u8]>::to_vec)
        );
        assert_eq!((records.have, records.left), (3, 0));
    }
}
