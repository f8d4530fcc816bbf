//! The environment as a value, so that a test can bring its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// Environment variables as they were when they were taken.
#[derive(Clone, Default)]
pub struct Env(BTreeMap<OsString, OsString>);

impl Env {
    /// Those of this process.
    pub fn of_process() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// Exactly these.
    pub fn of<N: Into<OsString>, V: Into<OsString>>(
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        Self(
            variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }

    /// The value of a variable; `None` when it is not set.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, String> {
        match self.0.get(std::ffi::OsStr::new(name)) {
            None => Ok(None),
            Some(value) => value
                .to_str()
                .map(Some)
                .ok_or_else(|| format!("variable {name} is not UTF-8")),
        }
    }

    /// Names that begin with `prefix`, in order. A name that is not UTF-8 is none of ours.
    pub(super) fn names_from<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .keys()
            .filter_map(|name| name.to_str())
            .filter(move |name| name.starts_with(prefix))
    }

    /// Where temporary files go: `TMPDIR`, else `/tmp`.
    pub(super) fn tmp_dir(&self) -> PathBuf {
        match self.0.get(std::ffi::OsStr::new("TMPDIR")) {
            Some(dir) if !dir.is_empty() => PathBuf::from(dir),
            _ => PathBuf::from("/tmp"),
        }
    }

    /// Whether the user wants no colour: `NO_COLOR` is set to anything.
    pub fn refuses_colour(&self) -> bool {
        let value = self.0.get(std::ffi::OsStr::new("NO_COLOR"));
        value.is_some_and(|value| !value.is_empty())
    }

    /// Names of the proxy variables that are set. They are not obeyed, which is worth a warning.
    pub(super) fn proxies(&self) -> Vec<&'static str> {
        [
            "http_proxy",
            "https_proxy",
            "all_proxy",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
        ]
        .into_iter()
        .filter(|name| {
            self.0
                .get(std::ffi::OsStr::new(name))
                .is_some_and(|value| !value.is_empty())
        })
        .collect()
    }
}

/// Names only: a value may be a password.
impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
