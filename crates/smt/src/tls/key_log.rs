//! The key log: secrets in the file that `SSLKEYLOGFILE` names, for dissectors, and only where the
//! caller asked for it.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::KeyLog;
use zeroize::Zeroizing;

use super::credentials::ConfigError;

/// Environment variable that names the file, as with other TLS programs.
const VARIABLE: &str = "SSLKEYLOGFILE";

/// An open key log. Lines: `<label> <client random in hex> <secret in hex>`.
pub(super) struct KeyLogFile {
    file: Mutex<File>,
    path: PathBuf,
}

impl KeyLogFile {
    /// Opens the file that the environment names, if it names one.
    pub(super) fn from_env() -> Result<Option<Arc<Self>>, ConfigError> {
        match std::env::var_os(VARIABLE) {
            Some(path) if !path.is_empty() => Self::open(path.into()).map(Some),
            _ => Ok(None),
        }
    }

    /// Appends to the file at `path`, which is created for this user's eyes only.
    pub(super) fn open(path: PathBuf) -> Result<Arc<Self>, ConfigError> {
        let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        match opened {
            Ok(file) => Ok(Arc::new(Self { file: Mutex::new(file), path })),
            Err(source) => Err(ConfigError::File { path, source }),
        }
    }

    pub(super) fn line(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = Zeroizing::new(String::with_capacity(
            label.len() + 2 * (client_random.len() + secret.len()) + 3,
        ));
        line.push_str(label);
        for field in [client_random, secret] {
            line.push(' ');
            for byte in field {
                let _ = write!(*line, "{byte:02x}");
            }
        }
        line.push('\n');
        // One write call for the whole line: several processes may append to the same file.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(line.as_bytes()) {
            tracing::warn!(path = %self.path.display(), %error, "cannot write to the key log");
        }
    }
}

impl fmt::Debug for KeyLogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyLogFile").field(&self.path).finish()
    }
}

impl KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        self.line(label, client_random, secret);
    }
}

/// The client random inside flight 0, if its first record holds it (ours always does).
pub(super) fn client_random(flight: &[u8]) -> Option<[u8; 32]> {
    const RECORD_HANDSHAKE: u8 = 22;
    const CLIENT_HELLO: u8 = 1;
    let (&content_type, &message_type) = (flight.first()?, flight.get(5)?);
    if content_type != RECORD_HANDSHAKE || message_type != CLIENT_HELLO {
        return None;
    }
    flight.get(11..43)?.try_into().ok()
}
