//! The command line: which commands there are, what they take, and what they need before they
//! start.
//!
//! Output goes to standard output, everything else to standard error, but for `run`, whose output
//! is its log. Each command ends with an [`Exit`]; only `main.rs` ends the process.

mod analyze;
mod check;
mod connect;
mod health;
mod redrive;
mod rules;
mod text;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Args, Parser, Subcommand, ValueEnum};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use self::text::Style;
use crate::config::{Config, Env, File, Problems};
use crate::engine;
use crate::error::{Class, Reason};
use crate::exit::Exit;
use crate::logging::{self, Output};
use crate::shutdown::{self, Shutdown};
use crate::version::{COMMIT, RULES_VERSION, VERSION};
use crate::worker;

/// Evaluates Insights rules over OpenShift archives that are announced on Kafka.
#[derive(Debug, Parser)]
#[command(name = "ccx-data-pipeline", version = VERSION_LINE.as_str())]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The worker: from announcements on Kafka to results on Kafka
    Run(ConfigFile),
    /// Archives to reports, without Kafka
    Analyze(Analyze),
    /// Every rule: name, error keys, what it detects, files it reads
    Rules(Rules),
    /// Validate the configuration and print what is in force, without secrets
    Check(Check),
    /// Ask a running worker whether it is healthy
    Health(ConfigFile),
    /// Send dead letters to the incoming topic again
    ///
    /// Takes dead letters in their order, from where the last run ended up to the end that the
    /// topic has when this run begins, and sends each to the incoming topic as it was: key, value
    /// and headers, without those that tell of the failure. Its time is that of the redrive, since
    /// consumer.max_record_age would pass over an old one.
    ///
    /// How far it came is kept in the consumer group GROUP-redrive, with --reason in a group of
    /// its own, GROUP-redrive-REASON: without --reason later, those are sent once more. A run that
    /// was ended may repeat its last few dead letters; none is passed over. Runs at the same time
    /// share the partitions. Stubs, whose value was too large to keep, are counted and left.
    ///
    /// Ends with 1 before a dead letter that the incoming topic refuses, with 69 when no broker
    /// answers.
    Redrive(Redrive),
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// Configuration file; config.toml in the working directory if there is one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What `analyze` takes.
#[derive(Debug, Args)]
struct Analyze {
    /// Configuration file, for its sections engine and logging; none is read by default
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Form of the output; json: one object a line and archive
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    format: OutputFormat,
    /// Run every rule, whatever its profile, and list rules that pass
    #[arg(long)]
    all_rules: bool,
    /// Time that rules take for the present, in RFC 3339; otherwise when the archive was gathered
    #[arg(long, value_name = "TIME", value_parser = rfc3339)]
    reference_time: Option<OffsetDateTime>,
    /// Archives, directories of archives, or - for standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// What `rules` takes.
#[derive(Debug, Args)]
struct Rules {
    /// Form of the output; json: one array
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    format: OutputFormat,
    /// Write what users read of each rule into a new directory instead, as the content service
    /// takes it
    #[arg(long, value_name = "DIR", conflicts_with = "format")]
    content: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Check {
    #[command(flatten)]
    file: ConfigFile,
    /// Also ask the brokers for topics and permissions
    #[arg(long)]
    connect: bool,
}

/// What `redrive` takes.
#[derive(Debug, Args)]
struct Redrive {
    #[command(flatten)]
    file: ConfigFile,
    /// Only dead letters with this reason
    #[arg(long, value_name = "REASON", value_parser = failure)]
    reason: Option<Reason>,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// List topic, partition, offset and reason of each instead; nothing is sent or committed
    #[arg(long)]
    dry_run: bool,
}

/// For whom output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

static VERSION_LINE: LazyLock<String> = LazyLock::new(|| {
    let commit = COMMIT.unwrap_or("unknown");
    format!("{VERSION} (commit {commit}, rules {RULES_VERSION})")
});

/// Does what the command line asks for.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    logging::log_panics();
    if let Err(error) = shutdown::outlive_file_limits() {
        return without_handler(&error);
    }
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let exit = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Done
            };
            // Help and version go to standard output; if nobody reads it, nobody misses it.
            let _ = error.print();
            return exit;
        }
    };
    let done = match arguments.command {
        Command::Run(file) => work(&file),
        Command::Analyze(arguments) => analyze_archives(&arguments),
        Command::Rules(arguments) => Ok(rules::run(&arguments)),
        Command::Check(arguments) => {
            load(&arguments.file).and_then(|config| check::run(&config, arguments.connect))
        }
        Command::Health(file) => load(&file).map(|config| health::run(&config)),
        Command::Redrive(arguments) => redrive_dead_letters(&arguments),
    };
    done.unwrap_or_else(|problems| {
        tell_problems(&problems);
        Exit::Configuration
    })
}

