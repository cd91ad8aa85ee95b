//! Settings: where they come from, and what is refused.

use std::fs;

use anyhow::Result;

use crate::program::{end, outbox};

const URL: &str = "postgres://shop@127.0.0.1:1/shop";

#[test]
fn help_tells_the_exit_codes_and_the_settings() -> Result<()> {
    let help = end(outbox(["--help"]))?.success()?;
    for expected in ["Exit codes", "130", "run", "OUTBOX_DATABASE_URL_FILE"] {
        assert!(help.contains(expected), "{expected}: {help}");
    }
    let help = end(outbox(["run", "--help"]))?.success()?;
    for expected in [
        "--database-url",
        "--kafka <NAME=VALUE>",
        "--lease",
        "[default: 15s]",
    ] {
        assert!(help.contains(expected), "{expected}: {help}");
    }
    Ok(())
}

#[test]
fn completions_are_printed() -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        let script = end(outbox(["completions", shell]))?.success()?;
        assert!(script.contains("database-url"), "{shell}");
    }
    Ok(())
}

/// Whatever is wrong, wherever it stands, is told in one go.
#[test]
fn all_that_is_wrong_is_told_at_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("outbox.toml");
    fs::write(
        &file,
        "batchsize = 7\ncompletion = 'archiv'\nmax-connections = [1]\n\
         [kafka]\nlinger.ms = 'soon'\ncompresion.type = 'lz4'\n",
    )?;
    let mut command = outbox(["run", "--lease", "a while", "--name", "shop"]);
    command
        .args(["--max-conections", "3", "--batch=7"])
        .env("OUTBOX_CONFIG", &file)
        .env("OUTBOX_POLL_INTERVALL", "1s")
        .env("OUTBOX_BATCH_SIZE", "0")
        .env("OUTBOX_LISTEN_URL_FILE", folder.path().join("missing"))
        .env("OUTBOX_KAFKA_TRANSACTIONAL_ID", "x");
    let text = end(command)?.failure(2)?;
    for expected in [
        "15 settings are wrong",
        "`--max-conections` is no flag; did you mean `--max-connections`?",
        "`--batch` is no flag",
        "`batchsize` in",
        "did you mean `batch-size`?",
        "did you mean `archive`?",
        "`max-connections` in",
        "`kafka.linger.ms` in",
        "`kafka.compresion.type` in",
        "did you mean `compression.type`?",
        "`--lease` is \"a while\"",
        "`--name` is set, but has no effect",
        "did you mean `OUTBOX_POLL_INTERVAL`?",
        "`OUTBOX_BATCH_SIZE` is \"0\"",
        "`OUTBOX_LISTEN_URL_FILE` names a file",
        "`OUTBOX_KAFKA_TRANSACTIONAL_ID`",
        "no database is given",
        "no brokers are given",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    Ok(())
}

#[test]
fn what_cannot_be_together_is_refused() -> Result<()> {
    let refused = |arguments: &[&str], expected: &str| -> Result<()> {
        let mut command = outbox(["run", "--database-url", URL, "--brokers", "127.0.0.1:1"]);
        command.args(arguments);
        let text = end(command)?.failure(2)?;
        assert!(text.contains(expected), "{expected}: {text}");
        Ok(())
    };
    refused(&["--delivery", "exactly-once"], "needs `name` too")?;
    refused(&["--name", "shop"], "`delivery` is \"exactly-once\"")?;
    refused(&["--completion", "archive"], "needs `retention` too")?;
    refused(&["--retention", "72h"], "`completion` is \"archive\"")?;
    refused(
        &["--on-rejection", "dead-letter-topic"],
        "needs `dead-letter-topic` too",
    )?;
    refused(
        &["--on-rejection", "halt", "--attempts", "3"],
        "`on-rejection` is \"park\"",
    )?;
    refused(&["--lease", "1s"], "too short")?;
    refused(&["--topics", ","], "`topics` names none")?;
    refused(&["--topics", "orders,no topic"], "\"no topic\"")?;
    refused(&["--batch-size", "9000"], "no batch could be full")?;
    let lower = [
        "--kafka",
        "acks=1",
        "--delivery",
        "exactly-once",
        "--name",
        "shop",
    ];
    refused(&lower, "excludes exactly-once")?;
    // A name that nobody knows does not hide what excludes each other.
    let mut command = outbox([
        "run",
        "--database-url",
        URL,
        "--brokers",
        "b:1",
        "--lease",
        "1s",
    ]);
    command.env("OUTBOX_LEESE", "15s");
    let text = end(command)?.failure(2)?;
    assert!(
        text.contains("OUTBOX_LEESE") && text.contains("too short"),
        "{text}"
    );
    Ok(())
}

