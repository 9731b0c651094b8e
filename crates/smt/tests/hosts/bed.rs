//! Certificates, endpoints and hosts for the tests.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P256_SHA256, PKCS_ED25519,
};
use smt::tls::{ClientAuth, ClientTls, Identity, Roots, ServerTls};
use smt::{Builder, Endpoint, Incoming};
use smt_testbed::{Namespace, Pair};

pub(crate) const NAME: &str = "server.test";
pub(crate) const PORT: u16 = 4433;
/// Environment variable that has clients ask for the key log.
pub(crate) const LOG_KEYS: &str = "SMT_TEST_LOG_KEYS";

static NEXT_CA: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);

/// A certificate authority.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// What a certificate is for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum For {
    Server,
    Client,
}

impl Ca {
    pub(crate) fn new() -> Ca {
        // Two CAs of one name would differ by their signatures alone.
        let serial = NEXT_CA.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ca::named(&format!("test CA {serial}"))
    }

    pub(crate) fn named(name: &str) -> Ca {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Ca { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots::from_pem(self.pem.as_bytes()).unwrap()
    }

    pub(crate) fn identity(&self, name: &str, purpose: For) -> Identity {
        self.identity_with(name, purpose, |_| {}, false)
    }

    pub(crate) fn identity_with(
        &self,
        name: &str,
        purpose: For,
        change: impl FnOnce(&mut CertificateParams),
        ed25519: bool,
    ) -> Identity {
        let algorithm = if ed25519 { &PKCS_ED25519 } else { &PKCS_ECDSA_P256_SHA256 };
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![match purpose {
            For::Server => ExtendedKeyUsagePurpose::ServerAuth,
            For::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
    }

    /// A server that demands client certificates of this CA.
    pub(crate) fn server_tls(&self) -> ServerTls {
        let identity = self.identity(NAME, For::Server);
        let auth = ClientAuth::Required(self.roots());
        ServerTls::builder(identity).client_auth(auth).build().unwrap()
    }

    pub(crate) fn client_tls(&self) -> ClientTls {
        let identity = self.identity("client.test", For::Client);
        let mut tls = ClientTls::builder(self.roots()).identity(identity);
        if std::env::var_os(LOG_KEYS).is_some() {
            tls = tls.key_log_from_env();
        }
        tls.build().unwrap()
    }
}

/// Runs a future on a thread of a host, with a runtime of its own.
pub(crate) fn on_host<F, T>(
    host: &Namespace,
    work: impl FnOnce() -> F + Send + 'static,
) -> JoinHandle<T>
where
    F: Future<Output = T>,
    T: Send + 'static,
{
    host.spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work())
    })
    .unwrap()
}

/// Accepts sessions for ever and answers every request with its own bytes.
pub(crate) async fn echo(endpoint: Endpoint) {
    while let Some(session) = endpoint.accept().await {
        tokio::spawn(async move {
            while let Some(request) = session.accept().await {
                echo_one(request);
            }
        });
    }
}

pub(crate) fn echo_one(mut request: Incoming) {
    let body = request.take_body().into_vec();
    request.reply(body);
}

/// An echo server on a host; it runs until the stopper is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(host: &Namespace, address: IpAddr, builder: Builder) -> Server {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = on_host(host, move || async move {
            let endpoint = builder.endpoint().unwrap();
            ready.send(endpoint.listen_address().unwrap().port()).unwrap();
            tokio::select! {
                () = echo(endpoint) => {}
                _ = stopped => {}
            }
        });
        let port = is_ready.recv().unwrap();
        let address = SocketAddr::new(address, port);
        Server { address, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Addresses of the server's host, by IP version.
pub(crate) fn server_address(pair: &Pair, v6: bool) -> IpAddr {
    if v6 { pair.b_v6.into() } else { pair.b_v4.into() }
}

/// Bytes that differ by position and seed.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A builder for the server's end, bound to `address`.
pub(crate) fn server_builder(ca: &Arc<Ca>, address: IpAddr) -> Builder {
    Builder::new().bind(address).server(PORT, ca.server_tls())
}

/// A builder for the client's end.
pub(crate) fn client_builder(ca: &Arc<Ca>, v6: bool) -> Builder {
    let any: IpAddr = if v6 { [0u16; 8].into() } else { [0u8; 4].into() };
    Builder::new().bind(any).client(ca.client_tls())
}
