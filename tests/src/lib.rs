//! What the integration tests share: where the servers are that `cargo xtask test` started.
//!
//! A test that uses them carries this attribute, so that a plain `cargo test` names it as ignored
//! rather than failing:
//!
//! ```text
//! #[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
//! ```
//!
//! One that needs a [disk](servers::Disk) which can be full, too:
//!
//! ```text
//! #[cfg_attr(not(all(servers, disks)), ignore = "needs a disk: run `cargo xtask test` as root")]
//! ```
//!
//! A test that stops, kills or reconfigures a server starts one of its own, from [`servers`].

pub mod brokers;
pub mod cases;
pub mod certificates;
pub mod crash;
pub mod database;
pub mod history;
pub mod load;
pub mod messages;
pub mod plans;
pub mod proxy;
pub mod rig;
pub mod topic;

pub use outbox_test_servers as servers;

use anyhow::{Context, Result, ensure};
use std::env;
use std::path::PathBuf;

/// The variable with the URL of PostgreSQL's superuser.
pub const POSTGRES: &str = "OUTBOX_TEST_POSTGRES";

/// The variable with the URL of MariaDB's superuser.
pub const MARIADB: &str = "OUTBOX_TEST_MARIADB";

/// The variable with Kafka's bootstrap address.
pub const KAFKA: &str = "OUTBOX_TEST_KAFKA";

/// The variable with the path of the `diesel` program.
pub const DIESEL: &str = "OUTBOX_TEST_DIESEL";

/// The URL of the superuser of the shared PostgreSQL: `postgres://postgres@127.0.0.1:PORT/postgres`.
///
/// # Errors
///
/// When the tests were not started by `cargo xtask test`.
pub fn postgres_url() -> Result<String> {
    variable(POSTGRES)
}

/// The URL of the superuser of the shared MariaDB: `mysql://root@127.0.0.1:PORT/mysql`.
///
/// # Errors
///
/// When the tests were not started by `cargo xtask test`.
pub fn mariadb_url() -> Result<String> {
    variable(MARIADB)
}

/// The bootstrap address of the shared Kafka: `127.0.0.1:PORT`.
///
/// # Errors
///
/// When the tests were not started by `cargo xtask test`.
pub fn kafka_bootstrap() -> Result<String> {
    variable(KAFKA)
}

/// The path of the `diesel` program.
///
/// # Errors
///
/// When the tests were not started by `cargo xtask test`.
pub fn diesel_program() -> Result<PathBuf> {
    variable(DIESEL).map(PathBuf::from)
}

fn variable(name: &str) -> Result<String> {
    env::var(name).with_context(|| format!("{name} is not set: run `cargo xtask test`"))
}

/// A program of this package. Cargo puts them one directory above its tests, and tells their places to the
/// tests alone.
fn program(name: &str) -> Result<PathBuf> {
    let test = env::current_exe()?;
    let programs = test.ancestors().nth(2).context("a test in a directory")?;
    let program = programs.join(name);
    ensure!(program.is_file(), "{} is not there", program.display());
    Ok(program)
}

/// Makes a test of each function for each database. Those on PostgreSQL and MariaDB need servers.
///
/// ```text
/// fn it_works<D: Database>() -> Result<()> { … }
///
/// outbox_tests::on_each_database!(fn: it_works);
/// ```
///
/// `async fn:` makes tests of async functions.
#[macro_export]
macro_rules! on_each_database {
    (fn: $($test:ident),+ $(,)?) => {
        mod sqlite {
            $(
                #[test]
                fn $test() -> anyhow::Result<()> {
                    super::$test::<$crate::database::SqliteFile>()
                }
            )+
        }

        mod postgres {
            $(
                #[test]
                #[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
                fn $test() -> anyhow::Result<()> {
                    super::$test::<$crate::database::Postgres>()
                }
            )+
        }

        mod mariadb {
            $(
                #[test]
                #[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
                fn $test() -> anyhow::Result<()> {
                    super::$test::<$crate::database::MariaDb>()
                }
            )+
        }
    };
    (async fn: $($test:ident),+ $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test]
                async fn $test() -> anyhow::Result<()> {
                    super::$test::<$crate::database::SqliteFile>().await
                }
            )+
        }

        mod postgres {
            $(
                #[tokio::test]
                #[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
                async fn $test() -> anyhow::Result<()> {
                    super::$test::<$crate::database::Postgres>().await
                }
            )+
        }

        mod mariadb {
            $(
                #[tokio::test]
                #[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
                async fn $test() -> anyhow::Result<()> {
                    super::$test::<$crate::database::MariaDb>().await
                }
            )+
        }
    };
}
