//! Servers behind one name that share the keys of their tickets.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use smt::ticket::shared::KeyFile;
use smt::ticket::{
    DEFAULT_STRIKES, EarlyData, MAX_WINDOW, MemoryRegister, StrikeRegister, TicketIssuer,
};
use smt::tls::{Identity, ServerTls};
use smt::{Builder, ConnectOptions};
use smt_testbed::{PairOptions, Trial, pair, test};

use crate::bed::{Ca, For, NAME, PORT};
use crate::early::{
    Seen, Watched, anonymous_client, fetched, meet, replay, sent_to, verified, with_ticket,
};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("early_data_by_the_ticket_of_another_instance", another_instance),
        test("early_data_replayed_to_another_instance_is_refused", replayed_elsewhere),
    ]
}

/// What the instances of a server have in common.
struct Common {
    identity: Identity,
    file: PathBuf,
}

impl Common {
    fn new(ca: &Ca, name: &str) -> Common {
        let name = format!("smt-{name}-{}", std::process::id());
        Common { identity: ca.identity(NAME, For::Server), file: std::env::temp_dir().join(name) }
    }

    /// An instance that has the keys in the file, with this register.
    fn early_data(&self, register: Arc<dyn StrikeRegister>) -> EarlyData {
        let file = KeyFile::open(&self.file).unwrap();
        let issuer = TicketIssuer::builder(self.identity.clone()).key_file(file).build().unwrap();
        EarlyData::new(issuer, register).window(MAX_WINDOW)
    }

    fn tls(&self, early: EarlyData) -> ServerTls {
        ServerTls::builder(self.identity.clone()).early_data(early).build().unwrap()
    }
}

impl Drop for Common {
    fn drop(&mut self) {
        for suffix in ["", ".lock"] {
            let mut path = self.file.clone().into_os_string();
            path.push(suffix);
            let _ = fs::remove_file(path);
        }
    }
}

/// A register that has nothing to refuse for having forgotten it.
fn old_register() -> Arc<MemoryRegister> {
    Arc::new(MemoryRegister::started_at(DEFAULT_STRIKES, UNIX_EPOCH))
}

fn another_instance() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Ca::new();
    let common = Common::new(&ca, "another");
    let register = old_register();
    let one = common.early_data(register.clone());
    let first = Watched::start(&pair, common.tls(one.clone()));
    let tls = anonymous_client(&ca);
    let ticket = fetched(&pair, &tls, first.address);
    let two = common.early_data(register.clone());
    let second = Watched::start_at(&pair, PORT + 1, common.tls(two.clone()));
    let met = meet(&pair, Builder::new().client(tls), second.address, with_ticket(ticket));
    assert!(met.info.early && met.info.forward_secret);
    assert_eq!((one.stats().accepted, two.stats().accepted), (0, 1));
    assert_eq!(register.len(), 1);
    assert!(second.stop().contains(&Seen::Request { early: true }));
    first.stop();
}

/// A first flight is bound to addresses' ports: it is replayed to instances that come to the same
/// address one after the other.
fn replayed_elsewhere() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Ca::new();
    let common = Common::new(&ca, "elsewhere");
    let register = old_register();
    let first = common.early_data(register.clone());
    let server = Watched::start(&pair, common.tls(first.clone()));
    let ticket = first.issuer().ticket(SystemTime::now()).unwrap();
    let tls = anonymous_client(&ca);
    tls.tickets().put(PORT, verified(&tls, &ticket));
    let capture = std::env::temp_dir().join(format!("smt-elsewhere-pcap-{}", std::process::id()));
    let client = Builder::new().client(tls.clone()).capture(capture.clone());
    let early = || ConnectOptions::new(NAME).early(true);
    let met = meet(&pair, client, server.address, early());
    assert!(met.info.early);
    let to = server.address;
    let packets = sent_to(&fs::read(&capture).unwrap(), to.port());
    let _ = fs::remove_file(&capture);
    server.stop();

    // The register knows the flight.
    let instance = common.early_data(register);
    let server = Watched::start(&pair, common.tls(instance.clone()));
    assert_eq!(server.address, to);
    let stats = instance.clone();
    replay(&pair, &packets, to, move || stats.stats().replayed > 0);
    assert_eq!(server.stop().iter().filter(|seen| seen.is_request()).count(), 0);
    assert_eq!(instance.stats().accepted, 0);

    // Nothing but the register refuses it: one that has lost its memory and does not know has it run.
    let instance = common.early_data(old_register());
    let server = Watched::start(&pair, common.tls(instance.clone()));
    let stats = instance.clone();
    replay(&pair, &packets, to, move || stats.stats().accepted > 0);
    while !server.has_seen(Seen::Request { early: true }) {
        std::thread::sleep(Duration::from_millis(5));
    }
    server.stop();

    // One that knows when it began does not, and takes early data once a window has passed.
    let window = Duration::from_secs(2);
    let instance = common.early_data(Arc::new(MemoryRegister::default())).window(window);
    let server = Watched::start(&pair, common.tls(instance.clone()));
    let stats = instance.clone();
    replay(&pair, &packets, to, move || stats.stats().refused > 0);
    assert_eq!(instance.stats().accepted, 0);
    loop {
        tls.tickets().put(PORT, verified(&tls, &ticket));
        let met = meet(&pair, Builder::new().client(tls.clone()), to, early());
        if met.info.early {
            break;
        }
    }
    server.stop();
}
