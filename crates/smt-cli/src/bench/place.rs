//! Where transports are compared: two ends on a link of one kind, in one state.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smt_testbed::{Namespace, Pair, PairOptions, Wire, loopback, pair};

use super::ground::{Credentials, stay_on};
use super::peers::{Shape, Site, Transport};
use super::serving::Server;
use crate::baseline::Wait;
use crate::commands::Error;
use crate::commands::datapath::DatapathChoice;
use crate::cores;

/// What joins the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Link {
    /// Two hosts of this machine joined by a veth pair.
    Veth,
    /// Two hosts of this machine, macvlan devices on one bridge, which take TCP segmentation from user space.
    Macvlan,
    /// One host, both ends on its loopback interface.
    Loopback,
}

impl Link {
    /// Links that everybody is measured on unless told.
    pub const USUAL: [Link; 2] = [Link::Veth, Link::Macvlan];

    /// Its name on the command line, in tables and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Link::Veth => "veth",
            Link::Macvlan => "macvlan",
            Link::Loopback => "loopback",
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.name())
    }
}

impl FromStr for Link {
    type Err = String;

    fn from_str(text: &str) -> Result<Link, String> {
        let all = [Link::Veth, Link::Macvlan, Link::Loopback];
        all.into_iter()
            .find(|link| link.name() == text)
            .ok_or_else(|| "not veth, macvlan or loopback".to_owned())
    }
}

/// The state of a link, the same for whoever is on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Scene {
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Packets that the link loses of a million in each direction; `None`: an ordinary link.
    pub loss: Option<u32>,
    /// Who cuts what is longer than a packet; `None`: as the link has it.
    pub cut: Option<Cut>,
}

/// Who cuts what is longer than a packet.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Cut {
    /// The device, as far as it takes that from whoever sends
    On,
    /// The stack, just before the device, which takes packets alone
    Software,
    /// Whoever sends: neither stack nor device take more than a packet
    Off,
}

impl Scene {
    /// An ordinary link with packets of 1500 bytes.
    pub const PLAIN: Scene = Scene { mtu: 1500, loss: None, cut: None };
}

/// How packets get lost on links that lose them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostBy {
    /// The kernel's queueing discipline netem, at both ports of a bridge between the hosts.
    Netem,
    /// A thread that forwards all packets between the hosts.
    Forwarder,
}

impl LostBy {
    /// What this machine has: found out once.
    pub fn here() -> LostBy {
        static KNOWN: OnceLock<LostBy> = OnceLock::new();
        *KNOWN.get_or_init(|| {
            let works = Namespace::new().is_ok_and(|host| netem(&host, "lo", 1).is_ok());
            if works { LostBy::Netem } else { LostBy::Forwarder }
        })
    }

    /// Its name in JSON and in words.
    pub fn name(self) -> &'static str {
        match self {
            LostBy::Netem => "netem",
            LostBy::Forwarder => "forwarder",
        }
    }
}

