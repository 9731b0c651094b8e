//! Engines that wait, over packets that change hands in memory.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};
use smt_datapath::fault::Rules;
use smt_datapath::memory::{self, Memory};
use smt_datapath::{Caps, Datapath, DatapathStats, Opened, PathError, RxMeta, TxMeta};
use smt_proto::crypto::SuiteId;
use smt_proto::{Role, SessionId};

use super::super::{CallOptions, Engine, Event, TrafficSecrets};
use crate::builder::{Builder, Faults, Wait};
use crate::tls::{ClientTls, Identity, Roots, ServerTls};

pub(crate) const ADDRESS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2))];
/// Longer than any step here takes.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

/// A client with a session, and its server. The client's packets suffer by `rules`, both ways.
fn ends(wait: Wait, rules: Rules) -> (Engine, SessionId, Engine) {
    let (near, far) = memory::pair(ADDRESS[0], ADDRESS[1], 1500).unwrap();
    let faults = Faults { seed: 7, receive: rules, transmit: rules };
    let (mut client, mut server) = engines(wait, (Box::new(near), Some(faults)), Box::new(far));
    let session = join(&mut client, &mut server);
    (client, session, server)
}

/// A client and a server over what is joined.
pub(crate) fn engines(
    wait: Wait,
    (near, faults): (Box<dyn Datapath>, Option<Faults>),
    far: Box<dyn Datapath>,
) -> (Engine, Engine) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["server".to_owned()]).unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let identity = Identity::from_pem(pem.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let server = ServerTls::builder(identity).build().unwrap();
    let roots = Roots::from_pem(pem.as_bytes()).unwrap();
    let client = ClientTls::builder(roots).build().unwrap();
    let listen = Some(SocketAddr::new(ADDRESS[1], 4433));
    let mut builder = Builder::new().wait(wait).client(client);
    if let Some(faults) = faults {
        builder = builder.faults(faults);
    }
    let client = builder
        .engine_over(Opened { datapath: near, listen: None, client_ports: 40_000..40_032 })
        .unwrap();
    let server = Builder::new()
        .wait(wait)
        .server(4433, server)
        .engine_over(Opened { datapath: far, listen, client_ports: 0..0 })
        .unwrap();
    (client, server)
}

/// Gives both ends a session, which the client's application is not told of.
pub(crate) fn join(client: &mut Engine, server: &mut Engine) -> SessionId {
    let ours = client.offer_external(Role::Client).unwrap();
    let theirs = server.offer_external(Role::Server).unwrap();
    let secrets = TrafficSecrets {
        suite: SuiteId::Aes128GcmSha256,
        alpn: b"smt/1",
        client: &[1; 32],
        server: &[2; 32],
    };
    let to = SocketAddr::new(ADDRESS[1], theirs.port());
    let back = SocketAddr::new(ADDRESS[0], ours.port());
    let session = client.add_external(&ours, to, theirs.block(), &secrets).unwrap();
    server.add_external(&theirs, back, ours.block(), &secrets).unwrap();
    session
}

/// A datapath that can sleep in a receive, and counts.
struct Sleeper {
    inner: Memory,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Receives that may sleep, that may not, and looks at the descriptor, as to sleep on it.
    sleeps: AtomicU32,
    receives: AtomicU32,
    looks: AtomicU32,
}

impl Counts {
    fn now(&self) -> [u32; 3] {
        [&self.sleeps, &self.receives, &self.looks].map(|count| count.load(Ordering::Relaxed))
    }
}

impl Datapath for Sleeper {
    fn caps(&self) -> Caps {
        self.inner.caps()
    }

    fn frame(&mut self) -> Option<&mut [u8]> {
        self.inner.frame()
    }

    fn commit(&mut self, meta: TxMeta) {
        self.inner.commit(meta);
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }

    fn recv(&mut self) -> io::Result<usize> {
        self.counts.receives.fetch_add(1, Ordering::Relaxed);
        self.inner.recv()
    }

    /// Until a packet comes, whatever `timeout` says, since the network here loses none: who waits for
    /// anything else is never woken.
    fn recv_or_sleep(&mut self, _timeout: Duration) -> io::Result<Option<usize>> {
        self.counts.sleeps.fetch_add(1, Ordering::Relaxed);
        self.inner.wait(PATIENCE)?;
        let received = self.inner.recv()?;
        assert!(received > 0, "a wake-up was lost");
        Ok(Some(received))
    }

