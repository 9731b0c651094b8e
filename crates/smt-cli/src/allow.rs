//! Patterns of names that are let in: `spiffe://example.org/*`, `*.example.org`, `billing`.

use std::str::FromStr;

use smt::tls::PeerIdentity;

/// A pattern for the names of peers, in their certificates' subject alternative names.
///
/// With a scheme it is for URIs: equal to the last byte or, if it ends in `/*`, the same up to
/// that slash and something behind it. Without it is for DNS names, whose case does not matter:
/// equal or, if it begins with `*.`, the same behind one more label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// This URI.
    Uri(String),
    /// URIs that begin so, slash included, and go on.
    UrisBelow(String),
    /// This DNS name, lower case.
    Dns(String),
    /// Names with one label in front of this, which begins with a dot; lower case.
    DnsBelow(String),
}

impl Pattern {
    /// Whether one of the peer's names fits.
    pub fn fits(&self, peer: &PeerIdentity) -> bool {
        peer.uris().iter().any(|uri| self.fits_uri(uri))
            || peer.dns_names().iter().any(|name| self.fits_dns(name))
    }

    fn fits_uri(&self, uri: &str) -> bool {
        match self {
            Pattern::Uri(exact) => uri == exact,
            Pattern::UrisBelow(start) => {
                // A path that climbs up again is below nothing.
                let climbs = |rest: &str| rest.split('/').any(|part| part == ".." || part == ".");
                uri.strip_prefix(start).is_some_and(|rest| !rest.is_empty() && !climbs(rest))
            }
            Pattern::Dns(_) | Pattern::DnsBelow(_) => false,
        }
    }

    /// A wildcard in a certificate names no peer in particular and fits nothing.
    fn fits_dns(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        if name.contains('*') {
            return false;
        }
        match self {
            Pattern::Dns(exact) => name == *exact,
            Pattern::DnsBelow(end) => name
                .strip_suffix(end)
                .is_some_and(|label| !label.is_empty() && !label.contains('.')),
            Pattern::Uri(_) | Pattern::UrisBelow(_) => false,
        }
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Pattern, String> {
        let wrong = || {
            "neither a URI, with /* at its end or without, nor a DNS name, with *. in front or \
             without"
                .to_owned()
        };
        if text.contains("://") {
            let below = text.strip_suffix('*').filter(|start| start.ends_with('/'));
            let rest = below.unwrap_or(text);
            let plain = rest.chars().all(|c| c.is_ascii_graphic() && c != '*');
            let scheme_only = rest.ends_with("://");
            return match below {
                _ if !plain || scheme_only => Err(wrong()),
                Some(start) => Ok(Pattern::UrisBelow(start.to_owned())),
                None => Ok(Pattern::Uri(text.to_owned())),
            };
        }
        let lower = text.to_ascii_lowercase();
        let below = lower.strip_prefix('*').filter(|end| end.starts_with('.'));
        let name = below.map_or(lower.as_str(), |end| end.trim_start_matches('.'));
        let label = |part: &str| {
            !part.is_empty()
                && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        };
        match below {
            _ if !name.split('.').all(label) => Err(wrong()),
            Some(end) => Ok(Pattern::DnsBelow(end.to_owned())),
            None => Ok(Pattern::Dns(lower)),
        }
    }
}

/// Says yes to peers whom a pattern fits.
///
/// # Errors
/// The names of those whom none fits, in words.
pub fn check(patterns: &[Pattern], peer: &PeerIdentity) -> Result<(), String> {
    if patterns.iter().any(|pattern| pattern.fits(peer)) {
        return Ok(());
    }
    let names: Vec<&str> = peer.uris().iter().chain(peer.dns_names()).map(String::as_str).collect();
    let who = if names.is_empty() {
        "it has no URI and no DNS name".to_owned()
    } else {
        names.join(", ")
    };
    Err(format!("no --allow fits: {who}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn uris() {
        let exact = pattern("spiffe://example.org/billing");
        assert!(exact.fits_uri("spiffe://example.org/billing"));
        for other in ["spiffe://example.org/billing/", "spiffe://example.org/Billing", "billing"] {
            assert!(!exact.fits_uri(other), "{other}");
        }
        let below = pattern("spiffe://example.org/ns/a/*");
        assert!(below.fits_uri("spiffe://example.org/ns/a/sa/b"));
        for other in [
            "spiffe://example.org/ns/a/",
            "spiffe://example.org/ns/a",
            "spiffe://example.org/ns/ab/c",
            "spiffe://example.org/ns/a/../b",
            "spiffe://example.org.evil/ns/a/b",
        ] {
            assert!(!below.fits_uri(other), "{other}");
        }
        assert!(!below.fits_dns("spiffe://example.org/ns/a/b"));
    }

    #[test]
    fn dns_names() {
        let exact = pattern("Billing.example.org");
        assert!(exact.fits_dns("billing.EXAMPLE.org"));
        assert!(!exact.fits_dns("a.billing.example.org"));
        let below = pattern("*.example.org");
        assert!(below.fits_dns("a.example.org"));
        for other in
            ["example.org", ".example.org", "a.b.example.org", "*.example.org", "aexample.org"]
        {
            assert!(!below.fits_dns(other), "{other}");
        }
        assert!(!below.fits_uri("https://a.example.org"));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "*",
            "*.",
            "a.*",
            "a*",
            "a..b",
            ".a",
            "a.",
            "two words",
            "spiffe://",
            "spiffe://*",
            "spiffe://a/*/b",
            "spiffe://a/b*",
            "://a b",
        ] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }
}