/// Has the interface lose packets that leave by it.
fn netem(host: &Namespace, interface: &str, of_a_million: u32) -> io::Result<()> {
    let percent = format!("{}%", f64::from(of_a_million) / 1e4);
    let mut command = Command::new("tc");
    command.args(["qdisc", "replace", "dev", interface, "root", "netem", "loss", &percent]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = host.command(command)?.wait()?;
    if status.success() { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}

/// Features by which a device cuts what is longer than a packet.
const CUTTING: [(&str, bool); 3] = [
    ("tx-tcp-segmentation", false),
    ("tx-tcp6-segmentation", false),
    ("tx-udp-segmentation", false),
];

/// Two ends, and how to get to them.
pub struct Place {
    client: Namespace,
    server: Namespace,
    addresses: [IpAddr; 2],
    credentials: Arc<Credentials>,
    /// A core for the client and one for the server, if there are two.
    pub cores: Option<[usize; 2]>,
    /// What is between the hosts lives as long as this.
    _pair: Option<Pair>,
}

impl Place {
    /// Makes the hosts and their link.
    ///
    /// # Errors
    /// The kernel does not make them.
    pub fn new(credentials: &Arc<Credentials>, link: Link, scene: Scene) -> Result<Place, Error> {
        let cannot = || Error::io("cannot make two hosts joined by a link");
        let cores = match cores::allowed().unwrap_or_default()[..] {
            [client, server, ..] => Some([client, server]),
            _ => None,
        };
        let place = |client, server, addresses, pair| Place {
            client,
            server,
            addresses,
            credentials: Arc::clone(credentials),
            cores,
            _pair: pair,
        };
        if let Some(of_a_million) = scene.loss {
            let pair = lossy(scene.mtu, of_a_million).map_err(cannot())?;
            let addresses = [pair.a_v4.into(), pair.b_v4.into()];
            return Ok(place(pair.a.clone(), pair.b.clone(), addresses, Some(pair)));
        }
        let wire = match link {
            Link::Loopback => {
                let host = loopback().map_err(cannot())?;
                let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
                return Ok(place(host.clone(), host, [address; 2], None));
            }
            Link::Veth => Wire::Veth,
            Link::Macvlan => Wire::Macvlan,
        };
        let max_segments = (scene.cut == Some(Cut::Off)).then_some(1);
        let options = PairOptions { wire, mtu: scene.mtu, max_segments, ..PairOptions::default() };
        let pair = pair(options).map_err(cannot())?;
        if scene.cut == Some(Cut::Software) {
            for (host, name) in [(&pair.a, &pair.a_name), (&pair.b, &pair.b_name)] {
                host.set_features(name, &CUTTING).map_err(cannot())?;
            }
        }
        let addresses = [pair.a_v4.into(), pair.b_v4.into()];
        Ok(place(pair.a.clone(), pair.b.clone(), addresses, Some(pair)))
    }

    /// What peers are told of it.
    pub fn site(&self, wait: Wait) -> Site {
        let [client, server] = self.addresses;
        Site { server, client, credentials: Arc::clone(&self.credentials), wait }
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
        self.client.run(|| stay_on(core).and_then(|()| work())).map_err(Error::io("no thread"))?
    }

    /// Starts a server of `transport` at the far end: for many RPCs at a time if there is a shape, else for one.
    ///
    /// # Errors
    /// It does not start.
    pub fn serve(
        &self,
        transport: Transport,
        site: &Site,
        shape: Option<Shape>,
    ) -> Result<Server, Error> {
        let peer = transport.peer();
        let serve = match shape {
            Some(shape) => peer.serve_many(site, shape)?,
            None => peer.serve_one(site)?,
        };
        Server::start_on(&self.server, self.cores.map(|[_, server]| server), serve)
    }
}

/// Two hosts on a link that loses packets, where nobody hands over more than a packet at a time: what is lost is a
/// packet.
fn lossy(mtu: u32, of_a_million: u32) -> io::Result<Pair> {
    let options = |wire| PairOptions { wire, mtu, max_segments: Some(1), ..PairOptions::default() };
    if LostBy::here() == LostBy::Netem {
        let pair = pair(options(Wire::Bridge))?;
        if let Some(bridge) = &pair.bridge {
            for port in ["port-a", "port-b"] {
                netem(bridge, port, of_a_million)?;
            }
        }
        return Ok(pair);
    }
    let pair = pair(options(Wire::Delay(Duration::ZERO)))?;
    if let Some(link) = &pair.delay {
        link.set_loss(of_a_million);
    }
    Ok(pair)
}

/// Places, made when they are first needed. Whoever may leave something on its link has one of its own.
pub struct Places {
    credentials: Arc<Credentials>,
    made: HashMap<(Option<DatapathChoice>, Link, Scene), Place>,
}

impl Places {
    /// None yet.
    pub fn new(credentials: &Arc<Credentials>) -> Places {
        Places { credentials: Arc::clone(credentials), made: HashMap::new() }
    }

    /// The one for `transport`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn get(&mut self, transport: Transport, link: Link, scene: Scene) -> Result<&Place, Error> {
        let key = (transport.own_link(), link, scene);
        if !self.made.contains_key(&key) {
            self.made.insert(key, Place::new(&self.credentials, link, scene)?);
        }
        self.made.get(&key).ok_or_else(|| Error::Failed("no hosts".to_owned()))
    }

    /// Forgets those made in another state of the link: namespaces are not for free.
    pub fn keep_only(&mut self, scene: Scene) {
        self.made.retain(|(_, _, of), _| *of == scene);
    }
}
