//! What is special to shards over UDP: datagrams that senders join, and errors that any socket may hear.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use smt::datapath::{
    Caps, Datapath, DatapathStats, OpenOptions, Opened, PathError, RxMeta, TxMeta, open,
};
use smt::{ConnectError, DatapathKind, Event};
use smt_testbed::{PairOptions, Trial, pair, test};

use crate::bed::{Ca, NAME, client_builder, server_address, server_builder};
use crate::shards::{Client, Server};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("a_sender_that_joins_packets_of_all_lanes", joins),
        test("whichever_shard_hears_of_a_closed_port_the_connect_fails", refused),
    ]
}

/// A datapath that knows nothing of lanes, and so has the kernel join whatever goes to one peer.
struct Joining(Box<dyn Datapath>);

impl Datapath for Joining {
    fn caps(&self) -> Caps {
        self.0.caps()
    }

    fn frame(&mut self) -> Option<&mut [u8]> {
        self.0.frame()
    }

    fn commit(&mut self, meta: TxMeta) {
        self.0.commit(TxMeta { lane: 0, ..meta });
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }

    fn recv(&mut self) -> io::Result<usize> {
        self.0.recv()
    }

    fn packet(&mut self, index: usize) -> (RxMeta, &mut [u8]) {
        self.0.packet(index)
    }

    fn path_error(&mut self) -> Option<PathError> {
        self.0.path_error()
    }

    fn path_mtu(&mut self, dst: IpAddr) -> io::Result<usize> {
        self.0.path_mtu(dst)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.wait(timeout)
    }

    fn stats(&self) -> DatapathStats {
        self.0.stats()
    }
}

/// Over a link that carries joined packets uncut, those that come to another shard cost a repetition.
fn joins() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let builder = server_builder(&ca, address).datapath(DatapathKind::Udp);
    let server = Server::start(&pair.b, builder, 2);
    let (to, builder) = (server.address, client_builder(&ca, false).datapath(DatapathKind::Udp));
    pair.a
        .spawn(move || {
            let options = OpenOptions { kind: DatapathKind::Udp, ..OpenOptions::default() };
            let Opened { datapath, listen, client_ports } = open(options).unwrap();
            let datapath = Box::new(Joining(datapath));
            let opened = Opened { datapath, listen, client_ports };
            let mut client = Client::over(vec![builder.engine_over(opened).unwrap()], to);
            client.call_all(0..2000, |number| if number.is_multiple_of(20) { 20_000 } else { 100 });
            assert!((0..2000).all(|number| client.ended[&number].is_ok()));
        })
        .unwrap()
        .join()
        .unwrap();
    let done = server.stop();
    let times = done.iter().flat_map(|done| done.requests.values());
    assert_eq!(times.map(|times| u64::from(*times)).sum::<u64>(), 2000);
    // Else this would test nothing.
    assert!(done.iter().any(|done| done.dropped > 0), "nothing came to another shard");
}

/// The kernel tells one of the sockets that share the port, by a hash of both ports and addresses.
fn refused() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let builder = client_builder(&ca, false).datapath(DatapathKind::Udp).shards(4);
    pair.a
        .spawn(move || {
            let builder = builder.connect_timeout(Duration::from_secs(60));
            let mut engines = builder.engines().unwrap();
            for port in 7000..7012 {
                engines[0].connect(SocketAddr::new(address, port), NAME).unwrap();
                let error = loop {
                    for engine in &mut engines[1..] {
                        engine.poll().unwrap();
                    }
                    match engines[0].next(Some(Duration::from_millis(1))).unwrap() {
                        Some(Event::ConnectFailed { error, .. }) => break error,
                        Some(other) => panic!("{other:?}"),
                        None => {}
                    }
                };
                assert_eq!(error, ConnectError::Refused, "port {port}");
            }
        })
        .unwrap()
        .join()
        .unwrap();
}
