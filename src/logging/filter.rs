//! Which lines are logged: a level for all, and levels of modules.

use std::fmt;

use log::{Level, LevelFilter};

use super::format::short;

/// Modules of crates that log URLs below this level.
const TALKATIVE: [&str; 3] = ["ureq", "ureq_proto", "rustls"];

/// Levels, as in `info,kafka=debug`. A module's level counts for the modules in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    all: LevelFilter,
    /// Longest name first, so that the first that fits is the nearest.
    modules: Vec<(String, LevelFilter)>,
}

/// `info`.
impl Default for Filter {
    fn default() -> Self {
        Self {
            all: LevelFilter::Info,
            modules: Vec::new(),
        }
    }
}

impl Filter {
    /// Reads `LEVEL`, `MODULE=LEVEL` and lists of these. Modules of this program are named
    /// without the program; others with their crate. Without a level for all, it is `info`.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut all = None;
        let mut modules: Vec<(String, LevelFilter)> = Vec::new();
        for part in text.split(',').map(str::trim) {
            match part.split_once('=') {
                None if all.is_some() => {
                    return Err(format!("{text:?} has two levels for all modules"));
                }
                None => all = Some(level(part)?),
                Some((module, word)) => {
                    let module = module.trim();
                    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
                    if module.is_empty() || !module.chars().all(legal) {
                        return Err(format!("{module:?} is no name of a module"));
                    }
                    let module = short(module).to_owned();
                    if modules.iter().any(|(other, _)| *other == module) {
                        return Err(format!("{text:?} has two levels for {module}"));
                    }
                    modules.push((module, level(word.trim())?));
                }
            }
        }
        modules.sort_by_key(|(module, _)| std::cmp::Reverse(module.len()));
        Ok(Self {
            all: all.unwrap_or(LevelFilter::Info),
            modules,
        })
    }

    /// Whether a line of this target and level is wanted.
    pub(super) fn allows(&self, target: &str, level: Level) -> bool {
        let target = short(target);
        let configured = self
            .modules
            .iter()
            .find(|(module, _)| is_in(target, module))
            .map_or(self.all, |(_, level)| *level);
        let talkative = TALKATIVE.iter().any(|name| is_in(target, name));
        level <= configured && (!talkative || level <= Level::Warn)
    }

    /// The most that any module may say.
    pub(super) fn most(&self) -> LevelFilter {
        let levels = self.modules.iter().map(|(_, level)| *level);
        levels.fold(self.all, Ord::max)
    }
}

fn is_in(target: &str, module: &str) -> bool {
    target
        .strip_prefix(module)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn level(word: &str) -> Result<LevelFilter, String> {
    word.parse()
        .map_err(|_| format!("{word:?} is no level: off, error, warn, info, debug or trace"))
}

/// The form that [`Filter::parse`] reads.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.all.as_str().to_ascii_lowercase())?;
        for (module, level) in &self.modules {
            write!(f, ",{module}={}", level.as_str().to_ascii_lowercase())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_module_decides() {
        let filter = Filter::parse("warn, kafka=debug,kafka::fetch=off").unwrap();
        for (target, level, wanted) in [
            ("ccx_data_pipeline::worker", Level::Info, false),
            ("ccx_data_pipeline::worker", Level::Warn, true),
            ("ccx_data_pipeline::kafka", Level::Debug, true),
            ("ccx_data_pipeline::kafka::group", Level::Debug, true),
            ("ccx_data_pipeline::kafka::group", Level::Trace, false),
            ("ccx_data_pipeline::kafka::fetch", Level::Error, false),
            ("ccx_data_pipeline::kafkaesque", Level::Info, false),
            ("tiny_http", Level::Warn, true),
        ] {
            assert_eq!(filter.allows(target, level), wanted, "{target} {level}");
        }
        assert_eq!(filter.most(), LevelFilter::Debug);
        assert_eq!(Filter::parse(&filter.to_string()), Ok(filter));
    }

    #[test]
    fn what_is_no_level_is_refused() {
        for bad in [
            "",
            "loud",
            "info,debug",
            "kafka=",
            "=info",
            "a b=info",
            "a=info,a=warn",
            "info,",
        ] {
            assert!(Filter::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Filter::parse("kafka=debug").unwrap().all, LevelFilter::Info);
    }
}