    fn packet(&mut self, index: usize) -> (RxMeta, &mut [u8]) {
        self.inner.packet(index)
    }

    fn path_error(&mut self) -> Option<PathError> {
        self.inner.path_error()
    }

    fn path_mtu(&mut self, dst: IpAddr) -> io::Result<usize> {
        self.inner.path_mtu(dst)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.counts.looks.fetch_add(1, Ordering::Relaxed);
        self.inner.fd()
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.inner.wait(timeout)
    }

    fn stats(&self) -> DatapathStats {
        self.inner.stats()
    }
}

/// A client that can sleep in a receive, and its server.
fn sleepers() -> (Engine, Arc<Counts>, Engine) {
    let (near, far) = memory::pair(ADDRESS[0], ADDRESS[1], 1500).unwrap();
    let counts = Arc::<Counts>::default();
    let near = Sleeper { inner: near, counts: Arc::clone(&counts) };
    let (client, server) = engines(Wait::Block, (Box::new(near), None), Box::new(far));
    (client, counts, server)
}

/// Echoes until told to stop.
fn serve(mut server: Engine) -> (Arc<AtomicBool>, thread::JoinHandle<()>) {
    let over = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&over);
    let thread = thread::spawn(move || {
        while !is_over.load(Ordering::Relaxed) {
            if let Some(Event::Request { rpc, body, .. }) =
                server.next(Some(Duration::from_millis(20))).unwrap()
            {
                server.reply(rpc, body.into_vec());
            }
        }
    });
    (over, thread)
}

