//! `smt pki`: files with certificates and keys for development.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::output::counted;
use crate::pki::{Algorithm, Authority, Identity, PkiError, Profile};
use crate::revocation::Revoked;

const ABOUT: &str = "\
Make certificates for development

SMT identifies both ends by X.509 certificates, as TLS does. A server shows one that names it as its clients call it; a \
client shows one that names the client, if the server asks for it. Both are signed by an authority that the other side \
trusts. These commands keep a small authority of your own in a directory:

  ca.pem              the authority's certificate: give it to everybody
  ca.key              the authority's key: it can make anybody, keep it here
  ca.crl              the certificates it has taken back, for those who check
  NAME.pem, NAME.key  a certificate and its private key: give both to NAME alone

Keys are written with mode 0600 and not encrypted: use a real authority in production. A running `smt serve` sees new \
files within two seconds.";

const EXAMPLES: &str = "\
Examples:
  Everything for a first try on one machine:
    smt pki dev certs

  An authority, a server on two addresses, two clients, one named by a URI:
    smt pki ca --dir certs
    smt pki server db --san db.example.org --san 10.0.0.2 --dir certs
    smt pki client billing --dir certs
    smt pki client web --san spiffe://example.org/web --dir certs

  A server that is also a workload with a SPIFFE ID, with an Ed25519 key:
    smt pki server api --san api.example.org \\
        --san spiffe://example.org/api --key ed25519 --dir certs

  Take a certificate back, and announce a new list for next week:
    smt pki revoke web --days 7 --dir certs
    smt serve ... --client-ca certs/ca.pem --crl certs/ca.crl

  Look at what was made:
    openssl x509 -in certs/db.pem -noout -text";

const REVOCATION_LIST: &str = "ca.crl";

/// Why files were not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No certificate could be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A file exists and `--force` was not given.
    #[error("{} exists; --force replaces it", .0.display())]
    Exists(PathBuf),
    /// The name would be that of the authority's own files, or of none.
    #[error("`{0}` cannot name files: give another NAME, and this one with --san")]
    FileName(String),
    /// The authority's files are missing.
    #[error("no authority in {}: make one with `smt pki ca`", .0.display())]
    NoAuthority(PathBuf),
    /// The file system refused.
    #[error("{path}: {1}", path = .0.display())]
    Io(PathBuf, #[source] io::Error),
}

/// The arguments of `smt pki`.
#[derive(Debug, Args)]
#[command(about = "Make certificates for development", long_about = ABOUT, after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an authority: ca.pem and ca.key
    Ca {
        /// The authority's name, shown to people only
        #[arg(long, default_value = "SMT development authority")]
        name: String,
        /// Validity in days
        #[arg(long, default_value_t = 3650, value_name = "N")]
        days: u32,
        #[command(flatten)]
        common: Common,
    },
    /// Make a server's certificate and key: NAME.pem and NAME.key
    Server {
        /// What clients call the server: a DNS name or an IP address; also the files' name
        name: String,
        /// What clients call the server, in place of NAME; also its SPIFFE ID or another URI with :// (repeatable)
        #[arg(long, value_name = "DNS|IP|URI")]
        san: Vec<String>,
        /// Validity in days
        #[arg(long, default_value_t = 365, value_name = "N")]
        days: u32,
        #[command(flatten)]
        common: Common,
    },
    /// Make a client's certificate and key: NAME.pem and NAME.key
    Client {
        /// Who the client is, a DNS name such as `billing`; also the files' name
        name: String,
        /// Who the client is, in place of NAME: a URI such as spiffe://example.org/billing
        #[arg(long, value_name = "URI|DNS")]
        san: Option<String>,
        /// Validity in days
        #[arg(long, default_value_t = 365, value_name = "N")]
        days: u32,
        #[command(flatten)]
        common: Common,
    },
    /// Take certificates back: write the authority's revocation list, ca.crl, with them added
    Revoke {
        /// Names of certificates in --dir, as given when they were made; with none, the list is only renewed
        name: Vec<String>,
        /// Days from now until the next list is announced for. An old list goes on to count
        #[arg(long, default_value_t = 30, value_name = "N")]
        days: u32,
        /// Where the authority's files and the certificates are
        #[arg(long, default_value = ".")]
        dir: PathBuf,
        /// Say what was made as one line of JSON: {"files": [{"path", "holds", "secret"}]}, or why it was not:
        /// {"event": "error", "exit_status", "text"}
        #[arg(long)]
        json: bool,
    },
    /// Make an authority, a server and a client in one go: ca, server and client, .pem and .key
    Dev {
        /// Where the files go; made if it does not exist
        dir: PathBuf,
        /// What clients call the server: DNS names and IP addresses
        #[arg(long, value_name = "DNS|IP", default_values = ["localhost", "127.0.0.1", "::1"])]
        name: Vec<String>,
        /// Who the client is: a DNS name or a URI
        #[arg(long, value_name = "DNS|URI", default_value = "client")]
        client: String,
        /// Validity in days, of all three
        #[arg(long, default_value_t = 365, value_name = "N")]
        days: u32,
        #[command(flatten)]
        style: Style,
    },
}

