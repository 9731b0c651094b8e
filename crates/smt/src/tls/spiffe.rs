//! SPIFFE IDs: workloads named by URIs such as `spiffe://example.org/billing`.

/// Longest SPIFFE ID in bytes, and longest trust domain, by the SPIFFE ID standard.
const MAX_ID_LEN: usize = 2048;
const MAX_TRUST_DOMAIN_LEN: usize = 255;

/// A well-formed SPIFFE ID: `spiffe://<trust domain>[/<path>]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpiffeId<'a> {
    id: &'a str,
    trust_domain: &'a str,
    path: &'a str,
}

impl<'a> SpiffeId<'a> {
    /// Reads an ID by the letter of the standard: a trust domain of lower-case letters, digits,
    /// dots, dashes and underscores; a path of non-empty segments of letters, digits and these,
    /// none of them `.` or `..`; no port, query, fragment or percent-encoding. `None` otherwise.
    #[must_use]
    pub fn parse(id: &'a str) -> Option<Self> {
        let rest = id.strip_prefix("spiffe://").filter(|_| id.len() <= MAX_ID_LEN)?;
        let (trust_domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let is_plain = |c: char| c.is_ascii_digit() || ".-_".contains(c);
        let domain_ok = (1..=MAX_TRUST_DOMAIN_LEN).contains(&trust_domain.len())
            && trust_domain.chars().all(|c| c.is_ascii_lowercase() || is_plain(c));
        let segment_ok = |segment: &str| {
            !matches!(segment, "" | "." | "..")
                && segment.chars().all(|c| c.is_ascii_alphabetic() || is_plain(c))
        };
        let path_ok = path.is_empty() || path.split('/').skip(1).all(segment_ok);
        (domain_ok && path_ok).then_some(Self { id, trust_domain, path })
    }

    /// The whole ID.
    #[must_use]
    pub fn as_str(&self) -> &'a str {
        self.id
    }

    /// The trust domain, `example.org`.
    #[must_use]
    pub fn trust_domain(&self) -> &'a str {
        self.trust_domain
    }

    /// The path with its leading slash, `/billing`; empty if the ID is that of the trust domain.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_formed_ids() {
        let id = SpiffeId::parse("spiffe://prod.example_1.org/ns/A-b/sa/c.d").unwrap();
        assert_eq!(id.trust_domain(), "prod.example_1.org");
        assert_eq!(id.path(), "/ns/A-b/sa/c.d");
        assert_eq!(id.as_str(), "spiffe://prod.example_1.org/ns/A-b/sa/c.d");
        assert_eq!(SpiffeId::parse("spiffe://example.org").unwrap().path(), "");
        let longest = format!("spiffe://a/{}", "x".repeat(MAX_ID_LEN - 11));
        assert!(SpiffeId::parse(&longest).is_some());
        assert!(SpiffeId::parse(&format!("{longest}x")).is_none());
    }

    #[test]
    fn everything_else() {
        for id in [
            "",
            "spiffe://",
            "spiffe:///a",
            "https://a/b",
            "SPIFFE://a/b",
            "spiffe://A/b",
            "spiffe://a/",
            "spiffe://a//b",
            "spiffe://a/b/",
            "spiffe://a/.",
            "spiffe://a/../b",
            "spiffe://a:80/b",
            "spiffe://u@a/b",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a/%62",
            "spiffe://a/ü",
            "spiffe://a/b ",
            " spiffe://a/b",
        ] {
            assert_eq!(SpiffeId::parse(id), None, "{id}");
        }
        let domain = "x".repeat(MAX_TRUST_DOMAIN_LEN);
        assert!(SpiffeId::parse(&format!("spiffe://{domain}/a")).is_some());
        assert!(SpiffeId::parse(&format!("spiffe://{domain}x/a")).is_none());
    }
}
