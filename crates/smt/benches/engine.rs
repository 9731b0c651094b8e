//! What the engine costs beside the kernel: RPCs between two engines on one thread, over packets
//! that change hands in memory without a system call.
//!
//! `cargo bench -p smt --bench engine`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a bench")]

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use smt::datapath::{Caps, Datapath, DatapathStats, Opened, PathError, RxMeta, TxMeta};
use smt::engine::TrafficSecrets;
use smt::proto::Role;
use smt::proto::crypto::SuiteId;
use smt::{Builder, CallOptions, Engine, Event};

/// A packet: its length, in a buffer that goes round.
type Packet = (usize, Vec<u8>);
type Queue = Arc<Mutex<VecDeque<Packet>>>;

/// One end of a wire without a kernel. Buffers go round, none is allocated once it runs.
struct Wire {
    out: Queue,
    into: Queue,
    spare: Vec<Vec<u8>>,
    received: Option<Packet>,
    local: IpAddr,
    peer: IpAddr,
    fd: OwnedFd,
}

impl Datapath for Wire {
    fn caps(&self) -> Caps {
        Caps {
            name: "wire",
            overhead: [20, 40],
            max_packet: 1480,
            tx_segment: 0,
            tx_burst: 64,
            rx_burst: 1,
            rx_capacity: 1 << 20,
        }
    }
    fn frame(&mut self) -> Option<&mut [u8]> {
        if self.spare.is_empty() {
            self.spare.push(vec![0; 2048]);
        }
        self.spare.last_mut().map(Vec::as_mut_slice)
    }
    fn commit(&mut self, meta: TxMeta) {
        let frame = self.spare.pop().unwrap();
        self.out.lock().unwrap().push_back((meta.len, frame));
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn recv(&mut self) -> io::Result<usize> {
        if let Some((_, buffer)) = self.received.take() {
            self.spare.push(buffer);
        }
        self.received = self.into.lock().unwrap().pop_front();
        Ok(usize::from(self.received.is_some()))
    }
    fn packet(&mut self, _: usize) -> (RxMeta, &mut [u8]) {
        let (len, buffer) = self.received.as_mut().unwrap();
        let src = SocketAddr::new(self.peer, 0);
        (RxMeta { src, dst: self.local, len: *len, ip_id: None }, &mut buffer[..*len])
    }
    fn path_error(&mut self) -> Option<PathError> {
        None
    }
    fn path_mtu(&mut self, _: IpAddr) -> io::Result<usize> {
        Ok(1500)
    }
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
    fn wait(&mut self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
    fn stats(&self) -> DatapathStats {
        DatapathStats::default()
    }
}

fn main() {
    let address: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
    let queues: [Queue; 2] = Default::default();
    let wire = |me: usize| -> Box<dyn Datapath> {
        Box::new(Wire {
            out: Arc::clone(&queues[1 - me]),
            into: Arc::clone(&queues[me]),
            spare: Vec::new(),
            received: None,
            local: address[me],
            peer: address[1 - me],
            // The engine only wants something to register.
            fd: std::os::unix::net::UnixDatagram::unbound().unwrap().into(),
        })
    };
    let (server_tls, client_tls) = tls();
    let opened = |datapath, listen, client_ports| Opened { datapath, listen, client_ports };
    let listen = Some(SocketAddr::new(address[1], 4433));
    let mut client = Builder::new()
        .client(client_tls)
        .engine_over(opened(wire(0), None, 40_000..40_032))
        .unwrap();
    let mut server =
        Builder::new().server(4433, server_tls).engine_over(opened(wire(1), listen, 0..0)).unwrap();
    let ours = client.offer_external(Role::Client).unwrap();
    let theirs = server.offer_external(Role::Server).unwrap();
    let secrets = TrafficSecrets {
        suite: SuiteId::Aes128GcmSha256,
        alpn: b"smt/1",
        client: &[1; 32],
        server: &[2; 32],
    };
    let to = SocketAddr::new(address[1], theirs.port());
    let back = SocketAddr::new(address[0], ours.port());
    let session = client.add_external(&ours, to, theirs.block(), &secrets).unwrap();
    server.add_external(&theirs, back, ours.block(), &secrets).unwrap();
    for size in [64, 1024] {
        let mut best = f64::MAX;
        for _ in 0..200 {
            const BATCH: u32 = 1000;
            let start = Instant::now();
            for _ in 0..BATCH {
                rpc(&mut client, &mut server, session, size);
            }
            best = best.min(start.elapsed().as_nanos() as f64 / f64::from(BATCH));
        }
        println!("{size:>5} bytes: {best:>6.0} ns for each RPC, both ends together");
    }
}

fn rpc(client: &mut Engine, server: &mut Engine, session: smt::SessionId, size: usize) {
    client.call(session, vec![7; size], CallOptions::default()).unwrap();
    loop {
        client.poll().unwrap();
        if let Some(Event::Response { result, .. }) = client.next_event() {
            assert_eq!(result.unwrap().len(), size);
            return;
        }
        server.poll().unwrap();
        if let Some(Event::Request { rpc, body, .. }) = server.next_event() {
            server.reply(rpc, body.into_vec());
            server.poll().unwrap();
        }
    }
}

fn tls() -> (smt::tls::ServerTls, smt::tls::ClientTls) {
    use smt::tls::{ClientTls, Identity, Roots, ServerTls};
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["server".to_owned()]).unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let identity = Identity::from_pem(pem.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let roots = Roots::from_pem(pem.as_bytes()).unwrap();
    (ServerTls::builder(identity).build().unwrap(), ClientTls::builder(roots).build().unwrap())
}