#[derive(Debug, Args)]
struct Common {
    /// Where the authority's files are and the new ones go; made if it does not exist
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    #[command(flatten)]
    style: Style,
}

#[derive(Debug, Args)]
struct Style {
    /// The kind of key
    #[arg(long, visible_alias = "key", value_enum, default_value_t)]
    algorithm: Algorithm,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
    /// Say what was made as one line of JSON: {"files": [{"path", "holds", "secret"}]}, or why it was not:
    /// {"event": "error", "exit_status", "text"}
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Whether programs read what is said.
    #[must_use]
    pub fn is_json(&self) -> bool {
        match &self.command {
            Command::Ca { common, .. }
            | Command::Server { common, .. }
            | Command::Client { common, .. } => common.style.json,
            Command::Revoke { json, .. } => *json,
            Command::Dev { style, .. } => style.json,
        }
    }
}

/// Makes the files that `arguments` ask for and says on standard output which.
///
/// # Errors
///
/// See [`Error`]. Unless the file system fails on the way, either all files are made or none.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    let (dir, force, files) = match &arguments.command {
        Command::Ca { name, days, common } => {
            let authority = Authority::new(name, common.style.profile(*days))?;
            (&common.dir, common.style.force, authority_files(&authority))
        }
        Command::Server { name, san, days, common } => {
            check_file_name(name)?;
            let all = if san.is_empty() { std::slice::from_ref(name) } else { san };
            let names: Vec<&str> = all.iter().map(String::as_str).collect();
            let authority = load_authority(&common.dir)?;
            let identity = authority.server(&names, common.style.profile(*days))?;
            (&common.dir, common.style.force, identity_files(name, "server", &identity))
        }
        Command::Client { name, san, days, common } => {
            check_file_name(name)?;
            let authority = load_authority(&common.dir)?;
            let who = san.as_ref().unwrap_or(name);
            let identity = authority.client(who, common.style.profile(*days))?;
            (&common.dir, common.style.force, identity_files(name, "client", &identity))
        }
        Command::Revoke { name, days, dir, .. } => (dir, true, vec![revoke(name, *days, dir)?]),
        Command::Dev { dir, name, client, days, style } => {
            let profile = style.profile(*days);
            let names: Vec<&str> = name.iter().map(String::as_str).collect();
            let authority = Authority::new("SMT development authority", profile)?;
            let mut files = authority_files(&authority);
            files.extend(identity_files("server", "server", &authority.server(&names, profile)?));
            files.extend(identity_files("client", "client", &authority.client(client, profile)?));
            (dir, style.force, files)
        }
    };
    write_all(dir, &files, force)?;
    report(dir, &files, arguments.is_json())
        .map_err(|error| Error::Io("standard output".into(), error))
}

impl Style {
    fn profile(&self, days: u32) -> Profile {
        Profile { algorithm: self.algorithm, days }
    }
}

