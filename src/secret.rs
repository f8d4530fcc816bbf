//! Text that never prints itself.
//!
//! A password in a log line, an error or `check` output has to be typed out with
//! [`Secret::reveal`]; nothing gives it away by accident.

use std::fmt;

/// What is printed in place of a secret.
pub const HIDDEN: &str = "***";

/// A secret text. `Debug` and `Display` show no part of it, not even its length.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the text as it is.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Only for the call that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing to hide.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// Replaces what stands before an `@` in each word or URL of `text`: user names and passwords of
/// `scheme://user:password@host` and `user:password@host:port`.
///
/// It hides too much rather than too little: an `@` that means something else costs a few letters
/// of a message. Quotes and brackets that begin a word stay, so that TOML stays TOML.
pub fn without_userinfo(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for word in text.split_inclusive(char::is_whitespace) {
        let Some(at) = word.rfind('@') else {
            clean.push_str(word);
            continue;
        };
        // A password may hold a slash, so the scheme ends at the first `//` and the user-info at
        // the last `@`.
        let start = match word[..at].find("//") {
            Some(slashes) => slashes + 2,
            None => word[..at]
                .find(|c| !matches!(c, '"' | '\'' | '`' | '[' | '('))
                .unwrap_or(at),
        };
        clean.push_str(&word[..start]);
        clean.push_str(HIDDEN);
        clean.push_str(&word[at..]);
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_nothing_of_itself() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "*** Secret(***)");
        assert_eq!(secret.reveal(), "hunter2");
    }

    #[test]
    fn user_info_goes_and_the_rest_stays() {
        for (text, clean) in [
            ("https://me:pw@host/path", "https://***@host/path"),
            ("https://me:p/w@d@host/path", "https://***@host/path"),
            ("me:pw@host:9092,other:9092", "***@host:9092,other:9092"),
            ("me:p,w@host:9092", "***@host:9092"),
            ("[\"me:p\\\"w@host:9092\", 'b']", "[\"***@host:9092\", 'b']"),
            ("\"me@host\" is no server", "\"***@host\" is no server"),
            ("nothing to hide", "nothing to hide"),
            ("", ""),
        ] {
            assert_eq!(without_userinfo(text), clean);
        }
    }
}