fn work(file: &ConfigFile) -> Result<Exit, Problems> {
    // Before anything else: a signal that comes sooner ends the process without an answer, and as
    // the first process of a container it would be lost.
    let shutdown = match Shutdown::on_signals() {
        Ok(shutdown) => shutdown,
        Err(error) => return Ok(without_handler(&error)),
    };
    let config = load(file)?;
    config.check_tmp_dir()?;
    let Some(_log) = start_logging(&config, Output::Stdout) else {
        return Ok(Exit::Internal);
    };
    for note in &config.notes {
        log::log!(target: "ccx_data_pipeline::config", note.level, "{}", note.text);
    }
    Ok(worker::start::run(&config, &shutdown))
}

fn analyze_archives(arguments: &Analyze) -> Result<Exit, Problems> {
    let file = match &arguments.config {
        Some(path) => File::Named(path),
        None => File::None,
    };
    let env = Env::of_process();
    let config = Config::load(file, &env, &engine::is_known)?;
    config.check_tmp_dir()?;
    let Some(_log) = start_logging(&config, Output::Stderr) else {
        return Ok(Exit::Internal);
    };
    let style = if io::stdout().is_terminal() && !env.refuses_colour() {
        Style::Colour
    } else {
        Style::Plain
    };
    Ok(analyze::run(arguments, &config, style))
}

fn redrive_dead_letters(arguments: &Redrive) -> Result<Exit, Problems> {
    let shutdown = match Shutdown::on_signals() {
        Ok(shutdown) => shutdown,
        Err(error) => return Ok(without_handler(&error)),
    };
    let config = load(&arguments.file)?;
    let Some(_log) = start_logging(&config, Output::Stderr) else {
        return Ok(Exit::Internal);
    };
    Ok(redrive::run(arguments, &config, &shutdown))
}

fn without_handler(error: &io::Error) -> Exit {
    tell(&format!("no handler for signals: {error}"));
    Exit::Internal
}

fn load(file: &ConfigFile) -> Result<Config, Problems> {
    let file = match &file.config {
        Some(path) => File::Named(path),
        None => File::Usual,
    };
    Config::load(file, &Env::of_process(), &engine::is_known)
}

fn start_logging(config: &Config, output: Output) -> Option<logging::Guard> {
    match logging::start(&config.logging, output) {
        Ok(guard) => Some(guard),
        Err(error) => {
            tell(&error.to_string());
            None
        }
    }
}

fn tell_problems(problems: &Problems) {
    let number = match problems.len() {
        1 => "1 problem".to_owned(),
        number => format!("{number} problems"),
    };
    tell(&format!("configuration: {number}"));
    for line in problems.lines() {
        let _ = writeln!(io::stderr(), "  {line}");
    }
}

/// One line for the person at the terminal. Where standard error is closed, nobody is there.
fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "ccx-data-pipeline: {line}");
}

/// Writes the output of a command. A reader that has seen enough is no failure.
fn put(output: &str) -> Exit {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(output.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Ok(()) => Exit::Done,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
        Err(error) => {
            tell(&format!("standard output: {error}"));
            Exit::Failure
        }
    }
}

fn rfc3339(text: &str) -> Result<OffsetDateTime, String> {
    // The report says it in UTC, which reaches no further than the last second of the year 9999.
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .and_then(|time| time.checked_to_offset(UtcOffset::UTC))
        .filter(|time| time.year() >= 0)
        .ok_or_else(|| "wants a time like 2021-07-13T07:16:44Z".to_owned())
}

/// A reason that dead letters can have.
fn failure(text: &str) -> Result<Reason, String> {
    let mut failures = Reason::ALL.iter().filter(|r| r.class() != Class::Skip);
    let found = failures.clone().find(|reason| reason.as_str() == text);
    found.copied().ok_or_else(|| {
        let words: Vec<&str> = failures.by_ref().map(|reason| reason.as_str()).collect();
        format!("is none of {}", words.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn reference_times() {
        let time = rfc3339("2021-07-13T07:16:44Z").expect("a time");
        assert_eq!(time.unix_timestamp(), 1_626_160_604);
        for none in [
            "yesterday",
            "9999-12-31T23:59:59-00:01",
            "0000-01-01T00:00:00+00:01",
        ] {
            assert!(rfc3339(none).is_err(), "{none}");
        }
    }

    #[test]
    fn reasons_of_dead_letters() {
        assert_eq!(failure("crash_loop"), Ok(Reason::CrashLoop));
        assert!(failure("too_old").is_err_and(|why| why.contains("not_found, ")));
    }
}