/// A file to be written.
struct Output {
    name: String,
    holds: String,
    text: String,
    secret: bool,
}

fn authority_files(authority: &Authority) -> Vec<Output> {
    pem_pair("ca", "authority", authority.certificate_pem(), authority.key_pem())
}

fn identity_files(name: &str, role: &str, identity: &Identity) -> Vec<Output> {
    pem_pair(name, role, identity.certificate_pem(), identity.key_pem())
}

fn pem_pair(stem: &str, role: &str, certificate: String, key: String) -> Vec<Output> {
    let output = |extension: &str, what: &str, text, secret| Output {
        name: format!("{stem}.{extension}"),
        holds: format!("{role} {what}"),
        text,
        secret,
    };
    vec![output("pem", "certificate", certificate, false), output("key", "private key", key, true)]
}

/// The revocation list that is there, if one is, with the certificates of these names added.
fn revoke(names: &[String], days: u32, dir: &Path) -> Result<Output, Error> {
    let authority = load_authority(dir)?;
    let list = dir.join(REVOCATION_LIST);
    let mut revoked = match fs::read_to_string(&list) {
        Ok(text) => Revoked::from_pem(&text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Revoked::default(),
        Err(error) => return Err(Error::Io(list, error)),
    };
    for name in names {
        check_file_name(name)?;
        let path = dir.join(format!("{name}.pem"));
        let text = fs::read_to_string(&path).map_err(|error| Error::Io(path, error))?;
        revoked.add(&text, &authority)?;
    }
    Ok(Output {
        name: REVOCATION_LIST.to_owned(),
        holds: format!("revocation list of {}", counted(revoked.len() as u64, "certificate")),
        text: revoked.signed_by(&authority, days)?,
        secret: false,
    })
}

/// Names become file names: they must stay inside the directory, and off the authority's own files.
fn check_file_name(name: &str) -> Result<(), Error> {
    let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']);
    if plain && name != "ca" { Ok(()) } else { Err(Error::FileName(name.to_owned())) }
}

fn load_authority(dir: &Path) -> Result<Authority, Error> {
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read_to_string(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::NoAuthority(dir.to_owned()),
            _ => Error::Io(path, error),
        })
    };
    Ok(Authority::from_pem(&read("ca.pem")?, &read("ca.key")?)?)
}

fn write_all(dir: &Path, files: &[Output], force: bool) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(|error| Error::Io(dir.to_owned(), error))?;
    if !force {
        let existing = files.iter().map(|file| dir.join(&file.name)).find(|path| path.exists());
        existing.map_or(Ok(()), |path| Err(Error::Exists(path)))?;
    }
    for file in files {
        let path = dir.join(&file.name);
        write_one(&path, file, force).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists(path),
            _ => Error::Io(path, error),
        })?;
    }
    Ok(())
}

/// Writes a new file, so that neither the mode nor the links of one that was there are inherited. It takes the place of
/// an old one when it is whole: somebody may be watching.
fn write_one(path: &Path, file: &Output, force: bool) -> io::Result<()> {
    if !force {
        return write_new(path, file);
    }
    let beside = path.with_file_name(format!(".{}.new", file.name));
    if let Err(error) = fs::remove_file(&beside) {
        (error.kind() == io::ErrorKind::NotFound).then_some(()).ok_or(error)?;
    }
    write_new(&beside, file)?;
    fs::rename(beside, path)
}

fn write_new(path: &Path, file: &Output) -> io::Result<()> {
    let mode = if file.secret { 0o600 } else { 0o644 };
    let mut handle = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // A umask may have taken rights from a certificate; it cannot have given any to a key.
    handle.set_permissions(Permissions::from_mode(mode))?;
    handle.write_all(file.text.as_bytes())
}

#[derive(Serialize)]
struct Made<'a> {
    path: PathBuf,
    holds: &'a str,
    secret: bool,
}