/// Each source gives a value that is refused in its own name; the first one is the one that counts.
#[test]
fn flags_come_before_variables_and_these_before_the_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("outbox.toml");
    fs::write(&file, "lease = 'x'\ngrace = 'x'\npoll-interval = 'x'\n")?;
    let mut command = outbox([
        "run",
        "--database-url",
        URL,
        "--brokers",
        "b:1",
        "--lease",
        "y",
    ]);
    command
        .arg("--config")
        .arg(&file)
        .env("OUTBOX_LEASE", "z")
        .env("OUTBOX_GRACE", "z");
    let text = end(command)?.failure(2)?;
    for expected in [
        "3 settings",
        "`--lease`",
        "`OUTBOX_GRACE`",
        "`poll-interval` in",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    Ok(())
}

#[test]
fn a_secret_and_its_file_are_not_both_taken() -> Result<()> {
    let mut command = outbox(["run", "--brokers", "b:1"]);
    command
        .env("OUTBOX_DATABASE_URL", URL)
        .env("OUTBOX_DATABASE_URL_FILE", "/dev/null");
    let text = end(command)?.failure(2)?;
    assert!(text.contains("both set"), "{text}");
    Ok(())
}

/// Whatever goes wrong with a secret, it is in nothing that is printed.
#[test]
fn secrets_are_never_shown() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let write = |name: &str, content: &str| -> Result<String> {
        let path = folder.path().join(name);
        fs::write(&path, content)?;
        Ok(path.display().to_string())
    };
    let broken = write("broken.toml", "database-url = \"postgres://u:canary@h/db\n")?;
    let unended = write("unended.toml", "[kafka]\nsasl.password = 'canary\n")?;
    let typed = write(
        "typed.toml",
        "database-url = ['postgres://u:canary@h/db']\n",
    )?;
    let misnamed = write(
        "misnamed.toml",
        "databaseurl = 'postgres://u:canary@h/db'\n",
    )?;
    let secret = write("secret", "postgres//u:canary@h/db?sslmode=require\n")?;
    let flags: [&[&str]; 19] = [
        &[
            "run",
            "--database-url",
            "postgres//u:canary@h/db?sslmode=require",
        ],
        &["run", "--database-url", "postgres://u:canary@h:port/db"],
        &["run", "--database-url", "postgres://u:canary"],
        &["run", "--database-url", "host=h passwort=canary"],
        &["run", "postgres://u:canary@h/db"],
        &["run", "--database-ulr", "postgres://u:canary@h/db"],
        &["run", "--database-ulr=postgres://u:canary@h/db"],
        &["run", "-canary"],
        &["status", "--database-ulr", "postgres://u:canary@h/db"],
        &["status", "postgres://u:canary@h/db"],
        &["parked", "show", "postgres://u:canary@h/db"],
        &["run", "--kafka", "canary"],
        &["run", "--kafka", "sasl.pasword=canary"],
        &["run", "--kafka", "ssl.key.pem=canary"],
        &[
            "run",
            "--kafka",
            "sasl.password=canary",
            "--kafka",
            "sasl.mechanism=no",
        ],
        &["run", "--config", &broken],
        &["run", "--config", &unended],
        &["run", "--config", &typed],
        &["run", "--config", &misnamed],
    ];
    for arguments in flags {
        let mut command = outbox([]);
        command.args(arguments);
        let ended = end(command)?;
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(
            !ended.all().contains("canary"),
            "{arguments:?}: {}",
            ended.all()
        );
    }
    for (name, value) in [
        (
            "OUTBOX_DATABASE_URL",
            "postgres//u:canary@h/db?sslmode=require",
        ),
        ("OUTBOX_DATABASE_URI", "postgres://u:canary@h/db"),
        ("OUTBOX_DATABASE_URL_FILE", secret.as_str()),
        ("OUTBOX_KAFKA_SASL_PASWORD", "canary"),
    ] {
        let mut command = outbox(["run", "--brokers", "b:1"]);
        let ended = end({
            command.env(name, value);
            command
        })?;
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(!ended.all().contains("canary"), "{name}: {}", ended.all());
    }
    Ok(())
}
