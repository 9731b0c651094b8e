//! Files that are looked at while they are in use: when certificates, keys, authorities or
//! revocation lists change, handshakes go on with what the files say then.
//!
//! Files are compared by content, once a second, on a thread of its own. A change counts once two
//! looks have found the same, so that files which are being written are not read half; renaming
//! finished files into place remains the better way. What cannot be used is logged and counted,
//! and the configuration stays as it was.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};

use super::config::{ClientTls, ServerTls};
use super::credentials::ConfigError;

/// How often files are looked at. A change takes effect after one to two of these.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(1);

const THREAD_NAME: &str = "smt-watch";

/// What a [`Watch`] has seen so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WatchStats {
    /// Changes that took effect.
    pub replaced: u64,
    /// Changes that could not be used.
    pub refused: u64,
    /// Why the last change could not be used; `None` once a later one took effect.
    pub last_refusal: Option<String>,
}

/// Looks at files until it is dropped, which waits for a look that is under way.
///
/// ```no_run
/// use smt::tls::{Identity, ServerTls, Watch};
///
/// # fn run() -> Result<(), smt::tls::ConfigError> {
/// let files = vec!["server.pem".into(), "server.key".into()];
/// let (tls, _watch) = Watch::server(files, || {
///     ServerTls::builder(Identity::from_pem_files("server.pem", "server.key")?).build()
/// })?;
/// # Ok(())
/// # }
/// ```
pub struct Watch {
    stats: Arc<Mutex<WatchStats>>,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Makes a server's configuration by `load`, which reads `files`, and replaces it by `load`
    /// whenever one of them changes.
    ///
    /// # Errors
    /// What `load` says; [`ConfigError::NoThread`].
    pub fn server(
        files: Vec<PathBuf>,
        mut load: impl FnMut() -> Result<ServerTls, ConfigError> + Send + 'static,
    ) -> Result<(ServerTls, Watch), ConfigError> {
        let seen = digest(&files);
        let tls = load()?;
        let watched = tls.clone();
        let reload = move || load().map(|new| watched.replace(&new));
        Ok((tls, Self::start(Looker::new(files, seen, Box::new(reload)))?))
    }

    /// As [`server`](Self::server), for a client's configuration.
    ///
    /// # Errors
    /// What `load` says; [`ConfigError::NoThread`].
    pub fn client(
        files: Vec<PathBuf>,
        mut load: impl FnMut() -> Result<ClientTls, ConfigError> + Send + 'static,
    ) -> Result<(ClientTls, Watch), ConfigError> {
        let seen = digest(&files);
        let tls = load()?;
        let watched = tls.clone();
        let reload = move || load().map(|new| watched.replace(&new));
        Ok((tls, Self::start(Looker::new(files, seen, Box::new(reload)))?))
    }