fn call(client: &mut Engine, session: SessionId, user: u64) {
    let body = vec![user as u8; 100];
    client.call(session, body.clone(), CallOptions { user, ..CallOptions::default() }).unwrap();
    loop {
        match client.next(PATIENCE).unwrap() {
            Some(Event::Response { user: of, result, .. }) => {
                assert_eq!((of, &*result.unwrap()), (user, &body[..]));
                return;
            }
            Some(Event::Connected { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn all_ways_of_waiting_carry_calls() {
    for wait in [Wait::Spin, Wait::Adaptive, Wait::Block] {
        let (mut client, session, server) = ends(wait, Rules::NONE);
        let (over, thread) = serve(server);
        (0..300).for_each(|user| call(&mut client, session, user));
        over.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    }
}

#[test]
fn sleeping_engines_notice_what_is_lost() {
    for wait in [Wait::Adaptive, Wait::Block] {
        let (mut client, session, server) = ends(wait, Rules { drop: 0.2, ..Rules::NONE });
        let (over, thread) = serve(server);
        (0..100).for_each(|user| call(&mut client, session, user));
        assert!(client.stats().resends_sent > 0);
        over.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    }
}

#[test]
fn an_idle_engine_takes_next_to_no_processor_time() {
    for wait in [Wait::Adaptive, Wait::Block] {
        let (mut client, session, server) = ends(wait, Rules::NONE);
        let (over, thread) = serve(server);
        (0..20).for_each(|user| call(&mut client, session, user));
        let taken = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
        let before = taken();
        // In one long wait, and in many short ones as a loop with something else to do has them.
        for timeout in [300, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 200] {
            while client.next(Some(Duration::from_millis(timeout))).unwrap().is_some() {}
        }
        // Of half a second; one that spun would take all of it.
        let spent = taken() - before;
        assert!(spent < Duration::from_millis(100), "{spent:?} in {wait:?}");
        over.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    }
}

#[test]
fn an_adaptive_engine_stops_spinning_where_it_is_in_vain() {
    let (mut client, _, _server) = ends(Wait::Adaptive, Rules::NONE);
    assert!(client.habit.spins());
    for _ in 0..300 {
        assert!(client.next(Some(Duration::from_micros(100))).unwrap().is_none_or(is_no_message));
    }
    assert!(!client.habit.spins());
}

fn is_no_message(event: Event) -> bool {
    !matches!(event, Event::Request { .. } | Event::Response { .. })
}

#[test]
fn what_a_turn_has_not_sent_waits_for_nothing() {
    const CALLS: u64 = 8;
    let (mut client, session, server) = ends(Wait::Block, Rules::NONE);
    for user in 0..CALLS {
        let options = CallOptions { user, ..CallOptions::default() };
        client.call(session, vec![1; 60_000], options).unwrap();
    }
    client.flush().unwrap();
    let now = Instant::now();
    assert!(client.core.wants_transmit(), "more than a turn's worth");
    assert_eq!(client.next_due(now), Some(now));
    let (over, thread) = serve(server);
    for _ in 0..CALLS {
        let Some(Event::Response { result, .. }) = client.next(PATIENCE).unwrap() else {
            panic!("a call has no response");
        };
        assert_eq!(result.unwrap().len(), 60_000);
    }
    over.store(true, Ordering::Relaxed);
    thread.join().unwrap();
}

#[test]
fn asleep_a_response_takes_one_system_call() {
    let (mut client, counts, mut server) = sleepers();
    let session = join(&mut client, &mut server);
    let mut as_wanted = 0;
    // Where this thread is held up, timers are due.
    for user in 0..100_000 {
        let options = CallOptions { user, ..CallOptions::default() };
        client.call(session, vec![1; 100], options).unwrap();
        client.flush().unwrap();
        while !server.poll().unwrap() {}
        while let Some(event) = server.next_event() {
            if let Event::Request { rpc, body, .. } = event {
                server.reply(rpc, body.into_vec());
            }
        }
        server.flush().unwrap();
        let before = counts.now();
        while !matches!(client.next(PATIENCE).unwrap(), Some(Event::Response { .. })) {}
        let after = counts.now();
        let [sleeps, receives, looks] = [0, 1, 2].map(|of| after[of] - before[of]);
        as_wanted += u32::from([sleeps, receives, looks] == [1, 0, 0]);
        if as_wanted == 100 {
            return;
        }
    }
    panic!("{as_wanted} of all were as wanted");
}

#[test]
fn an_engine_that_another_thread_may_wake_sleeps_on_descriptors() {
    let (mut client, counts, server) = sleepers();
    let (over, thread) = serve(server);
    for _ in 0..20 {
        assert!(!client.may_be_woken());
        client.connect(SocketAddr::new(ADDRESS[1], 4433), "server").unwrap();
        assert!(client.may_be_woken(), "the first flight is made by another thread");
        while !matches!(client.next(PATIENCE).unwrap(), Some(Event::Connected { .. })) {}
        while client.may_be_woken() {
            client.poll().unwrap();
        }
    }
    let [sleeps, _, looks] = counts.now();
    assert!(sleeps > 0 && looks > 0, "{sleeps} sleeps, {looks} looks");
    over.store(true, Ordering::Relaxed);
    thread.join().unwrap();
}

#[test]
fn whoever_watches_is_not_woken_for_what_could_wait() {
    let (mut client, session, mut server) = ends(Wait::Block, Rules::NONE);
    server.fd().unwrap();
    let mut in_a_row = 0;
    // Where this thread is held up, timers are due.
    for user in 0..100_000 {
        let options = CallOptions { user, ..CallOptions::default() };
        client.call(session, vec![1; 100], options).unwrap();
        client.flush().unwrap();
        // The request brings acks of earlier responses.
        assert!(server.poll().unwrap());
        thread::sleep(Duration::from_micros(50));
        let watched = server.fd().unwrap();
        let mut watched = [PollFd::from_borrowed_fd(watched, PollFlags::IN)];
        let woken = poll(&mut watched, Some(&Timespec::default())).unwrap();
        in_a_row = if woken == 0 { in_a_row + 1 } else { 0 };
        if in_a_row == 20 {
            return;
        }
        while let Some(event) = server.next_event() {
            if let Event::Request { rpc, body, .. } = event {
                server.reply(rpc, body.into_vec());
            }
        }
        server.flush().unwrap();
        while !matches!(client.next(PATIENCE).unwrap(), Some(Event::Response { .. })) {}
    }
    panic!("it is woken again and again");
}

#[test]
fn whoever_watches_is_woken_for_what_was_lost_after_a_flush() {
    let (mut client, session, _server) = ends(Wait::Block, Rules { drop: 1.0, ..Rules::NONE });
    client.fd().unwrap();
    while client.poll().unwrap() {}
    client.call(session, vec![1; 100], CallOptions::default()).unwrap();
    client.flush().unwrap();
    let watched = client.waiter.fd().unwrap();
    let mut watched = [PollFd::from_borrowed_fd(watched, PollFlags::IN)];
    let woken = poll(&mut watched, Some(&Timespec { tv_sec: 20, tv_nsec: 0 })).unwrap();
    assert_eq!(woken, 1, "nobody will send the request again");
}
