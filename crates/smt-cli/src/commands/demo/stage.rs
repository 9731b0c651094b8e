//! The demonstration's two hosts, and the processes on them.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use smt_testbed::{Namespace, Pair, PairOptions, pair};

use super::messages::{Part, Report, Setup, Task};
use crate::commands::Error;
use crate::commands::options::DEFAULT_PORT;
use crate::cores;
use crate::pki::{Authority, Profile};
use crate::stop::{LOOK_EVERY, Stop};

/// How long a process may be silent before the step has failed.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a process may take to end once it is told to.
const FAREWELL: Duration = Duration::from_secs(2);

/// Two hosts joined by a link, and what processes on them need.
pub(super) struct Stage {
    pair: Pair,
    authority: [String; 2],
    program: PathBuf,
    /// A core for the client's host and one for the server's, if there are two.
    cores: Option<[usize; 2]>,
    stop: Stop,
}

impl Stage {
    /// Makes the hosts. The process must still have a single thread.
    pub(super) fn new(stop: Stop) -> Result<Stage, Error> {
        smt_testbed::enter().map_err(Error::io("the demonstration needs hosts of its own"))?;
        let pair = pair(PairOptions::default())
            .map_err(Error::io("cannot make two hosts joined by a link"))?;
        let authority = Authority::new("SMT demonstration authority", Profile::default())
            .map_err(|error| Error::Failed(error.to_string()))?;
        let program = std::env::current_exe().map_err(Error::io("cannot find this program"))?;
        let allowed = cores::allowed().unwrap_or_default();
        let cores = match allowed[..] {
            [client, server, ..] => Some([client, server]),
            _ => None,
        };
        let authority = [authority.certificate_pem(), authority.key_pem()];
        Ok(Stage { pair, authority, program, cores, stop })
    }

    /// Whether both ends can spin, each on a core of its own; otherwise they sleep.
    pub(super) fn spins(&self) -> bool {
        self.cores.is_some()
    }

    pub(super) fn server_address(&self) -> SocketAddr {
        SocketAddr::new(self.pair.b_v4.into(), DEFAULT_PORT)
    }

    pub(super) fn client_address(&self) -> std::net::Ipv4Addr {
        self.pair.a_v4
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_set()
    }

    /// Starts a server process and, once it can be reached, a client process.
    pub(super) fn start(
        &self,
        parts: [Part; 2],
        loss: f64,
        capture: Option<&Path>,
    ) -> Result<Both, Error> {
        let [server, client] = parts;
        // Handshakes are worked on beside the packets, where a core that spins would be in the way.
        let handshakes = client == Part::FirstRpcs;
        let (spin, cores) = (self.spins() && !handshakes, self.cores.filter(|_| !handshakes));
        let setup = |part, core, capture: Option<&Path>| Setup {
            part,
            server: self.server_address(),
            authority: self.authority.clone(),
            spin,
            core,
            loss,
            capture: capture.map(Path::to_owned),
        };
        let [client_core, server_core] = cores.map_or([None; 2], |both| both.map(Some));
        let server = self.process(&self.pair.b, &setup(server, server_core, capture))?;
        server.wait_for("the server", |report| matches!(report, Report::Ready).then_some(()))?;
        let client = self.process(&self.pair.a, &setup(client, client_core, None))?;
        Ok(Both { server, client })
    }

    fn process(&self, host: &Namespace, setup: &Setup) -> Result<Process, Error> {
        let failed = "cannot start this program again on one of the hosts";
        let mut command = Command::new(&self.program);
        command.arg("demo-host").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = host.command(command).map_err(Error::io(failed))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::Failed(failed.to_owned()));
        };
        let (sender, reports) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let report = line.ok().and_then(|line| serde_json::from_str(&line).ok());
                let Some(report) = report else { break };
                if sender.send(report).is_err() {
                    break;
                }
            }
        });
        let mut process = Process { child, stdin: Some(stdin), reports, stop: self.stop.clone() };
        process.send(setup)?;
        Ok(process)
    }
}

/// A process on each host.
pub(super) struct Both {
    pub(super) server: Process,
    pub(super) client: Process,
}

impl Both {
    /// Waits for the session; returns how long the handshake took, in nanoseconds, and the cipher suite.
    pub(super) fn connected(&self) -> Result<(u64, String), Error> {
        self.client.wait_for("the handshake", |report| match report {
            Report::Connected { handshake_ns, suite } => Some((*handshake_ns, suite.clone())),
            _ => None,
        })
    }

    /// Ends both, the client first, and waits until they have.
    pub(super) fn finish(self) {
        let Both { server, client } = self;
        drop(client);
        drop(server);
    }
}

/// A process on one of the hosts. It ends when this is dropped.
pub(super) struct Process {
    child: Child,
    stdin: Option<std::process::ChildStdin>,
    reports: Receiver<Report>,
    stop: Stop,
}

impl Process {
    /// Gives it something to do.
    pub(super) fn tell(&mut self, task: &Task) -> Result<(), Error> {
        self.send(task)
    }

    fn send(&mut self, message: &impl serde::Serialize) -> Result<(), Error> {
        let gone = || Error::Failed("a process of the demonstration has ended".to_owned());
        let mut line = serde_json::to_vec(message).map_err(|_| gone())?;
        line.push(b'\n');
        let stdin = self.stdin.as_mut().ok_or_else(gone)?;
        // If it has failed it says why, which is worth more than that its input is closed.
        let _ = stdin.write_all(&line);
        Ok(())
    }

    /// Waits for a report that `pick` takes.
    pub(super) fn wait_for<T>(
        &self,
        what: &str,
        mut pick: impl FnMut(&Report) -> Option<T>,
    ) -> Result<T, Error> {
        let until = Instant::now() + SILENCE;
        while Instant::now() < until {
            if let Some(report) = self.receive(LOOK_EVERY)?
                && let Some(picked) = pick(&report)
            {
                return Ok(picked);
            }
        }
        Err(Error::Failed(format!("{what} took more than {} s", SILENCE.as_secs())))
    }

    fn receive(&self, patience: Duration) -> Result<Option<Report>, Error> {
        if self.stop.is_set() {
            return Err(Error::Failed("interrupted".to_owned()));
        }
        match self.reports.recv_timeout(patience) {
            Ok(Report::Failed { why }) => Err(Error::Failed(why)),
            Ok(report) => Ok(Some(report)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                Err(Error::Failed("a process of the demonstration ended too early".to_owned()))
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The end of its input tells it to end.
        self.stdin = None;
        let until = Instant::now() + FAREWELL;
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
