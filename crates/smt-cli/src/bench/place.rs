//! Where transports are compared: two ends on a link of one kind, in one state.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smt_testbed::{Namespace, Pair, PairOptions, Wire, loopback, pair};

use super::agent::{Agent, Service};
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
    /// This machine as it is, and another one that runs `smt bench agent` at this address.
    Remote(SocketAddr),
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
            Link::Remote(_) => "remote",
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Link::Remote(agent) => agent.fmt(to),
            _ => to.write_str(self.name()),
        }
    }
}

impl FromStr for Link {
    type Err = String;

    fn from_str(text: &str) -> Result<Link, String> {
        let all = [Link::Veth, Link::Macvlan, Link::Loopback];
        all.into_iter()
            .find(|link| link.name() == text)
            .or_else(|| text.parse().ok().map(Link::Remote))
            .ok_or_else(|| {
                "not veth, macvlan, loopback, or the ADDRESS:PORT of an agent".to_owned()
            })
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

/// Largest IP packet of the loopback interface, in bytes.
const LOOPBACK_MTU: u32 = 65_536;

/// Features by which a device cuts what is longer than a packet.
const CUTTING: [(&str, bool); 3] = [
    ("tx-tcp-segmentation", false),
    ("tx-tcp6-segmentation", false),
    ("tx-udp-segmentation", false),
];

/// Where servers are.
enum Far {
    Host(Namespace),
    Agent(Arc<Agent>),
}

/// A server that runs.
pub enum Running {
    /// On this machine.
    Here(Server),
    /// On that of an agent.
    There(Service),
}

impl Running {
    /// Ends it.
    ///
    /// # Errors
    /// What it failed with.
    pub fn stop(self) -> Result<(), Error> {
        match self {
            Running::Here(server) => server.stop(),
            Running::There(service) => service.stop(),
        }
    }
}

/// Two ends, and how to get to them.
pub struct Place {
    /// Where the client is; `None`: where this process is.
    client: Option<Namespace>,
    server: Far,
    addresses: [IpAddr; 2],
    /// Largest IP packet between them, in bytes.
    mtu: u32,
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
            client: Some(client),
            server: Far::Host(server),
            addresses,
            mtu: if link == Link::Loopback { LOOPBACK_MTU } else { scene.mtu },
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
            Link::Remote(_) => return Err(Error::Failed("no agent".to_owned())),
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

    /// This machine, and that of an agent.
    ///
    /// # Errors
    /// What is asked of the link cannot be had between machines.
    pub fn remote(agent: &Arc<Agent>, scene: Scene) -> Result<Place, Error> {
        if scene != Scene::PLAIN {
            let text = "what packets and segments are like is up to a remote link";
            return Err(Error::Failed(text.to_owned()));
        }
        let [server, client] = agent.addresses;
        // Each machine has a core to spare for its end; the agent sees to its own.
        let cores = cores::allowed().unwrap_or_default().first().map(|core| [*core; 2]);
        Ok(Place {
            client: None,
            server: Far::Agent(Arc::clone(agent)),
            addresses: [client, server],
            mtu: scene.mtu,
            credentials: Arc::clone(&agent.credentials),
            cores,
            _pair: None,
        })
    }

    /// Whether processor times of both ends can be told.
    pub fn tells_processor_time(&self) -> bool {
        self.cores.is_some() && matches!(self.server, Far::Host(_))
    }

    /// What peers are told of it.
    pub fn site(&self, wait: Wait) -> Site {
        let [client, server] = self.addresses;
        Site { server, client, credentials: Arc::clone(&self.credentials), mtu: self.mtu, wait }
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
        let work = || stay_on(core).and_then(|()| work());
        match &self.client {
            Some(host) => host.run(work).map_err(Error::io("no thread"))?,
            None => thread::scope(|scope| {
                let thread = thread::Builder::new().spawn_scoped(scope, work);
                let thread = thread.map_err(Error::io("no thread"))?;
                thread.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
            }),
        }
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
    ) -> Result<Running, Error> {
        let host = match &self.server {
            Far::Host(host) => host,
            Far::Agent(agent) => {
                return agent.serve(transport, site.wait, shape).map(Running::There);
            }
        };
        let peer = transport.peer();
        let serve = match shape {
            Some(shape) => peer.serve_many(site, shape)?,
            None => peer.serve_one(site)?,
        };
        Server::start_on(Some(host), self.cores.map(|[_, server]| server), serve).map(Running::Here)
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
    agent: Option<Arc<Agent>>,
    made: HashMap<(Option<DatapathChoice>, Link, Scene), Place>,
}

impl Places {
    /// None yet. An agent is needed for links to it alone.
    pub fn new(credentials: &Arc<Credentials>, agent: Option<Arc<Agent>>) -> Places {
        Places { credentials: Arc::clone(credentials), agent, made: HashMap::new() }
    }

    /// The one for `transport`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn get(&mut self, transport: Transport, link: Link, scene: Scene) -> Result<&Place, Error> {
        let key = (transport.own_link(), link, scene);
        if !self.made.contains_key(&key) {
            let place = match (link, &self.agent) {
                (Link::Remote(_), Some(agent)) => Place::remote(agent, scene)?,
                _ => Place::new(&self.credentials, link, scene)?,
            };
            self.made.insert(key, place);
        }
        self.made.get(&key).ok_or_else(|| Error::Failed("no hosts".to_owned()))
    }

    /// Forgets those made in another state of the link: namespaces are not for free.
    pub fn keep_only(&mut self, scene: Scene) {
        self.made.retain(|(_, _, of), _| *of == scene);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_as_they_are_written() {
        let agent = "192.0.2.1:4500".parse().unwrap();
        for link in [Link::Veth, Link::Macvlan, Link::Loopback, Link::Remote(agent)] {
            assert_eq!(link.to_string().parse(), Ok(link));
        }
        assert!(["", "ether", "192.0.2.1"].iter().all(|text| text.parse::<Link>().is_err()));
    }
}
