//! The file on disk: who may have it, and how it is replaced.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use zeroize::Zeroizing;

use super::KeyFileError;
use super::format::{self, KeyEntry};

/// How long another process may hold the file's lock before this one goes on without the file.
pub const LOCK_PATIENCE: Duration = Duration::from_millis(200);

const LOCK_RETRY: Duration = Duration::from_millis(5);

/// A file that holds the live tickets of all instances of a server, with their private keys.
///
/// Instances look at it every second and before they make a ticket. Whoever finds no ticket in the
/// first half of its life makes one and writes it; all hand out the newest. The file has the last
/// word: tickets that vanish from it are forgotten by all, and it is emptied, or removed, to have
/// that happen. Expired tickets are taken out by whoever finds them.
///
/// It belongs to the user that the instances run as, with mode 0600; anything else is refused, as
/// are symbolic links. It is replaced by renaming a new one into place, under a lock of a file
/// beside it (`FILE.lock`; the new one is `FILE.new`), and the old one's bytes are overwritten.
/// File systems and disks may keep them all the same: the place for it is memory, in `/run` for
/// instance, where no backup takes a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    path: PathBuf,
}

/// The right to replace the file, until it is dropped.
pub(in crate::ticket) struct Locked {
    /// Closing it unlocks.
    _file: File,
}

impl KeyFile {
    /// The file at `path`, which need not exist yet.
    ///
    /// # Errors
    /// [`KeyFileError`] if it can be read by others, is damaged, or its lock cannot be had.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, KeyFileError> {
        let file = Self { path: path.into() };
        file.read()?;
        file.lock()?;
        Ok(file)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it holds; nothing if it does not exist or is empty.
    pub(in crate::ticket) fn read(&self) -> Result<Vec<KeyEntry>, KeyFileError> {
        match self.read_once() {
            // Between opening and reading it somebody may have put another in its place, and
            // wiped it. Nobody does while it is locked.
            Err(KeyFileError::Damaged { .. }) => {
                let _locked = self.lock()?;
                self.read_once()
            }
            read => read,
        }
    }

    /// As [`read`](Self::read), for whoever has the lock.
    pub(super) fn read_locked(&self, _: &Locked) -> Result<Vec<KeyEntry>, KeyFileError> {
        self.read_once()
    }

    fn read_once(&self) -> Result<Vec<KeyEntry>, KeyFileError> {
        let failed = |e: io::Error| failed("read", &self.path, &e);
        let file = match open_private(&self.path, OpenOptions::new().read(true)) {
            Ok(file) => file?,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed(e)),
        };
        let len = file.metadata().map_err(failed)?.len();
        if len > format::MAX_LEN as u64 {
            return Err(KeyFileError::Damaged { detail: "they are longer than they can be" });
        }
        if len == 0 {
            return Ok(Vec::new());
        }
        // Room for all: a vector that grows leaves copies of keys behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(len as usize + 1));
        file.take(len).read_to_end(&mut bytes).map_err(failed)?;
        format::parse(&bytes)
    }

    /// Waits for the lock, for a while.
    pub(in crate::ticket) fn lock(&self) -> Result<Locked, KeyFileError> {
        let path = beside(&self.path, ".lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = open_private(&path, &mut options).map_err(|e| failed("lock", &path, &e))??;
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Locked { _file: file }),
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR)
                    if Instant::now() < deadline =>
                {
                    thread::sleep(LOCK_RETRY);
                }
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {
                    return Err(KeyFileError::Locked { path: self.path.display().to_string() });
                }
                Err(e) => return Err(failed("lock", &path, &e.into())),
            }
        }
    }

    /// Replaces what it holds: readers find the old file or the new one.
    pub(super) fn write(&self, _locked: &Locked, bytes: &[u8]) -> Result<(), KeyFileError> {
        let new = beside(&self.path, ".new");
        let failed = |e: io::Error| failed("write", &new, &e);
        // A writer that was killed may have left one.
        overwrite(&new);
        match fs::remove_file(&new) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let mut file = open_private(&new, OpenOptions::new().write(true).create_new(true))
            .map_err(failed)??;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        let old = open_private(&self.path, OpenOptions::new().write(true));
        fs::rename(&new, &self.path).map_err(failed)?;
        if let Ok(Ok(old)) = old {
            fill_with_zeros(old);
        }
        Ok(())
    }
}

/// Opens a regular file of this user's that nobody else can read or write. The outer error is what
/// the system says.
fn open_private(path: &Path, options: &mut OpenOptions) -> io::Result<Result<File, KeyFileError>> {
    // Neither follows a link nor waits for the other end of a pipe.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let name = || path.display().to_string();
    let file = match options.mode(0o600).custom_flags(flags.bits() as i32).open(path) {
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Ok(Err(KeyFileError::NotAFile { path: name() }));
        }
        opened => opened?,
    };
    let found = file.metadata()?;
    let own = rustix::process::geteuid().as_raw();
    Ok(if !found.is_file() {
        Err(KeyFileError::NotAFile { path: name() })
    } else if found.uid() != own {
        Err(KeyFileError::ForeignOwner { path: name(), owner: found.uid(), own })
    } else if found.mode() & 0o077 != 0 {
        Err(KeyFileError::Exposed { path: name(), mode: found.mode() & 0o7777 })
    } else {
        Ok(file)
    })
}

/// Wipes a file's bytes, if it is there.
fn overwrite(path: &Path) {
    if let Ok(Ok(file)) = open_private(path, OpenOptions::new().write(true)) {
        fill_with_zeros(file);
    }
}

/// As well as it can be done: the keys in it go on being what they were if not.
fn fill_with_zeros(mut file: File) {
    let len = file.metadata().map_or(0, |found| found.len()).min(format::MAX_LEN as u64);
    let done = file.write_all(&vec![0; len as usize]).and_then(|()| file.sync_data());
    if let Err(error) = done {
        tracing::warn!(%error, "old keys of tickets could not be overwritten");
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn failed(what: &'static str, path: &Path, error: &io::Error) -> KeyFileError {
    KeyFileError::Io { what, path: path.display().to_string(), detail: error.to_string() }
}