    /// What has been seen so far.
    #[must_use]
    pub fn stats(&self) -> WatchStats {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn start(mut looker: Looker) -> Result<Watch, ConfigError> {
        let stats = Arc::clone(&looker.stats);
        let (stop, stopped) = mpsc::channel();
        let run = move || {
            while stopped.recv_timeout(WATCH_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                looker.look();
            }
        };
        let thread = thread::Builder::new()
            .name(THREAD_NAME.to_owned())
            .spawn(run)
            .map_err(|source| ConfigError::NoThread { source })?;
        Ok(Watch { stats, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// SHA-256 over the contents of files.
type Digest = [u8; 32];
type Reload = Box<dyn FnMut() -> Result<(), ConfigError> + Send>;

/// What one look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Unchanged,
    /// Something changed; the next look says whether it is at rest.
    Changing,
    Replaced,
    Refused,
}

struct Looker {
    files: Vec<PathBuf>,
    reload: Reload,
    /// The contents that were loaded, or refused, last.
    known: Digest,
    /// Other contents, seen by the last look.
    changing: Option<Digest>,
    stats: Arc<Mutex<WatchStats>>,
}

impl Looker {
    fn new(files: Vec<PathBuf>, known: Digest, reload: Reload) -> Self {
        Self { files, reload, known, changing: None, stats: Arc::default() }
    }

    fn look(&mut self) -> Look {
        let seen = digest(&self.files);
        if seen == self.known {
            self.changing = None;
            return Look::Unchanged;
        }
        if self.changing != Some(seen) {
            self.changing = Some(seen);
            return Look::Changing;
        }
        // Should files change while they are loaded, the next look sees it: `seen` is from before.
        (self.known, self.changing) = (seen, None);
        let loaded = (self.reload)();
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        match loaded {
            Ok(()) => {
                tracing::info!("TLS files changed: new handshakes use them");
                stats.replaced += 1;
                stats.last_refusal = None;
                Look::Replaced
            }
            Err(error) => {
                tracing::error!(%error, "TLS files changed and cannot be used: keeping the old");
                stats.refused += 1;
                stats.last_refusal = Some(error.to_string());
                Look::Refused
            }
        }
    }
}

/// A file that cannot be read differs from every file that can, whatever it holds.
fn digest(files: &[PathBuf]) -> Digest {
    let mut hash = Context::new(&SHA256);
    for file in files {
        let content = fs::read(AsRef::<Path>::as_ref(file)).ok();
        let length = content.as_ref().map_or(u64::MAX, |content| content.len() as u64);
        hash.update(&length.to_be_bytes());
        hash.update(&content.unwrap_or_default());
    }
    let mut digest = Digest::default();
    digest.copy_from_slice(hash.finish().as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// One file, and a loader that takes what begins with "good".
    struct Fixture {
        file: PathBuf,
        loads: Arc<AtomicU64>,
        looker: Looker,
    }

    impl Fixture {
        fn new(name: &str) -> Self {
            let file = std::env::temp_dir().join(format!("smt-{name}-{}", std::process::id()));
            fs::write(&file, "good 0").unwrap();
            let loads = Arc::new(AtomicU64::new(0));
            let (path, count) = (file.clone(), Arc::clone(&loads));
            let reload = Box::new(move || {
                count.fetch_add(1, Ordering::Relaxed);
                let content = fs::read_to_string(&path)
                    .map_err(|source| ConfigError::File { path: path.clone(), source })?;
                let good = content.starts_with("good");
                good.then_some(()).ok_or(ConfigError::Empty { what: "good things" })
            });
            let files = vec![file.clone()];
            let seen = digest(&files);
            Self { file, loads, looker: Looker::new(files, seen, reload) }
        }

        fn write(&self, content: &str) {
            fs::write(&self.file, content).unwrap();
        }

        fn expect(&mut self, looks: &[Look]) {
            for expected in looks {
                assert_eq!(self.looker.look(), *expected);
            }
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.file);
        }
    }

    #[test]
    fn a_change_is_loaded_once_when_it_is_at_rest() {
        let mut files = Fixture::new("watch-rest");
        files.expect(&[Look::Unchanged]);
        files.write("good 0");
        files.expect(&[Look::Unchanged]);
        for half in ["", "go", "good"] {
            files.write(half);
            files.expect(&[Look::Changing]);
        }
        files.write("good 1");
        files.expect(&[Look::Changing, Look::Replaced, Look::Unchanged]);
        assert_eq!(files.loads.load(Ordering::Relaxed), 1);
        files.write("half");
        files.expect(&[Look::Changing]);
        files.write("good 1");
        files.expect(&[Look::Unchanged]);
        assert_eq!(files.loads.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn bad_and_missing_files_are_refused_once_each() {
        let mut files = Fixture::new("watch-bad");
        files.write("bad");
        files.expect(&[Look::Changing, Look::Refused, Look::Unchanged]);
        fs::remove_file(&files.file).unwrap();
        files.expect(&[Look::Changing, Look::Refused, Look::Unchanged]);
        let stats = files.looker.stats.lock().unwrap().clone();
        assert_eq!((stats.replaced, stats.refused), (0, 2));
        assert!(stats.last_refusal.unwrap().contains("cannot open"));
        files.write("good 2");
        files.expect(&[Look::Changing, Look::Replaced, Look::Unchanged]);
        assert_eq!(files.looker.stats.lock().unwrap().last_refusal, None);
    }
}
