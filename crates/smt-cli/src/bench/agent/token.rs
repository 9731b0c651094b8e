//! What agent and client know each other by.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;

use crate::commands::Error;
use crate::output::hex;

/// Bytes of a hash, and of a secret.
const HASH: usize = 32;
const SECRET: usize = 16;

/// The hash of the agent's certificate, and a secret of the client's. Written in hexadecimal.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    certificate: [u8; HASH],
    secret: [u8; SECRET],
}

impl Token {
    /// A new one for an agent that shows this certificate.
    ///
    /// # Errors
    /// The host has no random numbers.
    pub(super) fn new(certificate: &CertificateDer<'_>) -> Result<Token, Error> {
        let mut secret = [0; SECRET];
        aws_lc_rs::rand::fill(&mut secret)
            .map_err(|_| Error::Failed("no random numbers".to_owned()))?;
        Ok(Token { certificate: hash(certificate), secret })
    }

    /// Whether an agent that shows this certificate is the one meant.
    pub(super) fn fits(&self, certificate: &CertificateDer<'_>) -> bool {
        hash(certificate) == self.certificate
    }

    /// What the client shows.
    pub(super) fn secret(&self) -> String {
        hex(&self.secret)
    }

    /// Whether it is what the client should show. Takes as long whatever is wrong with it.
    pub(super) fn is_secret(&self, shown: &str) -> bool {
        verify_slices_are_equal(self.secret().as_bytes(), shown.as_bytes()).is_ok()
    }
}

fn hash(certificate: &CertificateDer<'_>) -> [u8; HASH] {
    let mut hash = [0; HASH];
    hash.copy_from_slice(digest(&SHA256, certificate).as_ref());
    hash
}

impl fmt::Display for Token {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&hex(&self.certificate))?;
        to.write_str(&self.secret())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Token")
    }
}

impl FromStr for Token {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Token, &'static str> {
        const WRONG: &str = "not a token as the agent prints it";
        let digits: Option<Vec<u8>> =
            text.chars().map(|digit| digit.to_digit(16).map(|value| value as u8)).collect();
        let digits = digits.ok_or(WRONG)?;
        let bytes: Vec<u8> = digits
            .chunks_exact(2)
            .filter_map(|pair| pair.first().zip(pair.last()))
            .map(|(high, low)| high << 4 | low)
            .collect();
        let (hash, secret) = bytes.split_first_chunk::<HASH>().ok_or(WRONG)?;
        let secret = secret.try_into().map_err(|_| WRONG)?;
        if digits.len() != 2 * (HASH + SECRET) {
            return Err(WRONG);
        }
        Ok(Token { certificate: *hash, secret })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_written() {
        let certificate = CertificateDer::from(vec![1, 2, 3]);
        let token = Token::new(&certificate).unwrap();
        let text = token.to_string();
        let again: Token = text.parse().unwrap();
        assert!(again == token && again.fits(&certificate) && again.is_secret(&token.secret()));
        assert!(!again.fits(&CertificateDer::from(vec![1, 2, 4])) && !again.is_secret("00"));
        let wrong = ["", "zz", &text[1..], &text[2..], &format!("{text}0")].map(str::to_owned);
        assert!(wrong.iter().all(|text| text.parse::<Token>().is_err()));
        assert_eq!(format!("{token:?}"), "Token");
    }
}