fn report(dir: &Path, files: &[Output], json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let made: Vec<Made<'_>> = files
        .iter()
        .map(|file| Made { path: dir.join(&file.name), holds: &file.holds, secret: file.secret })
        .collect();
    if json {
        return writeln!(out, "{}", serde_json::json!({ "files": made }));
    }
    for file in &made {
        let keep = if file.secret { " (keep it secret)" } else { "" };
        writeln!(out, "{}: {}{keep}", file.path.display(), file.holds)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        pki: Arguments,
    }

    /// A directory of its own for one test, removed at its end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(test: &str) -> Scratch {
            let name = format!("smt-pki-{test}-{}", std::process::id());
            Scratch(std::env::temp_dir().join(name))
        }

        fn run(&self, arguments: &str) -> Result<(), Error> {
            let dir = self.0.display().to_string();
            let arguments = arguments.replace("DIR", &dir);
            let words = std::iter::once("pki").chain(arguments.split_whitespace());
            run(&Program::try_parse_from(words).unwrap().pki)
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.0.join(name)).unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn keys_are_for_their_owner_alone() {
        let scratch = Scratch::new("modes");
        scratch.run("dev DIR --json").unwrap();
        for stem in ["ca", "server", "client"] {
            let mode = |extension: &str| {
                let path = scratch.0.join(format!("{stem}.{extension}"));
                fs::metadata(path).unwrap().permissions().mode() & 0o777
            };
            assert_eq!((mode("pem"), mode("key")), (0o644, 0o600));
        }
    }

    #[test]
    fn files_are_replaced_by_force_alone() {
        let scratch = Scratch::new("force");
        scratch.run("ca --dir DIR").unwrap();
        let first = scratch.read("ca.pem");
        fs::remove_file(scratch.0.join("ca.key")).unwrap();
        assert!(matches!(scratch.run("ca --dir DIR"), Err(Error::Exists(_))));
        assert_eq!(scratch.read("ca.pem"), first);
        assert!(!scratch.0.join("ca.key").exists(), "either all files or none");
        scratch.run("ca --dir DIR --force").unwrap();
        assert_ne!(scratch.read("ca.pem"), first);
    }

    #[test]
    fn revocation_lists_grow_and_are_renewed() {
        let scratch = Scratch::new("revoke");
        assert!(matches!(scratch.run("revoke --dir DIR"), Err(Error::NoAuthority(_))));
        scratch.run("dev DIR").unwrap();
        let count = || Revoked::from_pem(&scratch.read(REVOCATION_LIST)).unwrap().len();
        for (names, expected) in [("", 0), ("client", 1), ("client server", 2), ("", 2)] {
            scratch.run(&format!("revoke {names} --dir DIR")).unwrap();
            assert_eq!(count(), expected, "{names}");
        }
        assert!(matches!(scratch.run("revoke nobody --dir DIR"), Err(Error::Io(..))));
        assert!(matches!(scratch.run("revoke ca --dir DIR"), Err(Error::FileName(_))));
        fs::write(scratch.0.join(REVOCATION_LIST), "damaged").unwrap();
        assert!(matches!(scratch.run("revoke client --dir DIR"), Err(Error::Pki(_))));
        let left: Vec<_> = fs::read_dir(&scratch.0).unwrap().collect();
        assert_eq!(left.len(), 7, "{left:?}");
    }

    #[test]
    fn an_authority_is_needed_and_keeps_its_files() {
        let scratch = Scratch::new("authority");
        assert!(matches!(scratch.run("client web --dir DIR"), Err(Error::NoAuthority(_))));
        scratch.run("ca --dir DIR --algorithm ed25519").unwrap();
        scratch.run("server db --san db.example.org --san 10.0.0.2 --dir DIR").unwrap();
        scratch.run("server api --san api --san spiffe://a/api --key p256 --dir DIR").unwrap();
        scratch.run("client web --san spiffe://example.org/web --dir DIR").unwrap();
        for name in ["ca", "../web", ".web", "a/b"] {
            let arguments = format!("client {name} --dir DIR --force");
            assert!(matches!(scratch.run(&arguments), Err(Error::FileName(_))), "{name}");
        }
    }
}
