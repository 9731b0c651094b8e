//! Tickets and keys that instances of a server share.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::ticket::shared::{KeyFile, KeyFileError, MAX_SHARED_TICKETS};
use crate::tls::Identity;

const LIFETIME: Duration = Duration::from_secs(40);

/// A directory that is removed with the test, and the file in it.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory =
            std::env::temp_dir().join(format!("smt-keys-{}-{count}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }

    fn path(&self) -> PathBuf {
        self.0.join("keys")
    }

    fn file(&self) -> KeyFile {
        KeyFile::open(self.path()).unwrap()
    }

    fn issuer(&self, identity: &Identity) -> TicketIssuer {
        builder(identity).key_file(self.file()).build().unwrap()
    }

    /// Puts another file into its place.
    fn put(&self, bytes: &[u8]) {
        let other = self.0.join("other");
        fs::write(&other, bytes).unwrap();
        fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(other, self.path()).unwrap();
    }

    /// The IDs of the tickets in the file.
    fn ids(&self) -> Vec<[u8; TICKET_ID_LEN]> {
        self.file().read().unwrap().iter().map(|entry| *entry.ticket.id()).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn builder(identity: &Identity) -> TicketIssuerBuilder {
    TicketIssuer::builder(identity.clone()).kem(Kem::X25519).lifetime(LIFETIME)
}

fn plain(identity: &Identity) -> TicketIssuer {
    builder(identity).build().unwrap()
}

/// Whether `issuer` takes a client's offer under `ticket`.
fn takes(ca: &Ca, issuer: TicketIssuer, ticket: &Ticket, time: SystemTime) -> bool {
    let verified = ca.client().verify_ticket(ticket, SERVER, time).unwrap();
    let offer = verified.encapsulate().unwrap().offer(time, false);
    let register = MemoryRegister::started_at(DEFAULT_STRIKES, UNIX_EPOCH);
    let early = EarlyData::new(issuer, Arc::new(register));
    early.accept(&offer, false, time, context(b"flight")).is_ok()
}

#[test]
fn exported_tickets_are_accepted_and_handed_out_elsewhere() {
    let ca = Ca::new("CA");
    for kem in [Kem::XWing, Kem::X25519] {
        let identity = ca.server_identity();
        let issuer = || TicketIssuer::builder(identity.clone()).kem(kem).build().unwrap();
        let (one, two) = (issuer(), issuer());
        let first = one.ticket(now()).unwrap();
        let second = one.ticket(now() + seconds(1800)).unwrap();
        let keys = one.export();
        let time = now() + seconds(1801);
        assert_eq!(two.import(&keys, time), Ok(2));
        assert_eq!(two.import(&keys, time), Ok(0));
        assert_eq!(two.ticket(time).unwrap(), second);
        assert_eq!(two.export().len(), keys.len());
        assert!(takes(&ca, two, &first, time));
        let three = issuer();
        assert_eq!(three.import(&keys, now() + seconds(3601)), Ok(1), "the first has expired");
        assert!(takes(&ca, three, &second, now() + seconds(3601)));
        assert_eq!(issuer().import(&keys, now() - seconds(61)), Ok(0), "none is valid yet");
    }
}

#[test]
fn tickets_of_others_are_left_out() {
    let ca = Ca::new("CA");
    let (own, other) = (ca.server_identity(), ca.server_identity());
    let one = plain(&own);
    one.ticket(now()).unwrap();
    assert_eq!(plain(&other).import(&one.export(), now()), Ok(0));
    let speaks_other = builder(&own).application_protocol("smt/1+other").build().unwrap();
    assert_eq!(speaks_other.import(&one.export(), now()), Ok(0));
    // Accepted, and not handed out by an instance that would make another one.
    let differs = builder(&own).max_early(1).build().unwrap();
    assert_eq!(differs.import(&one.export(), now()), Ok(1));
    assert_eq!(differs.ticket(now()).unwrap().max_early(), 1);
    assert_eq!(differs.live_tickets(), 2);
}

#[test]
fn a_ticket_that_promises_more_than_is_kept_is_not_accepted() {
    let ca = Ca::new("CA");
    let identity = ca.server_identity();
    let (one, two) = (plain(&identity), plain(&identity));
    let ticket = one.ticket(now()).unwrap();
    two.import(&one.export(), now()).unwrap();
    let less = smt_proto::wire::Params { max_rpcs: 1, ..ticket.params() };
    two.set_params(less);
    assert!(!takes(&ca, two, &ticket, now()));
}

#[test]
fn damaged_keys_are_refused_whatever_the_damage() {
    let ca = Ca::new("CA");
    let identity = ca.server_identity();
    let one = plain(&identity);
    one.ticket(now()).unwrap();
    let keys = one.export();
    let two = plain(&identity);
    let refused = |bytes: &[u8]| two.import(bytes, now()).unwrap_err();
    for len in 0..keys.len() {
        assert!(matches!(refused(&keys[..len]), KeyFileError::Damaged { .. }), "{len}");
        let mut flipped = keys.to_vec();
        flipped[len] ^= 1;
        let error = refused(&flipped);
        match len {
            8 | 9 => assert!(matches!(error, KeyFileError::UnknownVersion { .. }), "{error}"),
            _ => assert!(matches!(error, KeyFileError::Damaged { .. }), "{len}: {error}"),
        }
    }
    let longer = [&keys[..], &[0]].concat();
    assert!(matches!(refused(&longer), KeyFileError::Damaged { .. }));
    assert_eq!(two.live_tickets(), 0);
}

#[test]
fn keys_with_a_right_hash_and_wrong_contents_are_refused() {
    use aws_lc_rs::digest::{SHA256, digest};
    let ca = Ca::new("CA");
    let identity = ca.server_identity();
    let one = plain(&identity);
    one.ticket(now()).unwrap();
    let keys = one.export();
    let content = &keys[..keys.len() - 32];
    let hashed = |content: &[u8]| [content, digest(&SHA256, content).as_ref()].concat();
    let two = plain(&identity);
    for len in 11..content.len() {
        let refused = two.import(&hashed(&content[..len]), now());
        assert!(matches!(refused, Err(KeyFileError::Damaged { .. })), "{len}");
    }
    let changed = |at: usize| {
        let mut content = content.to_vec();
        content[at] ^= 4;
        two.import(&hashed(&content), now()).unwrap_err()
    };
    // The private key is last; the ticket's signature before it; its ID near the front.
    assert!(matches!(changed(content.len() - 20), KeyFileError::Forged { .. }));
    assert!(matches!(changed(content.len() - 40), KeyFileError::Forged { .. }));
    assert!(matches!(changed(11 + 2 + 2), KeyFileError::Forged { .. }));
    let mut many = content.to_vec();
    many[10] = MAX_SHARED_TICKETS as u8 + 1;
    assert_eq!(
        two.import(&hashed(&many), now()),
        Err(KeyFileError::TooMany { most: MAX_SHARED_TICKETS })
    );
    assert_eq!(two.live_tickets(), 0);
}

#[test]
fn more_tickets_than_may_be_shared_are_refused() {
    let ca = Ca::new("CA");
    let identity = ca.server_identity();
    let to = plain(&identity);
    for _ in 0..MAX_SHARED_TICKETS {
        let from = plain(&identity);
        from.ticket(now()).unwrap();
        assert_eq!(to.import(&from.export(), now()), Ok(1));
    }
    // One of them is handed out, which makes room for one more, and for no second.
    let from = plain(&identity);
    from.ticket(now()).unwrap();
    assert_eq!(to.import(&from.export(), now()), Ok(1));
    let from = plain(&identity);
    from.ticket(now()).unwrap();
    let refused = to.import(&from.export(), now());
    assert_eq!(refused, Err(KeyFileError::TooMany { most: MAX_SHARED_TICKETS }));
    assert_eq!(to.import(&from.export(), now() + LIFETIME + seconds(1)), Ok(0));
    assert_eq!(to.live_tickets(), 0, "expired ones make room");
}

#[test]
fn two_issuers_of_one_file_agree_and_either_rotates() {
    let ca = Ca::new("CA");
    let identity = ca.server_identity();
    let place = Place::new();
    let (one, two) = (place.issuer(&identity), place.issuer(&identity));
    // Certificates and files go by the real clock here, as the issuers' own threads do.
    let now = SystemTime::now();
    let first = one.ticket(now).unwrap();
    assert_eq!(two.ticket(now).unwrap(), first);
    assert_eq!(place.ids(), [*first.id()]);
    let half = now + LIFETIME / 2;
    let second = two.ticket(half).unwrap();
    assert_ne!(second, first);
    assert_eq!(one.ticket(half).unwrap(), second);
    assert_eq!(place.ids().len(), 2);
    // The first one's time is over: it leaves the file as the third comes.
    let end = now + LIFETIME + seconds(1);
    let third = one.ticket(end).unwrap();
    assert_eq!(two.ticket(end).unwrap(), third);
    assert_eq!(place.ids(), [*second.id(), *third.id()]);
    assert_eq!((one.key_file_error(), two.key_file_error()), (None, None));
    // One that starts later has them all.
    let late = place.issuer(&identity);
    assert!(takes(&ca, late, &second, end));
    assert!(takes(&ca, two, &third, end));
}

#[test]
fn issuers_learn_of_tickets_without_being_asked() {
    let ca = Ca::new("CA");
    let identity = ca.server_identity();
    let place = Place::new();
    let (one, two) = (place.issuer(&identity), place.issuer(&identity));
    let now = SystemTime::now();
    let ticket = one.ticket(now).unwrap();
    while two.find(ticket.id()).is_none() {
        std::thread::sleep(millis(10));
    }
    one.forget_all().unwrap();
    assert!(one.find(ticket.id()).is_none());
    while two.find(ticket.id()).is_some() {
        std::thread::sleep(millis(10));
    }
}

#[test]
fn tickets_of_another_certificate_stay_in_the_file() {
    let ca = Ca::new("CA");
    let (old, new) = (ca.server_identity(), ca.server_identity());
    let place = Place::new();
    let (one, two) = (place.issuer(&old), place.issuer(&old));
    let now = SystemTime::now();
    let first = one.ticket(now).unwrap();
    assert_eq!(two.ticket(now).unwrap(), first);
    one.replace_identity(new.clone());
    let second = one.ticket(now).unwrap();
    assert_ne!(first, second);
    assert_eq!(two.ticket(now).unwrap(), first);
    assert_eq!(place.ids(), [*first.id(), *second.id()]);
    two.replace_identity(new);
    assert_eq!(two.ticket(now).unwrap(), second);
    // The last certificate's ticket is accepted to its end by those who had it.
    assert!(takes(&ca, one, &first, now));
    assert!(takes(&ca, two, &first, now));
}

#[test]
fn a_certificate_with_other_names_ends_all_tickets() {
    let ca = Ca::new("CA");
    let one = plain(&ca.server_identity());
    one.ticket(now()).unwrap();
    let mut more = pki::named(SERVER);
    more.subject_alt_names.push(rcgen::SanType::DnsName("other.example".try_into().unwrap()));
    one.replace_identity(ca.issue(&more, &rcgen::PKCS_ECDSA_P256_SHA256));
    assert_eq!(one.live_tickets(), 0);
}

#[test]
fn files_that_others_can_get_at_are_refused() {
    let ca = Ca::new("CA");
    let identity = ca.server_identity();
    let place = Place::new();
    let issuer = place.issuer(&identity);
    let now = SystemTime::now();
    let first = issuer.ticket(now).unwrap();
    let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let set_mode = |mode| fs::set_permissions(place.path(), fs::Permissions::from_mode(mode));
    assert_eq!(mode(&place.path()), 0o600);
    for wrong in [0o640, 0o604, 0o620, 0o666] {
        set_mode(wrong).unwrap();
        let path = place.path().display().to_string();
        let refused = KeyFileError::Exposed { path, mode: wrong };
        assert_eq!(KeyFile::open(place.path()).unwrap_err(), refused);
        assert!(refused.to_string().contains(&format!("0{wrong:o}")), "{refused}");
        // It is not written to either: the next ticket is this instance's own.
        let own = issuer.ticket(now + LIFETIME / 2).unwrap();
        assert_ne!(own, first);
        while issuer.key_file_error().as_ref() != Some(&refused) {
            std::thread::sleep(millis(10));
        }
    }
    set_mode(0o600).unwrap();
    while issuer.key_file_error().is_some() {
        std::thread::sleep(millis(10));
    }
    assert_eq!(place.ids().len(), 2, "what was made meanwhile is shared now");
}

#[test]
fn what_is_no_file_is_refused() {
    let place = Place::new();
    let target = place.0.join("target");
    fs::write(&target, "").unwrap();
    symlink(&target, place.path()).unwrap();
    let path = place.path().display().to_string();
    assert_eq!(KeyFile::open(place.path()), Err(KeyFileError::NotAFile { path: path.clone() }));
    fs::remove_file(place.path()).unwrap();
    fs::create_dir(place.path()).unwrap();
    assert_eq!(KeyFile::open(place.path()), Err(KeyFileError::NotAFile { path }));
    let nowhere = KeyFile::open(place.0.join("none/keys"));
    assert!(matches!(nowhere, Err(KeyFileError::Io { what: "lock", .. })), "{nowhere:?}");
}

#[test]
fn a_file_of_another_user_is_refused() {
    let place = Place::new();
    // Root can give a file away; others cannot, and have files of root's to try.
    if rustix::process::geteuid().is_root() {
        fs::write(place.path(), "").unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(place.path(), Some(4242), None).unwrap();
        let refused = KeyFile::open(place.path());
        assert!(matches!(refused, Err(KeyFileError::ForeignOwner { owner: 4242, .. })));
    } else {
        let refused = KeyFile::open("/etc/passwd");
        assert!(matches!(refused, Err(KeyFileError::ForeignOwner { owner: 0, .. })));
    }
}

#[test]
fn a_damaged_or_locked_file_is_told_and_left_alone() {
    let ca = Ca::new("CA");
    let identity = ca.server_identity();
    let place = Place::new();
    let issuer = place.issuer(&identity);
    let now = SystemTime::now();
    let locked = place.file().lock().unwrap();
    issuer.ticket(now).unwrap();
    assert!(matches!(issuer.key_file_error(), Some(KeyFileError::Locked { .. })));
    assert!(!place.path().exists());
    drop(locked);
    while place.ids().is_empty() {
        std::thread::sleep(millis(10));
    }
    let good = fs::read(place.path()).unwrap();
    place.put(&good[..good.len() - 1]);
    assert!(matches!(KeyFile::open(place.path()), Err(KeyFileError::Damaged { .. })));
    while issuer.key_file_error().is_none() {
        std::thread::sleep(millis(10));
    }
    assert_eq!(issuer.live_tickets(), 1, "what is known stays");
    place.put(&good);
    // What a writer that was killed has left does not matter.
    fs::write(place.0.join("keys.new"), "half").unwrap();
    fs::set_permissions(place.0.join("keys.new"), fs::Permissions::from_mode(0o600)).unwrap();
    while issuer.key_file_error().is_some() {
        std::thread::sleep(millis(10));
    }
    issuer.ticket(now + LIFETIME / 2).unwrap();
    assert_eq!(place.ids().len(), 2);
    assert!(!place.0.join("keys.new").exists());
}
