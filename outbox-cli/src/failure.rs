//! How a command fails, and what the process says then.

use std::fmt;
use std::process::ExitCode;

use outbox::store::{StoreError, StoreErrorKind};

/// The codes with which the program ends, for `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
    0  all went well; after a signal: what was in flight was settled
    1  it failed while it ran, or found something wrong
    2  the command or the settings are wrong
    3  the database can't be used as it is: no tables, a standby, read-only
  130  a second signal ended it at once";

/// The code after a second signal: what shells give a program that SIGINT ended.
pub(crate) const INTERRUPTED: u8 = 130;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command can't be done as it was given.
    Usage(String),
    /// Settings are wrong: all that is.
    Settings(Vec<String>),
    /// The database can't be used as it is.
    Database(String),
    /// Anything else.
    Failed(String),
    /// A second signal came.
    Interrupted(String),
    /// Whoever read what it printed has seen enough, as `head` has: it ends, and nothing is wrong.
    Unread,
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Unread => 0,
            Self::Failed(_) => 1,
            Self::Usage(_) | Self::Settings(_) => 2,
            Self::Database(_) => 3,
            Self::Interrupted(_) => INTERRUPTED,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text)
            | Self::Database(text)
            | Self::Failed(text)
            | Self::Interrupted(text) => f.write_str(text),
            Self::Unread => f.write_str("nobody reads on"),
            Self::Settings(problems) => match problems.as_slice() {
                [problem] => f.write_str(problem),
                problems => {
                    write!(f, "{} settings are wrong:", problems.len())?;
                    for problem in problems {
                        write!(f, "\n  - {problem}")?;
                    }
                    Ok(())
                }
            },
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error.kind() {
            StoreErrorKind::Fatal => Self::Database(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        // The driver tells what failed; why stands in its source.
        let why = std::error::Error::source(&error).map(|why| format!(": {why}"));
        Self::Failed(format!("the database: {error}{}", why.unwrap_or_default()))
    }
}
