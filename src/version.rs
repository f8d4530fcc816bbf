//! What is running: shown by `--version`, in the metrics, in reports and in dead letters.

/// Version of the program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// First seven digits of the commit it is built from; `None` in debug builds and in builds from
/// a tree without history.
pub const COMMIT: Option<&str> = option_env!("CCX_BUILD_COMMIT");

/// Version of the rules. They are compiled in, so it moves with the program's.
pub const RULES_VERSION: &str = env!("CARGO_PKG_VERSION");
