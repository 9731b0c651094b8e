//! Generated parts of a document, between markers.

use core::fmt;

/// A marker that a document lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoMarker(String);

impl fmt::Display for NoMarker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the document has no line {:?} where it belongs", self.0)
    }
}

impl core::error::Error for NoMarker {}

/// Puts `body` between the lines `<!-- begin name -->` and `<!-- end name -->` of a document.
///
/// # Errors
/// [`NoMarker`]; the document stays as it is.
pub fn replace(document: &mut String, name: &str, body: &str) -> Result<(), NoMarker> {
    let begin = format!("<!-- begin {name} -->\n");
    let end = format!("<!-- end {name} -->");
    let Some((head, rest)) = document.split_once(&begin) else { return Err(NoMarker(begin)) };
    let Some((_, tail)) = rest.split_once(&end) else { return Err(NoMarker(end)) };
    *document = format!("{head}{begin}\n{}\n\n{end}{tail}", body.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_the_markers_is_replaced() {
        let mut document = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n".to_owned();
        replace(&mut document, "x", "new\n").unwrap();
        let once = document.clone();
        assert_eq!(once, "a\n<!-- begin x -->\n\nnew\n\n<!-- end x -->\nb\n");
        replace(&mut document, "x", "new\n").unwrap();
        assert_eq!(document, once);
        assert!(replace(&mut document, "y", "new").is_err());
        assert_eq!(document, once);
    }
}
